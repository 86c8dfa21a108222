"""How a driver's saved state is written for the database: in base64, or encrypted by the first state key.

It has `encoding` and `data`, and where it is encrypted `key`, the id of the key. What an earlier release encrypted has
no `key`; which one opens it is found by trying.
"""

from __future__ import annotations

import base64
from typing import Any

from prebuilds.settings.sealing import KeyRing
from prebuilds.settings.state_key import VARIABLE, StateKeyUnusable

PLAIN, ENCRYPTED = "zlib+base64", "zlib+fernet"
"""The encodings. The text was compressed before."""


def write_state(packed: bytes, ring: KeyRing) -> dict[str, Any]:
    """Return the members of a state's JSON object that hold *packed*; readable when *ring* has no key."""
    if not ring.keys:
        return {"encoding": PLAIN, "data": base64.b64encode(packed).decode(), "key": None}
    key_id, key = ring.keys[0]
    return {"encoding": ENCRYPTED, "data": key.encrypt(packed).decode(), "key": key_id}


def key_of_state(state: dict[str, Any], ring: KeyRing) -> str | None:
    """Return the id of the key of *ring* that opens an encrypted state; None when none does."""
    from cryptography.fernet import InvalidToken

    for key_id, key in ring.keys:
        try:
            key.decrypt(state["data"])
        except InvalidToken:
            continue
        return key_id
    return None


def rewrite_state(state: dict[str, Any], ring: KeyRing) -> dict[str, Any]:
    """Return the members of `write_state` anew, by *ring*'s first key.

    Raises:
        StateKeyUnusable: No key of *ring* opens it.
        ValueError: It is damaged.
    """
    if state["encoding"] == PLAIN:
        return write_state(base64.b64decode(state["data"], validate=True), ring)
    opener = key_of_state(state, ring)
    if opener is None:
        raise StateKeyUnusable(f"no key in {VARIABLE} opens a saved state")
    return write_state(dict(ring.keys)[opener].decrypt(state["data"]), ring)
