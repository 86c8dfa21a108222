"""The activities of a pass: find presets that have work, plan one, carry the plan out. Each may safely run twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity

from activities.heartbeat import heartbeating
from prebuilds.background.dispatch import Dispatcher
from prebuilds.payloads import SeenEvent
from prebuilds.planning.holds import Held, Hold
from prebuilds.planning.pass_plan import hold_note, plan_pass
from prebuilds.planning.plan import ReconcilePlan, plan_preset
from prebuilds.planning.rollout_outcomes import judge_rollouts
from prebuilds.planning.rules import Rules
from prebuilds.store import loop, pool, standby
from prebuilds.store.canaries import judge_canaries, read_canaries
from prebuilds.store.events import record_notes
from prebuilds.store.history import compare_history, report_restored
from prebuilds.store.membership import join_organizations
from prebuilds.store.pool import Written
from prebuilds.store.rollouts import record_outcomes
from prebuilds.store.snapshots import next_pass_number, snapshot_preset, snapshot_state, snapshot_transaction
from prebuilds.telemetry.metrics import METRICS
from prebuilds.telemetry.pool_gauges import PoolGauges

PRESETS_PER_PASS_MAX = 500
"""The most presets of one pass, which bounds its history. The next pass finds the others again."""


@dataclass(frozen=True)
class Work:
    """The result of `find_work`."""

    pass_number: int
    preset_ids: list[UUID] = field(default_factory=list)
    """The presets that have work."""
    pending_max: int | None = None
    """The most pending creations that a preset may have until the next pass; None for no limit."""
    favored: list[UUID] = field(default_factory=list)
    """The presets among *preset_ids* that may have one more pending creation."""
    short: bool = False
    """Whether presets wait for capacity, so that the next pass should come soon."""
    paused: bool = False
    """Whether reconciliation is paused, until a pass finds otherwise."""
    seen: SeenEvent | None = None
    """The newest event of the database, for the next pass; None when it is the one that was given."""
    paths: list[str] = field(default_factory=list)
    """The paths of *preset_ids*, in the same order; empty from a worker of an earlier release."""


@dataclass(frozen=True)
class CarryOut:
    """Input of one step of a plan: the prebuilds to create, delete or cancel."""

    preset_id: UUID
    pass_number: int
    ids: list[UUID]
    pending_max: int | None = None
    """The most pending creations that the preset may have; None for no limit."""
    create_for: UUID | None = None
    """The plan's `create_for`."""


@dataclass(frozen=True)
class Moves:
    """Input of `move_prebuilds`: the prebuilds to resume and to pause."""

    preset_id: UUID
    pass_number: int
    resume: list[UUID]
    pause: list[UUID]


@dataclass(frozen=True)
class CarriedOut:
    """Result of one step of a plan, as counts of prebuilds."""

    done: int
    lost: int
    """Prebuilds for which the plan no longer held, so that nothing was done."""


