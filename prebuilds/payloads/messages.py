"""Validation errors in plain words: pydantic's findings as messages for a person."""

from __future__ import annotations

import re

from pydantic import ValidationError

PLAIN_MESSAGES = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dataclass_exact_type": "must be a mapping",
    "dataclass_type": "must be a mapping",
    "dict_type": "must be a mapping",
    "extra_forbidden": "unknown key; remove it or correct its spelling",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "list_type": "must be a list",
    "mapping_type": "must be a mapping",
    "missing": "is required",
    "model_attributes_type": "must be a mapping",
    "model_type": "must be a mapping",
    "none_required": "must be left out or null",
    "recursion_loop": "refers to itself",
    "set_type": "must be a list",
    "string_type": "must be text; put it in quotes",
    "time_delta_type": "must be a duration such as 90s, 15m, 8h or 2d",
    "tuple_type": "must be a list",
    "url_parsing": "must be an address such as https://host/path",
    "url_scheme": "must begin with http:// or https://",
    "url_type": "must be an address such as https://host/path",
    "uuid_parsing": "must be an id such as 0b8ad3a2-91a6-4f49-9cb4-5a9fdd3f43ab",
}
"""Messages by pydantic's error types. Pydantic's own messages name Python types."""
_SHOULD = re.compile(r"^(Input|String|Value|List|Dictionary|Data|URL) should ")


def plain_message(kind: str, message: str) -> str:
    """Return a pydantic error's message in plain words.

    Args:
        kind: Pydantic's error type, such as `int_parsing`.
        message: Pydantic's own message, which is reworded when `PLAIN_MESSAGES` has no text for *kind*.
    """
    if kind in PLAIN_MESSAGES:
        return PLAIN_MESSAGES[kind]
    text = _SHOULD.sub("must ", message.removeprefix("Value error, "))
    begins_with_a_word = text[1:2].islower() or not text[1:2].isalpha()  # URL keeps its capitals
    return text[:1].lower() + text[1:] if begins_with_a_word else text


def field_messages(error: ValidationError) -> dict[str, str]:
    """Return a message in plain words for each wrong field, by the field's path; `input` stands for the whole input."""
    return {
        ".".join(str(part) for part in item["loc"]) or "input": plain_message(item["type"], item["msg"])
        for item in error.errors(include_url=False, include_context=False)
    }
