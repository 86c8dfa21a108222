"""Text from outside cannot act: what would move a cursor, forge a line or turn its order is refused or escaped.

What is ours to refuse (names, reasons, claim ids) is refused, by `check_plain`. What a workspace or a third party says
(log lines, errors, addresses) is escaped, by `escape`: shown, and read as itself. What stands in text already escaped
stays as it is, so that escaping twice does no harm.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

LINES = "\n\t"
"""What text of several lines may have: our own, and a driver's errors."""
VALUES = "\n\r\t"
"""What a parameter's value may have besides: a key file has the line ends of where it was written."""

# C0 and DEL, C1, the marks and overrides of writing direction, the separators of lines and paragraphs, and halves of
# surrogate pairs, which no terminal and no database can be given.
_ACTING = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escape(text: str, *, keep: str = "") -> str:
    """*text* with each character that would act written out, as `\\x1b` or `\\u202e`.

    Args:
        keep: Such characters to be left alone.
    """

    def written(found: re.Match[str]) -> str:
        character = found[0]
        if character in keep:
            return character
        number = ord(character)
        return _SHORT.get(character) or (f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}")

    return _ACTING.sub(written, text)


def escape_all(value: Any, *, keep: str = "") -> Any:
    """*value* with every text in its mappings and lists escaped, keys too."""
    if isinstance(value, str):
        return escape(value, keep=keep)
    if isinstance(value, Mapping):
        return {escape_all(key): escape_all(item, keep=keep) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [escape_all(item, keep=keep) for item in value]
    return value


def check_plain(text: str, *, keep: str = "") -> str:
    """*text*, if nothing in it would act.

    Args:
        keep: Such characters that it may have all the same.
    Raises:
        ValueError: Names the first one, by its code point and place.
    """
    for found in _ACTING.finditer(text):
        if (character := found[0]) in keep:
            continue
        if "\ud800" <= character <= "\udfff":
            raise ValueError("must be Unicode text, without half a surrogate pair")
        raise ValueError(
            f"must not have control characters; remove U+{ord(character):04X}, character {found.start() + 1} of it"
        )
    return text
