"""Claims' secrets in the database, which stay from the claim to the workspace's deletion; and the key of the hashes of
claims' requests, which is sealed like them."""

from __future__ import annotations

import json
import logging
import secrets
from typing import Any, cast
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.failures.database import reaching
from prebuilds.settings.sealing import KeyRing, Sealed
from prebuilds.settings.state_key import StateKeyUnusable

logger = logging.getLogger(__name__)

READ = text("SELECT sealed FROM claim_secrets WHERE workspace_id = :workspace_id")
FORGET = text("DELETE FROM claim_secrets WHERE workspace_id = :workspace_id")

READ_REQUEST_KEY = text("SELECT request_key FROM settings")
REPLACE_REQUEST_KEY = text("""
    UPDATE settings SET request_key = CAST(:new AS jsonb)
     WHERE request_key IS NOT DISTINCT FROM CAST(:before AS jsonb) RETURNING id
""")
FORGET_REQUEST_KEY = text("UPDATE settings SET request_key = NULL")

RESEAL_BATCH = 200
# In the order of the rows' keys: a value that no key opens stays as it is, and must not be read again and again.
SEALED_OTHERWISE = {
    "claim_secrets": text("""
        SELECT workspace_id::text AS row, sealed FROM claim_secrets
         WHERE sealed ->> 'key' IS DISTINCT FROM :key AND workspace_id::text > :after
         ORDER BY workspace_id::text LIMIT :limit
    """),
    "claim_queue": text("""
        SELECT claim_id AS row, secrets AS sealed FROM claim_queue
         WHERE secrets IS NOT NULL AND secrets ->> 'key' IS DISTINCT FROM :key AND claim_id > :after
         ORDER BY claim_id LIMIT :limit
    """),
}
# Changes a value only while it is as it was read: a deletion or a decision meanwhile wins.
RESEAL = {
    "claim_secrets": text("""
        UPDATE claim_secrets SET sealed = CAST(:new AS jsonb)
         WHERE workspace_id = CAST(:row AS uuid) AND sealed = CAST(:before AS jsonb)
    """),
    "claim_queue": text("""
        UPDATE claim_queue SET secrets = CAST(:new AS jsonb)
         WHERE claim_id = :row AND secrets = CAST(:before AS jsonb)
    """),
}
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


async def reseal_all(engine: AsyncEngine, ring: KeyRing) -> int:
    """Seal every secret of claims by *ring*'s first key, if it is stored readable or sealed by another key.

    A value that no key of *ring* opens stays as it is. Without keys nothing changes.

    Returns:
        How many values were sealed anew.
    """
    changed = left = 0
    if ring.current is None:
        return 0
    for table, find in SEALED_OTHERWISE.items():
        after = ""
        while True:
            async with engine.connect() as connection:
                batch = {"key": ring.current, "after": after, "limit": RESEAL_BATCH}
                rows = (await connection.execute(find, batch)).all()
            for row in rows:
                try:
                    value = ring.open(row.sealed, table)
                except StateKeyUnusable:
                    left += 1
                    continue
                change = {"row": row.row, "new": json.dumps(ring.seal(value)), "before": json.dumps(row.sealed)}
                async with engine.begin() as connection:  # a row at a time: a hand-over locks several in another order
                    changed += (await connection.execute(RESEAL[table], change)).rowcount
            if len(rows) < RESEAL_BATCH:
                break
            after = rows[-1].row
    if changed or left:
        logger.info("Claims' secrets are encrypted anew", extra={"changed": changed, "unreadable": left})
    return changed


async def _read_request_key(engine: AsyncEngine) -> Sealed | None:
    async with engine.connect() as connection:
        return cast("Sealed | None", await connection.scalar(READ_REQUEST_KEY))


def _open_request_key(sealed: Sealed, ring: KeyRing) -> str:
    try:
        found: Any = ring.open(sealed, "this deployment's secrets are not readable here")
    except StateKeyUnusable as error:
        raise StateKeyUnusable(error.message, remedy=f"{error.remedy}, or {KEY_LOST}") from error
    return str(found)