class ReconcileActivities:
    """Activities of `PrebuildsOrchestrator` and `ReconcilePreset` on control workers."""

    def __init__(self, engine: AsyncEngine, dispatcher: Dispatcher, gauges: PoolGauges, rules: Rules) -> None:
        self._engine = engine
        self._dispatcher = dispatcher
        self._gauges = gauges
        self._rules = rules

    @activity.defn
    async def find_work(self, seen: SeenEvent | None = None, interval_seconds: float | None = None) -> Work:
        """Begin a pass: read the global snapshot, and return the ids and paths of presets that have work.

        Args:
            seen: The newest event that the previous pass has seen; None when there is none. If the database lacks it,
                the database was restored: this pass records that, and finds everything paused.
            interval_seconds: Seconds between the loop's passes, for the gauges; None when they are not known.
        """
        async with heartbeating():
            async with snapshot_transaction(self._engine) as connection:
                snapshot = await snapshot_state(connection, self._rules)
                history = await compare_history(connection, seen)
            if history.lost is not None:
                await report_restored(self._engine, f"the loop: {history.lost}", history.epoch)
                snapshot = replace(snapshot, paused=True)
            barred = await join_organizations(self._engine, snapshot)
            plan = plan_pass(snapshot, barred)
            canaries = await read_canaries(self._engine, plan)
            self._gauges.observe(plan, timedelta(seconds=interval_seconds) if interval_seconds else None, canaries)
            await record_notes(self._engine, plan.notes())
            await judge_canaries(self._engine, canaries, self._rules)
            await record_outcomes(self._engine, judge_rollouts(plan))
            working = plan.presets_to_reconcile(PRESETS_PER_PASS_MAX)
            number, took = await loop.begin_pass(self._engine, snapshot, with_work=len(working))
            if took is not None:
                METRICS.record_pass(took)
            if plan.shares is None:
                return Work(number, working, paused=plan.paused, seen=history.newest, paths=plan.paths_of(working))
            favored = [preset for preset in working if preset in plan.shares.favored]
            return Work(
                number,
                working,
                plan.shares.level,
                favored,
                plan.short_of_capacity,
                plan.paused,
                history.newest,
                plan.paths_of(working),
            )

    @activity.defn
    async def end_pass(self, pass_number: int) -> None:
        """Record the end of a pass, and count it in the metrics unless it was recorded before."""
        took = await loop.end_pass(self._engine, pass_number)
        if took is not None:
            METRICS.record_pass(took)

    @activity.defn
    async def record_stop(self, cause: str, loop_number: int | None = None, by: str | None = None) -> None:
        """Record that the loop was stopped on purpose, so that no control worker restarts it."""
        await loop.record_stop(self._engine, cause, loop_number, by)

    @activity.defn
    async def plan_reconcile(self, preset_id: UUID, pending_max: int | None = None) -> ReconcilePlan:
        """Plan one preset from a snapshot of its pool. The workflow's history keeps the plan with every id in it."""
        # The pass number is taken before the read: a pass that reads later has a higher number, and wins at the fence.
        number = await next_pass_number(self._engine)
        async with snapshot_transaction(self._engine) as connection:
            snapshot = await snapshot_preset(connection, preset_id, self._rules)
        plan = plan_preset(snapshot, number, pending_max)
        if plan.held is not None and plan.held != Hold.PAUSED:
            await record_notes(self._engine, [hold_note(preset_id, Held(Hold(plan.held), plan.held_until))])
        return plan

    @activity.defn
    async def create_prebuilds(self, input: CarryOut) -> CarriedOut:
        """Record planned creations, and start their builds.

        Raises:
            SupersededPass: A later pass of the preset has written already.
        """
        written = await pool.create_prebuilds(
            self._engine,
            input.preset_id,
            input.pass_number,
            input.ids,
            self._rules,
            pending_max=input.pending_max,
            create_for=input.create_for,
        )
        return self._start_builds(written)

    @activity.defn
    async def delete_prebuilds(self, input: CarryOut) -> CarriedOut:
        """Record planned deletions, and start their builds.

        Raises:
            SupersededPass: A later pass of the preset has written already.
        """
        return self._start_builds(await pool.delete_prebuilds(*self._pool_arguments(input)))

    @activity.defn
    async def move_prebuilds(self, input: Moves) -> CarriedOut:
        """Record planned resumes and pauses, and start their builds.

        Raises:
            SupersededPass: A later pass of the preset has written already.
        """
        written = await standby.move_prebuilds(
            self._engine, input.preset_id, input.pass_number, self._rules, resume=input.resume, pause=input.pause
        )
        return self._start_builds(written)

    @activity.defn
    async def cancel_builds(self, input: CarryOut) -> CarriedOut:
        """Cancel planned creations (`plan.cancel`) that no worker has begun, and their builds' workflows.

        The name is that of the builds, which end as cancelled; in the store it is `cancel_creations`, since a prebuild
        whose creation is cancelled ends with it.

        Raises:
            SupersededPass: A later pass of the preset has written already.
        """
        written = await pool.cancel_creations(*self._pool_arguments(input))
        self._dispatcher.cancel_builds(written.build_ids)
        return CarriedOut(done=len(written.workspace_ids), lost=written.lost)

    def _pool_arguments(self, input: CarryOut) -> tuple[AsyncEngine, UUID, int, Sequence[UUID], Rules]:
        return self._engine, input.preset_id, input.pass_number, input.ids, self._rules

    def _start_builds(self, written: Written) -> CarriedOut:
        self._dispatcher.start_builds(written.build_ids)
        return CarriedOut(done=len(written.workspace_ids), lost=written.lost)
