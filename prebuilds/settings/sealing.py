"""What the database keeps of a claim's secrets: sealed by the first key of `PREBUILDS_STATE_KEY`, clear without one.

A sealed value is `{"key": ID, "data": TOKEN}`, with a Fernet token of the value's JSON; a clear one is
`{"key": null, "data": VALUE}`. A key's id is a hash of the key, which is random: it tells nothing of the key.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from prebuilds.settings.state_key import VARIABLE, StateKeyUnusable, split_keys

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

Sealed: TypeAlias = dict[str, Any]

ID_CHARS = 16


@dataclass(frozen=True)
class KeyRing:
    """The keys of one process, in order: the first seals, each may open. Without keys, values stay clear."""

    keys: tuple[tuple[str, Fernet], ...] = ()
    """Pairs of id and key."""

    @property
    def current(self) -> str | None:
        """The id of the key that seals; None when there is none."""
        return self.keys[0][0] if self.keys else None

    def seal(self, value: Any) -> Sealed:
        """Seal a value that JSON can express."""
        if not self.keys:
            return {"key": None, "data": value}
        key_id, key = self.keys[0]
        return {"key": key_id, "data": key.encrypt(json.dumps(value).encode()).decode()}

    def open(self, sealed: Sealed, what: str) -> Any:
        """Return what was sealed.

        Args:
            what: What it is, for the message: `the claim parameters of workspace X`.
        Raises:
            StateKeyUnusable: No key of this ring has the id that it was sealed with, or the value is damaged.
        """
        key_id = sealed["key"]
        if key_id is None:
            return sealed["data"]
        key = dict(self.keys).get(key_id)
        if key is None:
            raise StateKeyUnusable(
                f"{what}: encrypted by key {key_id}, which is not in {VARIABLE} of this process; add that key "
                "(after a comma, if there are others) on every claims and provisioner worker"
            )
        from cryptography.fernet import InvalidToken

        try:
            return json.loads(key.decrypt(sealed["data"]))
        except InvalidToken as error:
            raise StateKeyUnusable(f"{what}: damaged in the database; key {key_id} does not open it") from error


@lru_cache(maxsize=8)
def parse_ring(text: str) -> KeyRing:
    """Read keys that are separated by commas; none for an empty text.

    Raises:
        ValueError: Not such keys; the message says how to make one, and repeats nothing of them.
    """
    names = split_keys(text)
    if not names:
        return KeyRing()
    from cryptography.fernet import Fernet

    return KeyRing(tuple((_id_of(name), Fernet(name)) for name in names))


def key_ring() -> KeyRing:
    """The keys of this process's environment."""
    return parse_ring(os.environ.get(VARIABLE, ""))


def _id_of(key: str) -> str:
    return hashlib.sha256(b"prebuilds state key " + base64.urlsafe_b64decode(key)).hexdigest()[:ID_CHARS]
