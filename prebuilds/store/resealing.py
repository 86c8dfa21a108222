"""Encrypts anew what an older state key has sealed, and counts what each key is still needed for.

It works on one row at a time, by a statement that changes a value only while it is as it was read. So it runs beside
workers, several times at once, and goes on after it was killed: a row is found by not being sealed by the current key.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.settings.sealed_states import key_of_state, rewrite_state
from prebuilds.settings.sealing import KeyRing
from prebuilds.settings.state_key import StateKeyUnusable
from prebuilds.store.events import record_event

BATCH = 200
WINDOW = 5000
"""Builds that one statement looks at. Few have a state, and no index finds these."""
WAITING, CLAIMS, STATES, REQUEST_KEY = "waiting", "claims", "states", "request_key"

# Rows are read in the order of their keys, each only once: a value that no key opens stays unchanged.
# Waiting claims are read first, since a hand-over may move a value from there to `claim_secrets`, which is read later.
FIND = {
    WAITING: text("""
        SELECT claim_id AS row, secrets AS sealed FROM claim_queue
         WHERE secrets IS NOT NULL AND secrets ->> 'key' IS DISTINCT FROM :key AND claim_id > :after
         ORDER BY claim_id LIMIT :limit
    """),
    CLAIMS: text("""
        SELECT workspace_id::text AS row, sealed FROM claim_secrets
         WHERE sealed ->> 'key' IS DISTINCT FROM :key AND workspace_id::text > :after
         ORDER BY workspace_id::text LIMIT :limit
    """),
}
RESEAL = {
    WAITING: text("""
        UPDATE claim_queue SET secrets = CAST(:new AS jsonb)
         WHERE claim_id = :row AND secrets = CAST(:before AS jsonb)
    """),
    CLAIMS: text("""
        UPDATE claim_secrets SET sealed = CAST(:new AS jsonb)
         WHERE workspace_id = CAST(:row AS uuid) AND sealed = CAST(:before AS jsonb)
    """),
}
WINDOW_END = text("""
    SELECT id FROM (SELECT id FROM workspace_builds WHERE id > CAST(:after AS uuid) ORDER BY id LIMIT :window) AS part
     ORDER BY id DESC LIMIT 1
""")
IN_WINDOW = """
      FROM workspace_builds
     WHERE id > CAST(:after AS uuid) AND id <= CAST(:end AS uuid)
       AND provisioner_state ->> 'encoding' IN ('zlib+base64', 'zlib+fernet')
       AND provisioner_state ->> 'data' IS NOT NULL
"""
FIND_STATES = text(f"SELECT id {IN_WINDOW} AND provisioner_state ->> 'key' IS DISTINCT FROM :key ORDER BY id")
FIND_UNNAMED = text(f"""
    SELECT id {IN_WINDOW} AND provisioner_state ->> 'encoding' = 'zlib+fernet' AND provisioner_state ->> 'key' IS NULL
""")
COUNT_STATES = text(f"""
    SELECT provisioner_state ->> 'key' AS key, count(*) AS n {IN_WINDOW}
       AND (provisioner_state ->> 'encoding' = 'zlib+base64' OR provisioner_state ->> 'key' IS NOT NULL) GROUP BY 1
""")
READ_STATE = text("SELECT provisioner_state FROM workspace_builds WHERE id = :id")
RESEAL_STATE = text("""
    UPDATE workspace_builds SET provisioner_state = provisioner_state || CAST(:new AS jsonb)
     WHERE id = :id AND provisioner_state ->> 'data' = :before
