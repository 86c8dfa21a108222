"""ReconcilePreset: reconciles one preset once. It plans from a fresh snapshot, then carries the plan out.

Its workflow id is a lock: at most one pass of a preset runs at a time. A fence in the database makes sure that a late
pass writes nothing. The orchestrator starts it. It ends when the plan is carried out; its result has the errors.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from temporalio import workflow
from temporalio.exceptions import ApplicationError, FailureError

with workflow.unsafe.imports_passed_through():
    from activities.reconcile import CarriedOut, CarryOut, Moves, ReconcileActivities
    from prebuilds.api import InvalidInput, SupersededPass
    from prebuilds.payloads import ReconcilePresetInput, ReconcilePresetResult, parse_input
    from prebuilds.planning.plan import ReconcilePlan
    from workflows.raw import only_input
    from workflows.refusal import cause_of, refused
    from workflows.steps import Bounds, run_step

# Enough for a lost connection. After a longer outage, or with a bug, the next pass tries again.
STEP = Bounds(attempt_s=10, total_s=10)


@workflow.defn
class ReconcilePreset:
    """One pass over one preset."""

    @workflow.run
    async def run(self, *raw: Any) -> ReconcilePresetResult:
        """Plan the preset and carry the plan out. A step that fails is an error in the result.

        Raises:
            ApplicationError: The input is invalid, or the preset could not be planned.
        """
        try:
            input = parse_input(ReconcilePresetInput, only_input(raw), "input")
            plan = await run_step(ReconcileActivities.plan_reconcile, input.preset_id, input.pending_max, bounds=STEP)
        except (InvalidInput, FailureError) as error:
            raise refused(error) from None
        self._pending_max = input.pending_max
        return await self._carry_out(plan)

    async def _carry_out(self, plan: ReconcilePlan) -> ReconcilePresetResult:
        """Resume and pause, delete, cancel and create, in this order: a resume is the quickest, and deletions free room
        for creations. Each step runs even if another one failed."""
        self._lost = 0
        self._errors: list[str] = []
        moved = await self._move(plan)
        deleted = await self._run_step(plan, ReconcileActivities.delete_prebuilds, plan.delete)
        canceled = await self._run_step(plan, ReconcileActivities.cancel_builds, plan.cancel)
        created = await self._run_step(plan, ReconcileActivities.create_prebuilds, plan.create)
        return ReconcilePresetResult(
            created=created,
            deleted=deleted,
            canceled=canceled,
            moved=moved,
            held=plan.held,
            lost_races=self._lost,
            errors=self._errors,
            more=plan.more and created + deleted + canceled + moved > 0,
        )

    async def _move(self, plan: ReconcilePlan) -> int:
        """Resume and pause as planned. Return the number of prebuilds for which this took effect."""
        if not plan.resume and not plan.pause:  # plans of releases without pauses have neither
            return 0
        moves = Moves(plan.preset_id, plan.pass_number, plan.resume, plan.pause)
        step = run_step(ReconcileActivities.move_prebuilds, moves, bounds=STEP)
        return await self._count_step(step, len(plan.resume) + len(plan.pause))

    async def _run_step(
        self,
        plan: ReconcilePlan,
        write: Callable[[ReconcileActivities, CarryOut], Awaitable[CarriedOut]],
        ids: list[UUID],
    ) -> int:
        """Run *write* for *ids*, and return for how many it took effect."""
        if not ids:
            return 0
        carry_out = CarryOut(plan.preset_id, plan.pass_number, ids, self._pending_max, plan.create_for)
        return await self._count_step(run_step(write, carry_out, bounds=STEP), len(ids))

    async def _count_step(self, step: Awaitable[CarriedOut], planned: int) -> int:
        """Await a step for *planned* prebuilds, and return the number for which it took effect."""
        try:
            done = await step
        except FailureError as error:
            cause = cause_of(error)
            if isinstance(cause, ApplicationError) and cause.type == SupersededPass.__name__:
                self._lost += planned
            else:
                self._errors.append(str(cause))
            return 0
        self._lost += done.lost
        return done.done
