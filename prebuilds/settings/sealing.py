"""Seals a claim's secrets for the database by the first key of `PREBUILDS_STATE_KEY`; without a key they stay clear.

A sealed value is `{"key": ID, "data": TOKEN}`, where the token is a Fernet token of the value's JSON. A clear value is
`{"key": null, "data": VALUE}`. A key's id is a hash of the key. Keys are random, so the id reveals nothing of the key.
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
    """The keys of one process. The first key seals, and every key can open. Without keys, values stay clear."""

    keys: tuple[tuple[str, Fernet], ...] = ()
    """Pairs of id and key, in the order of the variable."""

    @property
    def current(self) -> str | None:
        """The id of the key that seals; None when there is no key."""
        return self.keys[0][0] if self.keys else None

    def seal(self, value: Any) -> Sealed:
        """Seal a JSON value. Without keys, the result holds the clear value."""
        if not self.keys:
            return {"key": None, "data": value}
        key_id, key = self.keys[0]
        return {"key": key_id, "data": key.encrypt(json.dumps(value).encode()).decode()}

    def open(self, sealed: Sealed, what: str) -> Any:
        """Return the value that was sealed.

        Args:
            what: A name of the value for the error's message, such as `the claim parameters of workspace X`.
        Raises:
            StateKeyUnusable: The key that sealed the value is not in this ring, or the value is damaged.
        """
        key_id = sealed["key"]
        if key_id is None:
            return sealed["data"]
        key = dict(self.keys).get(key_id)
        if key is None:
            raise StateKeyUnusable(
                f"{what}: encrypted by key {key_id}, which is not in {VARIABLE} of this process",
                remedy="add that key (after a comma, if there are others) on every claims and provisioner worker",
            )
        from cryptography.fernet import InvalidToken

        try:
            return json.loads(key.decrypt(sealed["data"]))
        except InvalidToken as error:
            message = f"{what}: damaged in the database, since key {key_id} does not open it"
            raise StateKeyUnusable(message, remedy="restore the database, or claim another workspace") from error


@lru_cache(maxsize=8)
def parse_key_ring(text: str) -> KeyRing:
    """Read Fernet keys that are separated by commas. An empty text gives a ring without keys.

    Raises:
        ValueError: A key cannot be read. The message says how to make one, and quotes no key.
    """
    keys = split_keys(text)
    if not keys:
        return KeyRing()
    from cryptography.fernet import Fernet

    return KeyRing(tuple((_key_id(key), Fernet(key)) for key in keys))


def environment_key_ring() -> KeyRing:
    """Return the keys of this process's environment."""
    return parse_key_ring(os.environ.get(VARIABLE, ""))


def _key_id(key: str) -> str:
    return hashlib.sha256(b"prebuilds state key " + base64.urlsafe_b64decode(key)).hexdigest()[:ID_CHARS]
