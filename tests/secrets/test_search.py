"""The short version of the search; `python -m tests.secrets` makes it for each driver, with and without keys."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path

import pytest

from tests.secrets.__main__ import PAGE
from tests.secrets.search import documented, has
from tests.secrets.story import apply, stack_with, tell

SECRET = "hunter2-0123456789abcdef"


@pytest.mark.parametrize("before", ["", "a", "ab"])
def test_the_search_finds_every_form(before: str) -> None:
    text = f'{before}{{"token": "{SECRET}"}} and more'.encode()
    for written in (text, text.hex().encode(), base64.b64encode(text), base64.urlsafe_b64encode(text)):
        assert has(written, SECRET)
    assert has(b'{"data": "' + base64.b64encode(zlib.compress(text * 9, 6)) + b'"}', SECRET)
    assert not has(text.replace(b"7", b"8").replace(b"r2", b"r3"), SECRET)


@pytest.mark.timeout(300)
def test_with_keys_a_secret_is_only_where_the_documentation_says(tmp_path: Path) -> None:
    with stack_with(tmp_path, keys=True) as (stack, kept):
        apply(stack, "process")
        found = tell(stack, kept, "process")
    assert found.alive == documented(PAGE, "process", keys=True, deleted=False) == {"workspaces/ID/claim.json"}
    assert found.deleted == documented(PAGE, "process", keys=True, deleted=True) == set()
