"""Links that sign a browser in once: the token behind a code, until the code is used or expires.

The row has the token sealed under the code itself, of which only a hash is stored. So whoever reads the table learns no
token, and every server of the deployment takes the code.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from datetime import timedelta

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

LINK_LIFE = timedelta(minutes=10)
"""How long a link signs in: long enough to find it in a terminal."""
CODE_BYTES, NONCE_BYTES = 32, 12

FORGET = text("DELETE FROM sign_in_links WHERE expires_at < now()")
KEEP = text("""
    INSERT INTO sign_in_links (digest, sealed, expires_at) VALUES (:digest, :sealed, now() + CAST(:life AS interval))
""")
TAKE = text("DELETE FROM sign_in_links WHERE digest = :digest RETURNING sealed, expires_at > now() AS good")


async def make_link(engine: AsyncEngine, token: str) -> str:
    """Return a code that stands for a token once, for `LINK_LIFE`."""
    code = secrets.token_urlsafe(CODE_BYTES)
    nonce = os.urandom(NONCE_BYTES)
    sealed = nonce + AESGCM(_derive(b"key", code)).encrypt(nonce, token.encode(), None)
    async with engine.begin() as connection:
        await connection.execute(FORGET)
        await connection.execute(KEEP, {"digest": _derive(b"id", code), "sealed": sealed, "life": LINK_LIFE})
    return code


async def take_link(engine: AsyncEngine, code: str) -> str | None:
    """Return the token that a code stands for, and forget the code; None when it is used, old or unknown."""
    async with engine.begin() as connection:
        row = (await connection.execute(TAKE, {"digest": _derive(b"id", code)})).one_or_none()
    if row is None or not row.good:
        return None
    nonce, sealed = row.sealed[:NONCE_BYTES], row.sealed[NONCE_BYTES:]
    try:
        return AESGCM(_derive(b"key", code)).decrypt(nonce, sealed, None).decode()
    except InvalidTag:
        return None


def _derive(what: bytes, code: str) -> bytes:
    """A hash of the code for one purpose; a plain hash will do, since a code is 256 random bits."""
    return hashlib.sha256(what + b"/" + code.encode()).digest()
