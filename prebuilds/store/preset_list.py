"""Lists presets as they are defined, with what a claim of each can expect now."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.planning.lead_times import forecast
from prebuilds.planning.policy import EVERYWHERE, Reach
from prebuilds.planning.rules import Rules
from prebuilds.planning.schedule import Window
from prebuilds.planning.snapshot import GlobalSnapshot, Preset, PresetCounts
from prebuilds.planning.state import PoolState, pool_state
from prebuilds.store.outlooks import read_begun, read_measured
from prebuilds.store.snapshots import snapshot_state, snapshot_transaction
from prebuilds.store.templates import find_live_template
from prebuilds.views import PresetInfo
from prebuilds.views.presets import TargetRow, WindowRow

PRESET_DETAILS = text("""
    SELECT p.id, p.is_default, p.claim_parameters, p.limit_reset_at, p.cost_per_hour, p.target,
           coalesce((SELECT jsonb_object_agg(x.name, x.value) FROM preset_parameters x WHERE x.preset_id = p.id), '{}')
               AS parameters
      FROM presets p JOIN templates t ON t.active_version_id = p.template_version_id AND t.deleted_at IS NULL
     WHERE CAST(:template_id AS uuid) IS NULL OR t.id = :template_id
""")


async def list_presets(
    engine: AsyncEngine, rules: Rules, template: str | None = None, reach: Reach = EVERYWHERE
) -> list[PresetInfo]:
    """List the presets of the active versions of live templates, by path. *template* is an id or a path.

    Args:
        reach: The caller's reach; it applies only to *template*.
    Raises:
        TemplateNotFound: No such template, or one of an organization where *reach* has nothing.
    """
    async with snapshot_transaction(engine) as connection:
        only = (await find_live_template(connection, template, reach)).id if template is not None else None
        details = {row.id: row for row in await connection.execute(PRESET_DETAILS, {"template_id": only})}
        snapshot = await snapshot_state(connection, rules)
        found = [(item, _state(item, snapshot)) for item in snapshot.presets if item.preset.id in details]
        waits = await _waits(connection, snapshot, found)
    return [
        _info(
            item.preset,
            state,
            details[item.preset.id],
            waits[item.preset.id],
            paused=item.counts.unexpired_paused,
        )
        for item, state in found
    ]


def _state(item: PresetCounts, snapshot: GlobalSnapshot) -> PoolState:
    return pool_state(item.preset, item.counts, item.history, snapshot)


async def _waits(
    connection: AsyncConnection, snapshot: GlobalSnapshot, presets: Collection[tuple[PresetCounts, PoolState]]
) -> dict[UUID, timedelta | None]:
    """How long a claim of each preset has to wait; None where nothing is known. Only empty pools are looked into."""
    waits: dict[UUID, timedelta | None] = {item.preset.id: timedelta(0) for item, _ in presets}
    empty = [(item, state) for item, state in presets if not state.eligible]
    if not empty:
        return waits
    ids = [item.preset.id for item, _ in empty]
    begun = await read_begun(connection, ids)
    with_standby = [item.preset.id for item, _ in empty if item.preset.standby or item.counts.paused]
    measured = await read_measured(connection, ids, with_standby)
    for item, state in empty:
        preset, took = item.preset, measured[item.preset.id]
        if preset.active and item.counts.unexpired_paused:
            waits[preset.id] = took.promotion
        else:
            found = forecast(state, begun[preset.id], snapshot.taken_at, took, ahead=preset.waiting)
            waits[preset.id] = found.wait
    return waits


def window_rows(preset: Preset) -> list[WindowRow]:
    """Return the windows of a preset's schedule as they are shown, in order."""
    return [WindowRow(**asdict(Window.of(window))) for window in preset.windows]


def _info(preset: Preset, state: PoolState, details: Row[Any], wait: timedelta | None, paused: int) -> PresetInfo:
    expire_after = preset.expire_after
    return PresetInfo(
        preset_id=preset.id,
        organization=preset.organization,
        template=preset.template,
        version=preset.version,
        preset=preset.name,
        active=preset.active,
        instances=preset.base_instances,
        expire_after_seconds=None if expire_after is None else expire_after.total_seconds(),
        default=details.is_default,
        parameters=details.parameters,
        claim_parameters=details.claim_parameters,
        timezone=preset.timezone,
        schedule=window_rows(preset),
        ready_by=preset.ready_by,
        head_start_seconds=preset.early.total_seconds() or None,
        target=None if preset.target is None else TargetRow.model_validate(details.target),
        size=preset.sized,
        cost_per_hour=details.cost_per_hour,
        max_concurrent=preset.max_concurrent,
        last_invalidated_at=preset.last_invalidated_at,
        limit_reset_at=details.limit_reset_at,
        standby=preset.standby,
        size_paused=preset.sized_paused if preset.target is not None else None,
        paused=paused,
        ready=state.eligible,
        starting=state.starting,
        estimated_wait_seconds=None if wait is None else wait.total_seconds(),
    )