""")
COUNT_CLAIMS = {
    WAITING: text(
        "SELECT secrets ->> 'key' AS key, count(*) AS n FROM claim_queue WHERE secrets IS NOT NULL GROUP BY 1"
    ),
    CLAIMS: text("SELECT sealed ->> 'key' AS key, count(*) AS n FROM claim_secrets GROUP BY 1"),
    REQUEST_KEY: text("SELECT request_key ->> 'key' AS key, 1 AS n FROM settings WHERE request_key IS NOT NULL"),
}
FIRST_ID = "00000000-0000-0000-0000-000000000000"
Tell = Callable[[str, int], None]


@dataclass(slots=True)
class Resealed:
    """What was done, by kind of row."""

    changed: Counter[str] = field(default_factory=Counter)
    """Values that are sealed by the current key now."""
    unreadable: Counter[str] = field(default_factory=Counter)
    """Values that no key opens, or that are damaged; they stay as they are."""


@dataclass(slots=True)
class KeyUses:
    """How many values of each kind need which key: `uses[key][kind]`. The key None: readable without one."""

    uses: dict[str | None, Counter[str]]
    unknown: int
    """Encrypted states of an earlier release, which none of our keys opens."""


def _tell_nobody(_: str, __: int) -> None:
    pass


async def reseal_claims(engine: AsyncEngine, ring: KeyRing, tell: Tell = _tell_nobody) -> Resealed:
    """Seal every secret of claims by *ring*'s first key, if it is stored readable or sealed by another key.

    Without keys nothing changes.

    Args:
        tell: Called after each batch with a kind of row, and how many of it were changed so far.
    """
    done = Resealed()
    if ring.current is None:
        return done
    for kind, find in FIND.items():
        after = ""
        while True:
            async with engine.connect() as connection:
                batch = {"key": ring.current, "after": after, "limit": BATCH}
                rows = (await connection.execute(find, batch)).all()
            for row in rows:
                try:
                    value = ring.open(row.sealed, kind)
                except StateKeyUnusable:
                    done.unreadable[kind] += 1
                    continue
                change = {"row": row.row, "new": json.dumps(ring.seal(value)), "before": json.dumps(row.sealed)}
                async with engine.begin() as connection:  # a row at a time: a hand-over locks several in another order
                    done.changed[kind] += (await connection.execute(RESEAL[kind], change)).rowcount
            if rows:
                tell(kind, done.changed[kind])
            if len(rows) < BATCH:
                break
            after = rows[-1].row
    return done


async def reseal_states(engine: AsyncEngine, ring: KeyRing, tell: Tell = _tell_nobody) -> Resealed:
    """Do the same with the states that drivers have saved. A driver that saves one meanwhile wins."""
    done = Resealed()
    if ring.current is None:
        return done
    async for window in _windows(engine):
        async with engine.connect() as connection:
            ids = (await connection.scalars(FIND_STATES, window | {"key": ring.current})).all()
        for build_id in ids:
            async with engine.begin() as writing:
                state = await writing.scalar(READ_STATE, {"id": build_id})
                if state is None or state.get("key") == ring.current:
                    continue  # forgotten meanwhile, or done by another one
                try:
                    new = rewrite_state(state, ring)
                except (StateKeyUnusable, ValueError, KeyError):
                    done.unreadable[STATES] += 1
                    continue
                change = {"id": build_id, "new": json.dumps(new), "before": state["data"]}
                done.changed[STATES] += (await writing.execute(RESEAL_STATE, change)).rowcount
        if ids:
            tell(STATES, done.changed[STATES])
    return done


async def count_uses(engine: AsyncEngine, ring: KeyRing) -> KeyUses:
    """Count what each key is needed for. The parts are counted one after the other, not at one instant."""
    uses: dict[str | None, Counter[str]] = defaultdict(Counter)
    unknown = 0
    async with engine.connect() as connection:
        for kind, count in COUNT_CLAIMS.items():
            for row in await connection.execute(count):
                uses[row.key][kind] += row.n
    async for window in _windows(engine):
        async with engine.connect() as connection:
            for row in await connection.execute(COUNT_STATES, window):
                uses[row.key][STATES] += row.n
            for build_id in (await connection.scalars(FIND_UNNAMED, window)).all():
                state: Any = await connection.scalar(READ_STATE, {"id": build_id})
                opener = None if state is None else key_of_state(state, ring)
                if opener is not None:
                    uses[opener][STATES] += 1
                elif state is not None:
                    unknown += 1
    return KeyUses(dict(uses), unknown)


async def record_rotation(engine: AsyncEngine, actor: str, key_id: str, changed: Mapping[str, int]) -> None:
    """Record who had values encrypted anew, by which key, and how many of each kind."""
    async with engine.begin() as connection:
        await record_event(connection, "keys_rotated", actor, data={"key": key_id, **changed})


async def _windows(engine: AsyncEngine) -> AsyncIterator[dict[str, Any]]:
    """Yield the bounds of parts of all builds, in the order of their ids."""
    after = FIRST_ID
    while True:
        async with engine.connect() as connection:
            end = await connection.scalar(WINDOW_END, {"after": after, "window": WINDOW})
        if end is None:
            return
        yield {"after": after, "end": str(end)}
        after = str(end)
