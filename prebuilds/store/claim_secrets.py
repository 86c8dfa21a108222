"""Claims' secrets in the database, which stay from the claim to the workspace's deletion; and the key of the hashes of
claims' requests, which is sealed like them."""

from __future__ import annotations

import json
import secrets
from typing import Any, cast
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.failures.database import reaching
from prebuilds.settings.sealing import KeyRing, Sealed
from prebuilds.settings.state_key import StateKeyUnusable

READ = text("SELECT sealed FROM claim_secrets WHERE workspace_id = :workspace_id")
FORGET = text("DELETE FROM claim_secrets WHERE workspace_id = :workspace_id")

READ_REQUEST_KEY = text("SELECT request_key FROM settings")
REPLACE_REQUEST_KEY = text("""
    UPDATE settings SET request_key = CAST(:new AS jsonb)
     WHERE request_key IS NOT DISTINCT FROM CAST(:before AS jsonb) RETURNING id
""")
FORGET_REQUEST_KEY = text("UPDATE settings SET request_key = NULL")

KEY_LOST = "if that key is lost for good, `prebuilds init --forget-state-key` begins anew without what it sealed"


async def read_claim_secrets(connection: AsyncConnection, workspace_id: UUID) -> Sealed | None:
    """The secrets of the workspace's claim; None when it brought none, or nobody has claimed the workspace."""
    return cast("Sealed | None", await connection.scalar(READ, {"workspace_id": workspace_id}))


async def forget_claim_secrets(connection: AsyncConnection, workspace_id: UUID) -> None:
    """Remove the secrets of the workspace's claim: no later build needs them, or the workspace has another owner."""
    await connection.execute(FORGET, {"workspace_id": workspace_id})


async def load_request_key(engine: AsyncEngine, ring: KeyRing) -> bytes:
    """Read the key of requests' hashes, which *ring*'s first key seals from now on. The first call makes the key.

    Every worker that seals or opens claims' secrets calls this before it serves, so that a process without the
    deployment's key fails here, and not in somebody's build.

    Returns:
        32 bytes.
    Raises:
        StateKeyUnusable: The deployment encrypts, by a key that *ring* does not have.
        StackUnreachable: The database went away.
    """
    with reaching("the key of its secrets was read"):
        return await _load_request_key(engine, ring)


async def _load_request_key(engine: AsyncEngine, ring: KeyRing) -> bytes:
    while True:
        before = await _read_request_key(engine)
        key = secrets.token_hex(32) if before is None else _open_request_key(before, ring)
        if before is not None and (not ring.keys or before["key"] == ring.current):
            return bytes.fromhex(key)
        change = {"new": json.dumps(ring.seal(key)), "before": None if before is None else json.dumps(before)}
        async with engine.begin() as connection:
            if await connection.scalar(REPLACE_REQUEST_KEY, change) is not None:
                return bytes.fromhex(key)
        # Another worker has written a key since the read: that one counts.


async def check_request_key(engine: AsyncEngine, ring: KeyRing) -> str:
    """Say in one sentence how claims' secrets are stored. Changes nothing.

    Raises:
        StateKeyUnusable: The deployment encrypts, by a key that *ring* does not have.
    """
    found = await _read_request_key(engine)
    if found is not None:
        _open_request_key(found, ring)
    if ring.current is None:
        return "claims' secrets are not encrypted in the database: PREBUILDS_STATE_KEY is not set"
    return f"claims' secrets are encrypted in the database, by key {ring.current}"


async def forget_request_key(engine: AsyncEngine) -> None:
    """Remove the key of requests' hashes; the next worker makes a new one. A claim from before that is sent again is
    refused as `ClaimIdReused`."""
    async with engine.begin() as connection:
        await connection.execute(FORGET_REQUEST_KEY)


async def _read_request_key(engine: AsyncEngine) -> Sealed | None:
    async with engine.connect() as connection:
        return cast("Sealed | None", await connection.scalar(READ_REQUEST_KEY))


def _open_request_key(sealed: Sealed, ring: KeyRing) -> str:
    try:
        found: Any = ring.open(sealed, "this deployment's secrets are not readable here")
    except StateKeyUnusable as error:
        raise StateKeyUnusable(error.message, remedy=f"{error.remedy}, or {KEY_LOST}") from error
    return str(found)
