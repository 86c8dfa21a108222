"""Snapshots: the state of pools at one instant, for planning and for people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from sqlalchemy import TextClause
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import PresetNotFound, SnapshotIsolationError
from prebuilds.planning.limits import member_shares
from prebuilds.planning.rollouts import Strategy
from prebuilds.planning.rules import Rules
from prebuilds.planning.snapshot import (
    CreationHistory,
    GenerationRows,
    GlobalSnapshot,
    PresetCounts,
    PresetSnapshot,
)
from prebuilds.store.snapshot_rows import (
    Waiting,
    counts_of,
    history_of,
    named_rows,
    prebuild_of,
    preset_of,
    windows_of,
)
from prebuilds.store.snapshot_statements import (
    COUNT_LATELY,
    COUNT_LATELY_OF,
    COUNT_POOLS,
    COUNT_POOLS_OF,
    COUNT_STANDBY,
    COUNT_WAITING,
    INSTANT,
    NEXT_PASS_NUMBER,
    READ_HISTORIES,
    READ_HISTORIES_IN,
    READ_HISTORY_OF,
    READ_OTHERS,
    READ_POOL,
    READ_PRESET,
    READ_WINDOWS,
    READ_WINDOWS_IN,
    READ_WINDOWS_OF,
)


@asynccontextmanager
async def snapshot_transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Open a connection with a REPEATABLE READ, READ ONLY transaction. Keep it short: a long one slows every claim."""
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        async with connection.begin():
            yield connection


async def _read_snapshot_instant(connection: AsyncConnection) -> Any:
    """Read the instant that all statements of a connection's transaction see, by `INSTANT`.

    Raises:
        SnapshotIsolationError: It is outside a transaction, or its isolation level is below REPEATABLE READ.
    """
    if not connection.in_transaction():
        raise SnapshotIsolationError("a snapshot needs a transaction")
    instant = (await connection.execute(INSTANT)).one()
    if instant.isolation not in ("repeatable read", "serializable"):
        raise SnapshotIsolationError(
            f"a snapshot needs REPEATABLE READ, and this transaction is {instant.isolation.upper()}"
        )
    return instant


async def snapshot_state(connection: AsyncConnection, rules: Rules) -> GlobalSnapshot:
    """Count every preset's pool at one instant.

    Args:
        connection: A connection inside a REPEATABLE READ transaction.
        rules: The deployment's rules. While these switch prebuilds off, no preset is active.
    Raises:
        SnapshotIsolationError: *connection* is not inside such a transaction.
    """
    return await _count_pools(connection, rules, await _read_snapshot_instant(connection))


async def _count_pools(
    connection: AsyncConnection, rules: Rules, instant: Any, organization_id: UUID | None = None
) -> GlobalSnapshot:
    """Count the pools of all presets, or of one organization's; *instant* is the row of `INSTANT`."""
    of = {} if organization_id is None else {"organization_id": organization_id}
    windows = windows_of(await connection.execute(READ_WINDOWS_IN if of else READ_WINDOWS, of))
    waiting = await _count_waiting(connection)
    histories = await connection.execute(READ_HISTORIES_IN if of else READ_HISTORIES, of | _history_values(rules))
    history = {row.preset_id: history_of(row) for row in histories}
    counted = {"enabled": rules.enabled, "retention": rules.failed_retention, **of}
    found = named_rows(await connection.execute(COUNT_POOLS_OF if of else COUNT_POOLS, counted))
    standbys = {row.preset_id: row for row in await connection.execute(COUNT_STANDBY)} if instant.standby else {}
    in_rollout = any(row.rollout_id is not None for row in found)
    lately = await _count_lately(connection, COUNT_LATELY) if in_rollout else {}
    none = CreationHistory()
    return GlobalSnapshot(
        taken_at=instant.taken_at,
        paused=instant.paused,
        rules=rules,
        passes=instant.passes,
        presets=[
            PresetCounts(
                preset_of(row, windows.get(row.id, ()), waiting),
                counts_of(row, standbys.get(row.id)),
                history.get(row.id, none),
                sum(lately.get((row.template_id, row.name), {}).values()) if row.rollout_id is not None else 0,
                lately.get((row.template_id, row.name), {}).get(row.id, 0) if row.rollout_id is not None else 0,
            )
            for row in found
        ],
    )


