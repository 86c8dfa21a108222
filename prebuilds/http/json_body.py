"""Reads JSON that a caller sends, more strictly than the standard library does."""

from __future__ import annotations

import json
from typing import Any

from prebuilds.api import InvalidInput


def read_json(content: bytes | str) -> Any:
    """Return the value of a JSON text.

    Raises:
        InvalidInput: It is no JSON in UTF-8, such as `NaN`, or an object has a key twice.
    """
    try:
        return json.loads(content, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # the first one also of text that is not UTF-8
        raise InvalidInput.field("body", "must be JSON in UTF-8") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise InvalidInput.field("body", f"has the key {key} twice in one object", "keep one")
            seen.add(key)
    return found


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")
