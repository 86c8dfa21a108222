"""A pass's activities: find the presets that have work, plan one, carry the plan out. Each bears repeating."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity

from activities.heartbeat import heartbeating
from prebuilds.background.dispatch import Dispatcher
from prebuilds.payloads import Seen
from prebuilds.planning.holds import Held, Hold
from prebuilds.planning.pass_plan import hold_note, plan_pass
from prebuilds.planning.plan import ReconcilePlan, plan_preset
from prebuilds.planning.rules import Rules
from prebuilds.store import control, pool
from prebuilds.store.events import note
from prebuilds.store.history import check_history
from prebuilds.store.membership import join_organizations
from prebuilds.store.pool import Written
from prebuilds.store.snapshots import next_pass_number, snapshot_preset, snapshot_state, snapshot_transaction
from prebuilds.telemetry.metrics import METRICS, PoolGauges

PRESETS_PER_PASS_MAX = 500
"""A pass bounds its own history; what is left over is found again by the next."""


@dataclass(frozen=True)
class Work:
    """What a pass has found."""

    pass_number: int
    preset_ids: list[UUID] = field(default_factory=list)
    pending_max: int | None = None
    """How many pending creations a preset may have until the next pass; None for no limit."""
    favored: list[UUID] = field(default_factory=list)
    """Of *preset_ids*: these may have one more."""
    short: bool = False
    """Somebody waits for capacity: worth another look soon."""
    paused: bool = False
    """Nothing is to be reconciled until a pass finds otherwise."""
    seen: Seen | None = None
    """The newest event of the database, for the next pass to be told; None for no news."""
    paths: list[str] = field(default_factory=list)
    """What people call *preset_ids*, in the same order; empty from a worker of an earlier release."""


@dataclass(frozen=True)
class CarryOut:
    """One kind of a plan's writes."""

    preset_id: UUID
    pass_number: int
    ids: list[UUID]
    pending_max: int | None = None


@dataclass(frozen=True)
class CarriedOut:
    done: int
    lost: int


class ReconcileActivities:
    def __init__(self, engine: AsyncEngine, dispatcher: Dispatcher, gauges: PoolGauges, rules: Rules) -> None:
        self._engine = engine
        self._dispatcher = dispatcher
        self._gauges = gauges
        self._rules = rules

    @activity.defn
    async def find_work(self, seen: Seen | None = None, interval_seconds: float | None = None) -> Work:
        """Take the global snapshot, and return the presets that have work: ids and paths, not rows.

        Args:
            seen: The newest event that the pass before has seen. A database that lacks it was restored: this pass
                says so there, and finds everything paused.
            interval_seconds: The loop's, for the gauges; None when it does not say.
        """
        async with heartbeating():
            newest = await check_history(self._engine, seen, "the loop")
            async with snapshot_transaction(self._engine) as connection:
                snapshot = await snapshot_state(connection, self._rules)
            barred = await join_organizations(self._engine, snapshot)
            plan = plan_pass(snapshot, barred)
            self._gauges.observe(plan, timedelta(seconds=interval_seconds) if interval_seconds else None)
            await note(self._engine, plan.notes())
            working = plan.presets_to_reconcile(PRESETS_PER_PASS_MAX)
            number = await control.begin_pass(self._engine, snapshot, with_work=len(working))
            if not working:
                await self.end_pass(number)
            if plan.shares is None:
                return Work(number, working, paused=plan.paused, seen=newest, paths=plan.paths_of(working))
            favored = [preset for preset in working if preset in plan.shares.favored]
            return Work(
                number,
                working,
                plan.shares.level,
                favored,
                plan.short_of_capacity,
                plan.paused,
                newest,
                plan.paths_of(working),
            )

    @activity.defn
    async def end_pass(self, pass_number: int) -> None:
        took = await control.end_pass(self._engine, pass_number)
        if took is not None:
            METRICS.record_pass(took)

    @activity.defn
    async def record_stop(self, cause: str, loop_number: int | None = None, by: str | None = None) -> None:
        """Write down that the loop was stopped on purpose, so that no control worker brings it back."""
        await control.record_stop(self._engine, cause, loop_number, by)

    @activity.defn
    async def plan_reconcile(self, preset_id: UUID, pending_max: int | None = None) -> ReconcilePlan:
        """Read one preset's pool at one instant and decide; the plan, with every id in it, stands in the history."""
        # The number first: a pass that reads later has a higher one, and the fence lets it win.
        number = await next_pass_number(self._engine)
        async with snapshot_transaction(self._engine) as connection:
            snapshot = await snapshot_preset(connection, preset_id, self._rules)
        plan = plan_preset(snapshot, number, pending_max)
        if plan.held is not None and plan.held != Hold.PAUSED:
            await note(self._engine, [hold_note(preset_id, Held(Hold(plan.held), plan.held_until))])
        return plan

    @activity.defn
    async def create_prebuilds(self, input: CarryOut) -> CarriedOut:
        written = await pool.create_prebuilds(
            self._engine, input.preset_id, input.pass_number, input.ids, self._rules, pending_max=input.pending_max
        )
        return self._started(written)

    @activity.defn
    async def delete_prebuilds(self, input: CarryOut) -> CarriedOut:
        return self._started(await pool.delete_prebuilds(*self._asked(input)))

    @activity.defn
    async def cancel_builds(self, input: CarryOut) -> CarriedOut:
        written = await pool.cancel_creations(*self._asked(input))
        self._dispatcher.cancel_builds(written.build_ids)
        return CarriedOut(done=len(written.workspace_ids), lost=written.lost)

    def _asked(self, input: CarryOut) -> tuple[AsyncEngine, UUID, int, Sequence[UUID], Rules]:
        return self._engine, input.preset_id, input.pass_number, input.ids, self._rules

    def _started(self, written: Written) -> CarriedOut:
        self._dispatcher.start_builds(written.build_ids)
        return CarriedOut(done=len(written.workspace_ids), lost=written.lost)
