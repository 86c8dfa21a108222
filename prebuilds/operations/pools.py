"""Pools as a page shows them: everything that an operator looks at, in few readings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote
from uuid import UUID

from prebuilds.failures.database import reaching
from prebuilds.operations.context import Context
from prebuilds.operations.status import StatusOperations
from prebuilds.planning.coming import next_change, spans
from prebuilds.planning.snapshot import Preset
from prebuilds.settings import temporal_ui
from prebuilds.store import pools
from prebuilds.store.drill_list import last_drills
from prebuilds.store.explain import explain_preset, list_waiting
from prebuilds.store.jobs import count_unfinished, list_unfinished
from prebuilds.store.limits import list_limits
from prebuilds.store.near_misses import read_near_misses
from prebuilds.store.preset_list import window_rows
from prebuilds.store.presets import find_presets_ever
from prebuilds.store.rollout_list import rollouts_of_preset
from prebuilds.store.sizes import read_size
from prebuilds.store.snapshots import snapshot_preset, snapshot_transaction
from prebuilds.store.status import read_status_on
from prebuilds.views import PresetRow
from prebuilds.views.pools import HourFigures, Overview, PoolDetails, PoolRow, SpanRow

DRILLS_SHOWN = 5
WAITING_SHOWN = 20


@dataclass(frozen=True, slots=True)
class PoolOperations:
    """Reads pools for a page; changes nothing."""

    context: Context

    async def overview(self) -> Overview:
        """Read the loop's state, every pool, and the builds that are under way, in one transaction.

        Raises:
            StackUnreachable: The database went away.
        """
        with reaching("the pools were read"):
            async with snapshot_transaction(self.context.engine) as connection:
                found = await read_status_on(connection, self.context.settings.rules)
                waiting = await pools.read_waiting_since(connection)
                unfinished = await list_unfinished(connection)
                counts = await count_unfinished(connection)
                limits = await list_limits(connection)
        status = await StatusOperations(self.context).complete(found)
        rules = found.control.rules or self.context.settings.rules
        return Overview(
            deployment_id=status.deployment_id,
            loop=status.loop,
            presets=[_pool(row, found.defined[row.preset_id], waiting, found.taken_at) for row in status.presets],
            read_at=found.taken_at,
            unfinished=unfinished,
            unfinished_counts=counts,
            max_pending_builds=rules.max_pending_builds,
            limits=limits,
        )

    async def hour(self, preset_ids: Sequence[UUID]) -> dict[UUID, HourFigures]:
        """Read what happened to the claims and the creations of these presets in the last hour."""
        with reaching("the last hour was read"):
            return await pools.read_hour(self.context.engine, preset_ids)

    async def details(self, preset: str, *, limit: int = 50, after: str | None = None) -> PoolDetails:
        """Read one preset with its members, decisions, failures and schedule, of all its versions.

        Args:
            preset: `organization/template/preset`.
            limit: The most decisions, of which the newest are returned.
            after: The `next` of an explanation, for the decisions before its own.
        Raises:
            PresetNotFound: There never was such a preset.
            StackUnreachable: The database went away.
        """
        with reaching("the preset was read"):
            rules = await self.context.rules()
            explanation = await explain_preset(self.context.engine, preset, rules, None, limit=limit, after=after)
            async with snapshot_transaction(self.context.engine) as connection:
                found = await read_status_on(connection, rules)
                ids = [one.id for one in await find_presets_ever(connection, preset)]
                defined = (await snapshot_preset(connection, explanation.preset_id, rules)).preset
                waiting = await pools.read_waiting_since(connection)
                members = await pools.read_members(connection, ids)
                failures = await pools.read_failures(connection, ids)
                size = await read_size(connection, explanation.preset_id)
                drills = await last_drills(connection, explanation.preset_id, DRILLS_SHOWN)
                rollout, failed_canary = await rollouts_of_preset(connection, explanation.preset_id)
                near_misses = await read_near_misses(connection, explanation.preset)
        row = next((row for row in found.presets if row.preset_id == explanation.preset_id), None)
        queue = None
        if row is not None and row.waiting:
            queue = await list_waiting(self.context.engine, str(row.preset_id), limit=WAITING_SHOWN)
        return PoolDetails(
            read_at=found.taken_at,
            pool=None if row is None else _pool(row, defined, waiting, found.taken_at),
            explanation=explanation,
            waiting=[] if queue is None else queue.rows,
            members=members[: pools.MEMBERS_MAX],
            members_more=len(members) > pools.MEMBERS_MAX,
            failures=failures,
            timezone=defined.timezone,
            base=defined.base_instances,
            windows=window_rows(defined),
            ready_by=defined.ready_by,
            head_start_seconds=defined.early.total_seconds() or None,
            size=size,
            rollout=rollout,
            failed_canary=failed_canary,
            near_misses=near_misses,
            drills=drills,
            week=[
                SpanRow(begins_at=span.begins_at, ends_at=span.ends_at, instances=span.instances)
                for span in spans(defined, found.taken_at)
            ],
        )

    def workflow_page(self, workflow_id: str) -> str | None:
        """Return where Temporal's UI shows a workflow; None when no UI is known."""
        ui = temporal_ui(self.context.settings)
        if ui is None:
            return None
        namespace = quote(self.context.client.namespace, safe="")
        return f"{ui}/namespaces/{namespace}/workflows/{quote(workflow_id, safe='')}"


def _pool(row: PresetRow, preset: Preset, waiting: dict[str, datetime], now: datetime) -> PoolRow:
    change = next_change(preset, now) if row.active else None
    return PoolRow(
        **row.model_dump(),
        waiting_since=waiting.get(preset.path) if row.waiting else None,
        next_change_at=None if change is None else change.begins_at,
        next_change_instances=None if change is None else change.instances,
    )
