"""Masking of a claim's parameters in log lines, errors and quoted output."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable

MASK = "(sensitive value)"
MASKED_LENGTH_MIN = 4
"""Shorter values are not masked: they would hide half of every line, and are no secrets."""
HTML_ESCAPES = (("&", "\\u0026"), ("<", "\\u003c"), (">", "\\u003e"))


def masker(secrets: Iterable[str]) -> Callable[[str], str]:
    """Return a function that replaces each of *secrets* in a text by `MASK`.

    It finds a secret as it is, with collapsed white space (as in messages), each of its lines alone (as in logs), and
    quoted in JSON, also by Go, which escapes HTML's special characters.
    """
    forms = {form for secret in secrets for form in _forms(secret) if len(form) >= MASKED_LENGTH_MIN}
    if not forms:
        return lambda text: text
    ordered = sorted(forms, key=lambda form: (-len(form), form))  # a whole secret before its parts
    pattern = re.compile("|".join(map(re.escape, ordered)))
    return lambda text: pattern.sub(MASK, text)


def _forms(secret: str) -> list[str]:
    quoted = json.dumps(secret, ensure_ascii=False)[1:-1]
    of_go = quoted
    for character, escape in HTML_ESCAPES:
        of_go = of_go.replace(character, escape)
    lines = [line.strip() for line in secret.splitlines()]
    return [secret, secret.strip(), " ".join(secret.split()), *lines, quoted, of_go, json.dumps(secret)[1:-1]]
