"""JSON that a caller sends is read strictly."""

from __future__ import annotations

from typing import Any

import pytest

from prebuilds.api import InvalidInput
from prebuilds.http.json_body import read_json


@pytest.mark.parametrize(("content", "value"), [(b'{"a": {"b": [1]}}', {"a": {"b": [1]}}), ('"\u00e9"', "\u00e9")])
def test_json_is_read_as_its_value(content: bytes | str, value: Any) -> None:
    assert read_json(content) == value


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'{"owner": "carol", "owner": "bob"}', "has the key owner twice in one object"),
        (b'{"a": [{"b": 1, "b": 1}]}', "has the key b twice in one object"),
        (b'{"ttl_seconds": NaN}', "must be JSON in UTF-8"),
        (b"-Infinity", "must be JSON in UTF-8"),
        (b'{"preset": ', "must be JSON in UTF-8"),
        (b"\xff", "must be JSON in UTF-8"),
        (b"[" * 100_000, "must be JSON in UTF-8"),
    ],
)
def test_text_that_is_no_json_or_ambiguous_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_json(content)
    assert refused.value.details["body"].startswith(why)
