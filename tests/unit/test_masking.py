"""A secret is hidden in whatever form a message brings it."""

from __future__ import annotations

import json

import pytest

from prebuilds.provisioners.kit.masking import MASK, masker

KEY = '-----BEGIN KEY-----\n  a\\b<c>&"d\u00e9"\n-----END KEY-----\n'


@pytest.mark.parametrize(
    "form",
    [
        KEY,
        KEY.strip(),
        " ".join(KEY.split()),
        json.dumps(KEY)[1:-1],
        json.dumps(KEY, ensure_ascii=False)[1:-1],
        # As Go writes it.
        '-----BEGIN KEY-----\\n  a\\\\b\\u003cc\\u003e\\u0026\\"d\u00e9\\"\\n-----END KEY-----\\n',
    ],
)
def test_each_form_of_it_is_hidden_whole(form: str) -> None:
    assert masker([KEY])(f"the key {form!s} is none") == f"the key {MASK} is none"


def test_a_log_s_single_line_of_it_is_hidden() -> None:
    masked = masker([KEY])
    assert [masked(f"said: {line.strip()}") for line in KEY.splitlines()] == [f"said: {MASK}"] * 3


def test_the_longest_goes_first_and_the_mask_itself_is_left_alone() -> None:
    assert masker(["hunter", "hunter22", "value"])("hunter22, hunter") == f"{MASK}, {MASK}"


def test_a_value_too_short_to_be_a_secret_is_not_masked() -> None:
    assert masker(["", "no", "red"])("no red door") == "no red door"
    assert masker([])("no red door") == "no red door"
