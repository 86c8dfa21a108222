"""Makes text from outside harmless: characters that move a cursor, forge a line or reverse its order have no effect.

`check_plain` refuses such characters where we can refuse the input (names, reasons, claim ids). `escape` writes them
out in text of workspaces and third parties (log lines, errors, addresses), so that they are shown. Text that is already
escaped stays as it is, so escaping twice does no harm.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

LINES = "\n\t"
"""Characters that text of several lines may contain: our own texts, and a driver's errors."""
VALUES = "\n\r\t"
"""Characters that a parameter's value may contain. The carriage return is for files that were written on Windows, such
as keys."""

# C0 and DEL, C1, the marks and overrides of writing direction, the separators of lines and paragraphs, and halves of
# surrogate pairs, which neither a terminal nor a database accepts.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escape(text: str, *, keep: str = "") -> str:
    """Return *text* with each control character written out, as `\\x1b` or `\\u202e`.

    Args:
        keep: Control characters to leave as they are.
    """

    def write_out(found: re.Match[str]) -> str:
        character = found[0]
        if character in keep:
            return character
        number = ord(character)
        return _SHORT.get(character) or (f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}")

    return _CONTROLS.sub(write_out, text)


def escape_all(value: Any, *, keep: str = "") -> Any:
    """Return *value* with every text in its mappings and lists escaped, keys included.

    Args:
        keep: Control characters to leave as they are; in keys, all are escaped.
    """
    if isinstance(value, str):
        return escape(value, keep=keep)
    if isinstance(value, Mapping):
        return {escape_all(key): escape_all(item, keep=keep) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [escape_all(item, keep=keep) for item in value]
    return value


def check_plain(text: str, *, keep: str = "") -> str:
    """Return *text* if it has no control characters.

    Args:
        keep: Control characters that are allowed.
    Raises:
        ValueError: It has one; the message names the first one by its code point and position.
    """
    for found in _CONTROLS.finditer(text):
        if (character := found[0]) in keep:
            continue
        if "\ud800" <= character <= "\udfff":
            raise ValueError("must be Unicode text, without half a surrogate pair")
        raise ValueError(
            f"must not have control characters; remove U+{ord(character):04X}, character {found.start() + 1} of it"
        )
    return text
