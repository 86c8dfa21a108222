"""The claim's one statement: its arguments and its result. It is run here for a single claim or for several; see
`SharedStatements`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

import asyncpg

from prebuilds.api import NoClaimablePrebuiltWorkspaces
from prebuilds.planning.drills import SPARE_MIN
from prebuilds.store.kept_traces import SETTING

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[Any]"


class ClaimValues(NamedTuple):
    """The arguments of the database functions `decide_claim` and `try_claim`, in their order."""

    claim_id: str
    request_hash: bytes
    preset_id: UUID | None
    organization: str | None
    template: str | None
    preset: str | None
    owner: str
    initiator: str
    name: str
    autostart: str | None
    next_start: datetime | None
    ttl: timedelta | None
    secrets: str | None
    on_empty: str
    enabled: bool
    held: bool | None
    new_workspace_id: UUID | None
    new_build_id: UUID | None
    new_owner: str | None
    run: str
    run_began: datetime
    ends_at: datetime | None
    token: UUID | None
    traceparent: str | None
    """The trace context that the claim's build stores; `decide_claim` reads it from a setting."""


TYPES = (
    *("text", "bytea", "uuid", "text", "text", "text", "text", "text", "text", "text", "timestamptz", "interval"),
    *("jsonb", "text", "boolean", "boolean", "uuid", "uuid", "text", "text", "timestamptz", "timestamptz", "uuid"),
    "text",
)
"""PostgreSQL's types of `ClaimValues`."""


class Decision(NamedTuple):
    """What the statement returns for a claim."""

    answer: str | None
    """JSON; None for a claim that `try_claim` has left undecided."""
    fresh: bool | None
    organization: str | None
    template: str | None
    preset: str | None
    build_open: bool | None


_DECISION = f"SELECT {', '.join(Decision._fields)}"
_AFTER_ID = ", ".join(f"${n}" for n in range(2, len(TYPES)))
CLAIM = f"{_DECISION} FROM decide_claim($1, {_AFTER_ID})"
# Sets the setting from which the claim's build takes its trace. The claim's function needs it, and so is called second.
TRACED_CLAIM = f"""
    {_DECISION} FROM set_config('{SETTING}', ${len(TYPES)}, true) AS traced
      CROSS JOIN LATERAL decide_claim(left(traced, 0) || $1::text, {_AFTER_ID})
"""
# Wraps either statement for a claim with a lease.
BEGIN_LEASE = f"""
    SELECT begin_lease(d.answer, d.fresh, ${{lease}}::interval) AS answer, {", ".join(Decision._fields[1:])}
      FROM ({{claim}}) AS d
"""
LEASED_CLAIM = BEGIN_LEASE.format(claim=CLAIM, lease=len(TYPES))
TRACED_LEASED_CLAIM = BEGIN_LEASE.format(claim=TRACED_CLAIM, lease=len(TYPES) + 1)
# Takes a prebuild only if another one is ready. It locks both, so nobody else can take the other one before this
# statement ends, and two such statements never rely on the same spare prebuild.
SPARE_CLAIM = f"""
    WITH spare AS MATERIALIZED (
        SELECT w.id FROM workspaces w JOIN presets p ON p.id = w.claimable_preset_id
         WHERE p.id = $3 AND NOT is_expired(w.created_at, w.expires_at, p.last_invalidated_at)
         ORDER BY w.created_at, w.id LIMIT {SPARE_MIN} FOR NO KEY UPDATE OF w SKIP LOCKED
    )
    {_DECISION}
      FROM (SELECT count(*)::int AS ready FROM spare) AS seen
     CROSS JOIN LATERAL decide_claim(repeat('', seen.ready) || $1::text, {_AFTER_ID})
     WHERE seen.ready >= {SPARE_MIN} OR EXISTS (SELECT FROM claims WHERE id = $1 AND workspace_id IS NOT NULL)
"""
_COLUMNS = [f"value{n}" for n in range(1, len(TYPES) + 1)]
_ARRAYS = ", ".join(f"${n}::{type_}[]" for n, type_ in enumerate(TYPES, 1))
SHARED_CLAIM = f"""
    SELECT try_claim({", ".join(_COLUMNS)})
      FROM unnest({_ARRAYS}) WITH ORDINALITY AS c ({", ".join(_COLUMNS)}, n) ORDER BY n
"""


async def decide_alone(
    connection: asyncpg.Pool[Any] | Connection, values: ClaimValues, *, lease: timedelta | None = None
) -> Decision:
    """Decide one claim by a statement of its own.

    Args:
        connection: A connection in a transaction; or the pool, for a transaction of its own.
        lease: The lease that begins with the claim; None for no lease.
    """
    traced = values.traceparent is not None
    given: tuple[object, ...] = values if traced else values[:-1]
    if lease is None:
        row = await connection.fetchrow(TRACED_CLAIM if traced else CLAIM, *given)
    else:
        row = await connection.fetchrow(TRACED_LEASED_CLAIM if traced else LEASED_CLAIM, *given, lease)
    assert row is not None  # noqa: S101 - a function returns one row
    return Decision(*row)


async def decide_spare(pool: asyncpg.Pool[Any], values: ClaimValues) -> Decision:
    """Decide one claim by a preset's id that may not take the last ready prebuild.

    Raises:
        NoClaimablePrebuiltWorkspaces: There is no other ready prebuild. Nothing was written.
    """
    row = await pool.fetchrow(SPARE_CLAIM, *values[:-1])
    if row is None:
        why = f"no prebuild of the preset {values.preset_id} can be spared: the last one is a person's"
        raise NoClaimablePrebuiltWorkspaces(why, {"miss_reason": None})
    return Decision(*row)


async def decide_together(pool: asyncpg.Pool[Any], claims: list[ClaimValues]) -> list[Decision]:
    """Decide claims by one statement.

    Returns:
        One decision for each claim, in their order. A decision without an answer means that nothing was written for
        this claim.
    """
    return [Decision(*row[0]) for row in await pool.fetch(SHARED_CLAIM, *zip(*claims, strict=True))]
