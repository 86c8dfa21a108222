"""Validation errors in plain words: pydantic's findings as messages for a person."""

from __future__ import annotations

import re

from pydantic import ValidationError

PLAIN_MESSAGES = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping",
    "extra_forbidden": "unknown key; remove it or correct its spelling",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "list_type": "must be a list",
    "missing": "is required",
    "model_type": "must be a mapping",
    "recursion_loop": "refers to itself",
    "string_type": "must be text; put it in quotes",
    "time_delta_type": "must be a duration such as 90s, 15m, 8h or 2d",
    "url_parsing": "must be an address such as https://host/path",
    "url_scheme": "must begin with http:// or https://",
    "url_type": "must be an address such as https://host/path",
    "uuid_parsing": "must be an id such as 0b8ad3a2-91a6-4f49-9cb4-5a9fdd3f43ab",
}
"""What pydantic says by the names of Python's types, in a person's words."""
_SHOULD = re.compile(r"^(Input|String|Value|List|Dictionary|Data|URL) should ")


def plain_message(kind: str, message: str) -> str:
    """What pydantic has found, in a person's words.

    Args:
        kind: Its name for what is wrong, such as `int_parsing`.
        message: Its own words, used where there are no better ones.
    """
    if kind in PLAIN_MESSAGES:
        return PLAIN_MESSAGES[kind]
    text = _SHOULD.sub("must ", message.removeprefix("Value error, "))
    begins_with_a_word = text[1:2].islower() or not text[1:2].isalpha()  # URL stays URL
    return text[:1].lower() + text[1:] if begins_with_a_word else text


def field_messages(error: ValidationError) -> dict[str, str]:
    """Each wrong field's path, and what is wrong with it in a person's words."""
    return {
        ".".join(str(part) for part in item["loc"]) or "input": plain_message(item["type"], item["msg"])
        for item in error.errors(include_url=False, include_context=False)
    }