async def snapshot_preset(connection: AsyncConnection, preset_id: UUID, rules: Rules) -> PresetSnapshot:
    """Read the rows of one preset's pool at one instant.

    Args:
        connection: A connection inside a REPEATABLE READ transaction.
    Raises:
        SnapshotIsolationError: *connection* is not inside a REPEATABLE READ transaction.
        PresetNotFound: No preset has this id.
    """
    return await _read_pool(connection, preset_id, rules, await _read_snapshot_instant(connection))


async def read_preset(connection: AsyncConnection, preset_id: UUID, rules: Rules) -> PresetSnapshot:
    """Read the rows of one preset's pool in a transaction that has locked the preset, so that it cannot grow meanwhile.

    If the organization limits pool members, its other pools are counted, too. The caller has locked that count
    (`prebuilds/store/limits.py`) if it is going to create anything.

    Raises:
        PresetNotFound: No preset has this id.
    """
    return await _read_pool(connection, preset_id, rules, (await connection.execute(INSTANT)).one())


async def _read_pool(connection: AsyncConnection, preset_id: UUID, rules: Rules, instant: Any) -> PresetSnapshot:
    row = (await connection.execute(READ_PRESET, {"preset_id": preset_id, "enabled": rules.enabled})).one_or_none()
    if row is None:
        raise PresetNotFound(f"no preset has the id {preset_id}")
    waiting = await _count_waiting(connection)
    own = await _read_generation(connection, row, rules, waiting)
    others, lately = [], 0
    pool = {"template_id": row.template_id, "name": row.name}
    rollout = own.preset.rollout
    if row.counts_others or (rollout is not None and rollout.policy.strategy is Strategy.SURGE):
        values = pool | {"preset_id": preset_id, "enabled": rules.enabled}
        rows = (await connection.execute(READ_OTHERS, values)).all()
        others = [await _read_generation(connection, other, rules, waiting) for other in rows]
    if row.rollout_id is not None:
        counted = await _count_lately(connection, COUNT_LATELY_OF, pool)
        lately = sum(counted.get((row.template_id, row.name), {}).values())
    share = None
    if row.pool_members is not None:
        new = next((one.preset.id for one in others if one.preset.active), preset_id)
        share = member_shares(await _count_pools(connection, rules, instant, row.organization_id)).get(new)
    return PresetSnapshot(
        taken_at=instant.taken_at,
        paused=instant.paused,
        rules=rules,
        epoch=instant.epoch,
        preset=own.preset,
        prebuilds=own.prebuilds,
        history=own.history,
        share=share,
        others=others,
        lately=lately,
    )


async def _read_generation(connection: AsyncConnection, row: Any, rules: Rules, waiting: Waiting) -> GenerationRows:
    """Read the rows of one preset's pool; *row* has the preset itself."""
    windows = windows_of(await connection.execute(READ_WINDOWS_OF, {"preset_id": row.id}))
    history = await connection.execute(READ_HISTORY_OF, {"preset_id": row.id, **_history_values(rules)})
    prebuilds = await connection.execute(READ_POOL, {"preset_id": row.id})
    return GenerationRows(
        preset=preset_of(row, windows.get(row.id, ()), waiting),
        prebuilds=[prebuild_of(p) for p in named_rows(prebuilds)],
        history=next((history_of(h) for h in history), CreationHistory()),
    )


async def next_pass_number(engine: AsyncEngine) -> int:
    """Take a pass number, which no pass has had before, also not before a restart."""
    async with engine.begin() as connection:
        return int(str(await connection.scalar(NEXT_PASS_NUMBER)))


async def _count_lately(
    connection: AsyncConnection, statement: TextClause, values: dict[str, Any] | None = None
) -> dict[tuple[UUID, str], dict[UUID, int]]:
    """Count the members of each pool that were claimed within the last lead time, by their preset."""
    found: dict[tuple[UUID, str], dict[UUID, int]] = defaultdict(dict)
    for row in await connection.execute(statement, values or {}):
        found[row.template_id, row.name][row.preset_id] = row.lately
    return found


def _history_values(rules: Rules) -> dict[str, Any]:
    return {"hard_limit": rules.failure_hard_limit, "lookback": rules.backoff_lookback}


async def _count_waiting(connection: AsyncConnection) -> Waiting:
    return {(row.template_id, row.preset_name): row.waiting for row in await connection.execute(COUNT_WAITING)}
