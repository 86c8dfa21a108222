"""The form of bearer tokens: `pbt_`, the token's id, and a random secret.

The id finds the row; the secret proves the holder. Only the secret's SHA-256 is stored. A slow, salted hash protects
passwords, which people choose and attackers guess. A secret of 256 random bits cannot be guessed however fast the hash
is, and a slow one would cost each request more than a whole claim does.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from uuid import UUID

SECRET_BYTES = 32
_FORM = re.compile(r"pbt_([0-9a-f]{32})_([A-Za-z0-9_-]{43})")  # searches for leaked secrets can look for it


@dataclass(frozen=True, slots=True)
class TokenProof:
    """What a presented token says."""

    id: UUID
    digest: bytes
    """SHA-256 of the presented secret."""

    def matches(self, digest: bytes) -> bool:
        """Whether the stored *digest* is the same; takes as long whether or not it is."""
        return hmac.compare_digest(self.digest, digest)


def new_token(token_id: UUID) -> str:
    """Make a token with a fresh secret."""
    return f"pbt_{token_id.hex}_{secrets.token_urlsafe(SECRET_BYTES)}"


def read_token(token: str) -> TokenProof | None:
    """Read a presented token; None when it does not have a token's form."""
    found = _FORM.fullmatch(token)
    return None if found is None else TokenProof(UUID(found[1]), hashlib.sha256(found[2].encode()).digest())
