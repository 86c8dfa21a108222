"""A pass's activities: find the presets that have work, plan one, carry the plan out. Each bears repeating."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity

from activities.heartbeat import heartbeating
from prebuilds.dispatch import Dispatcher
from prebuilds.metrics import PoolGauges
from prebuilds.planning.plan import ReconcilePlan, plan_preset, presets_with_work
from prebuilds.store import control, pool
from prebuilds.store.pool import Written
from prebuilds.store.snapshots import next_pass_number, snapshot_preset, snapshot_state, snapshot_transaction

PRESETS_PER_PASS_MAX = 500
"""A pass bounds its own history; what is left over is found again by the next."""


@dataclass(frozen=True)
class Work:
    """What a pass has found."""

    pass_number: int
    preset_ids: list[UUID] = field(default_factory=list)


@dataclass(frozen=True)
class CarryOut:
    """One kind of a plan's writes."""

    preset_id: UUID
    pass_number: int
    ids: list[UUID]


@dataclass(frozen=True)
class CarriedOut:
    done: int
    lost: int


class ReconcileActivities:
    def __init__(self, engine: AsyncEngine, dispatcher: Dispatcher, gauges: PoolGauges, *, enabled: bool) -> None:
        self._engine = engine
        self._dispatcher = dispatcher
        self._gauges = gauges
        self._enabled = enabled

    @activity.defn
    async def find_work(self) -> Work:
        """Take the global snapshot, and return the presets that have work: ids, not rows."""
        async with heartbeating():
            async with snapshot_transaction(self._engine) as connection:
                snapshot = await snapshot_state(connection, enabled=self._enabled)
            self._gauges.observe(snapshot)
            working = presets_with_work(snapshot)[:PRESETS_PER_PASS_MAX]
            number = await control.begin_pass(self._engine, presets=len(snapshot.presets), with_work=len(working))
            if not working:
                await control.end_pass(self._engine, number)
            return Work(number, working)

    @activity.defn
    async def end_pass(self, pass_number: int) -> None:
        await control.end_pass(self._engine, pass_number)

    @activity.defn
    async def record_stop(self, cause: str) -> None:
        """Write down that the loop was stopped on purpose, so that no control worker brings it back."""
        await control.record_stop(self._engine, cause)

    @activity.defn
    async def plan_reconcile(self, preset_id: UUID) -> ReconcilePlan:
        """Read one preset's pool at one instant and decide; the plan, with every id in it, stands in the history."""
        # The number first: a pass that reads later has a higher one, and the fence lets it win.
        number = await next_pass_number(self._engine)
        async with snapshot_transaction(self._engine) as connection:
            snapshot = await snapshot_preset(connection, preset_id, enabled=self._enabled)
        return plan_preset(snapshot, number)

    @activity.defn
    async def create_prebuilds(self, input: CarryOut) -> CarriedOut:
        return self._started(await pool.create_prebuilds(self._engine, input.preset_id, input.pass_number, input.ids))

    @activity.defn
    async def delete_prebuilds(self, input: CarryOut) -> CarriedOut:
        return self._started(await pool.delete_prebuilds(self._engine, input.preset_id, input.pass_number, input.ids))

    @activity.defn
    async def cancel_builds(self, input: CarryOut) -> CarriedOut:
        return self._started(await pool.cancel_creations(self._engine, input.preset_id, input.pass_number, input.ids))

    def _started(self, written: Written) -> CarriedOut:
        self._dispatcher.start_builds(written.build_ids)
        return CarriedOut(done=len(written.workspace_ids), lost=written.lost)
