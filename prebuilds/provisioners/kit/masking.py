"""What a claim has brought is hidden in whatever a driver tells of: log lines, errors, the end of an output."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable

MASK = "(sensitive value)"
MASKED_LENGTH_MIN = 4
"""Shorter ones would mask half of every line, and are no secrets."""
HTML_ESCAPES = (("&", "\\u0026"), ("<", "\\u003c"), (">", "\\u003e"))


def masker(secrets: Iterable[str]) -> Callable[[str], str]:
    """A function that replaces each of *secrets* in a text, however it came into it.

    As it is; with its white space collapsed, as a message has it; each line of it alone, as a log has it; and as it
    stands between the quotes of JSON, also of Go's, which escapes what HTML minds.
    """
    forms = {form for secret in secrets for form in _forms(secret) if len(form) >= MASKED_LENGTH_MIN}
    if not forms:
        return lambda text: text
    ordered = sorted(forms, key=lambda form: (-len(form), form))  # the whole before its parts
    pattern = re.compile("|".join(map(re.escape, ordered)))
    return lambda text: pattern.sub(MASK, text)


def _forms(secret: str) -> list[str]:
    quoted = json.dumps(secret, ensure_ascii=False)[1:-1]
    of_go = quoted
    for character, escape in HTML_ESCAPES:
        of_go = of_go.replace(character, escape)
    lines = [line.strip() for line in secret.splitlines()]
    return [secret, secret.strip(), " ".join(secret.split()), *lines, quoted, of_go, json.dumps(secret)[1:-1]]
