"""PrebuildsOrchestrator: the reconciliation loop. A deployment has one; it runs until a signal with a cause stops it.

The loop reconciles every preset that has work, again and again. A preset never has more than one child workflow at a
time. Control workers start the loop, and restart it after a termination. The signal `stop` ends it with a result that
has the first cause; a cancellation ends it with the cause `cancelled`. The loop decides nothing itself: each pass reads
which presets have work, and a `ReconcilePreset` child does the work of each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from opentelemetry import trace

    from activities.reconcile import ReconcileActivities, Work
    from prebuilds.api import InvalidInput, LoopRenewed, OrchestratorNotRunning
    from prebuilds.payloads import (
        OrchestratorCarried,
        OrchestratorInput,
        OrchestratorResult,
        OrchestratorStatus,
        StopAnswer,
        parse_input,
    )
    from prebuilds.vocabulary import rfc3339
    from workflows.ignored_signals import IgnoredSignals
    from workflows.pass_traces import CAUSES_MAX, begin_pass, below, leave_trace
    from workflows.preset_children import WANTED_MAX, PresetChildren
    from workflows.raw import as_text, only_input, preset_ids, seconds, stop_cause, stop_requested_at, stopped_by
    from workflows.refusal import cause_of, refused

INTERVAL_S = 15.0
PASS_WAIT = timedelta(seconds=30)
"""The longest time that a pass waits for its presets. Those that take longer go on, and the next pass may begin."""
HISTORY_EVENTS = 4000
"""From this length on, the loop continues as new at its next idle moment. A replay of such a history after a worker's
death takes less than a second."""
HISTORY_EVENTS_MAX = 10_000
"""From this length on, the loop does not wait for an idle moment. The server warns at 10,240 events and ends the
workflow at 51,200."""
SEE_PRESETS = "give ids as `prebuilds --json presets list` has them"
SHOWN_MAX = 100
"""The most ids of each kind in the status."""
CAPACITY_PAUSE_S = 2.0
"""Seconds until the next pass while presets wait for capacity. Capacity frees up when builds begin, and no nudge
reports that."""

# READ_STATE and RECORD are for normal activities, although these are short: the loop acts on timers, and a replay may
# put the end of a local activity at another time.
READ_STATE = workflow.ActivityConfig(
    start_to_close_timeout=timedelta(seconds=30),
    heartbeat_timeout=timedelta(seconds=2),
    retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=10)),
    schedule_to_close_timeout=timedelta(minutes=5),
)
RECORD = workflow.ActivityConfig(
    start_to_close_timeout=timedelta(seconds=5),
    retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_attempts=5),
)


@workflow.defn
class PrebuildsOrchestrator:
    """The reconciliation loop of a deployment."""

    @workflow.init
    def __init__(self, *raw: Any) -> None:
        self._refusal: InvalidInput | None = None
        try:
            self._input = parse_input(OrchestratorInput, only_input(raw), "input")
        except InvalidInput as refusal:  # `run` raises it: an exception in `__init__` would park the workflow
            self._refusal, self._input = refusal, OrchestratorInput()
        carried = self._input.carried or OrchestratorCarried(started_at=workflow.now())
        self._started_at = carried.started_at
        self._passes_succeeded = carried.passes  # over all runs of the loop
        self._stop = carried.stop_cause
        self._stopped_by = carried.stopped_by
        self._wanted_all = carried.wanted_all
        self._next_pass_at = carried.next_pass_at or workflow.now()
        self._ignored = IgnoredSignals(carried.ignored)
        self._children = PresetChildren(
            carried.wanted_presets, carried.pending_max, max_parallel=self._input.max_parallel_presets
        )
        self._paused = False  # found by the last pass
        self._seen = carried.seen
        self._interval_s = self._input.interval_seconds or INTERVAL_S
        self._pass: asyncio.Task[None] | None = None
        self._causes: list[trace.Span] = []
        """Causes of the next pass, for its trace: the spans of the requests for it, and the span of the pass before."""
        self._pass_timer: asyncio.Task[None] | None = None
        self._due = False
        self._passes_begun = 0  # in this run of the loop; so is the next count, which includes passes that failed
        self._passes_ended = 0
        self._last_pass_at: datetime | None = None

    @workflow.run
    async def run(self, *raw: Any) -> OrchestratorResult:
        """Run passes until a stop, then drain.

        Raises:
            ApplicationError: `InvalidInput`, with a message for each wrong field in its details.
        """
        if self._refusal is not None:
            raise refused(self._refusal)
        self._schedule_next_pass(self._next_pass_at)
        try:
            while self._stop is None:
                if self._should_continue_as_new():
                    await self._continue_as_new()
                self._begin_due_pass()
                self._children.begin_wanted()
                self._show_details()
                await self._wait_for_something_to_do()
        except asyncio.CancelledError:
            self._request_stop("cancelled")
        return await self._drain()

    # --- What operators and our own processes send ---

    @workflow.signal(description='Stop reconciling. Input: a cause, or {"cause": TEXT}, or nothing')
    def stop(self, *raw: Any) -> None:  # with typed parameters, a mistyped input would be dropped or park the workflow
        """Stop the loop, unless the request is older than the loop."""
        requested_at = stop_requested_at(raw)
        if requested_at is not None and requested_at < self._started_at:
            # The worker that sends it was frozen since then. It meant an earlier loop, which has ended.
            self._ignored.add(f"stop asked for at {rfc3339(requested_at)}, before this loop began")
            return
        self._request_stop(stop_cause(raw), stopped_by(raw))

    @workflow.update(name="stop", description="Stop reconciling, and answer with the cause that counts")
    def stop_with_answer(self, *raw: Any) -> StopAnswer:
        """Stop the loop, and return the cause that counts: the first one."""
        already = self._stop is not None
        self._request_stop(stop_cause(raw), stopped_by(raw))
        return StopAnswer(cause=self._stop or "", already_stopping=already)

    @workflow.signal(description="Ask for a pass now. Input: nothing, or a list of preset ids for those alone")
    def nudge(self, *raw: Any) -> None:
        """Reconcile the named presets now, or run a full pass when none is named or too many wait."""
        wanted, unknown = preset_ids(raw)
        for item in unknown:
            self._ignored.add(f"nudge {item}")
        if len(self._children.wanted) + len(wanted) > WANTED_MAX or not (wanted or unknown):
            self._want_all()
        elif not self._paused:
            # While paused, nudges that name presets are dropped: each claim sends one, and would have its pool planned
            # for nothing. `resume` asks for a full pass.
            self._children.want(wanted)

    @workflow.signal(description="Set the seconds between passes")
    def set_interval(self, *raw: Any) -> None:
        """Set the seconds between passes, also for the pass that is awaited now."""
        interval = seconds(raw)
        if interval is None:
            self._ignored.add(f"set_interval {as_text(list(raw))}")
            return
        self._interval_s = interval
        if not self._due:
            self._schedule_next_pass(min(self._next_pass_at, workflow.now() + timedelta(seconds=interval)))

    @workflow.signal(dynamic=True)
    def unknown(self, name: str, args: Sequence[RawValue]) -> None:
        """Show a signal with a mistyped name in the status. Temporal has told its sender that it succeeded."""
        self._ignored.add(name)

    @workflow.update(
        description="Run a pass, of all presets or of those given, and answer when it has ended; LoopRenewed: ask again"
    )
    async def reconcile(self, *raw: Any) -> None:
        """Reconcile the named presets, or all, and return when that has ended.

        Raises:
            ApplicationError: `InvalidInput`: an id is none. `OrchestratorNotRunning`: the loop was stopped meanwhile.
                `LoopRenewed`: the loop continues as new; the caller sends the update again.
        """
        wanted, unknown = preset_ids(raw)
        if unknown:
            raise refused(InvalidInput.field("presets", f"no preset ids: {', '.join(unknown)}", SEE_PRESETS))
        if wanted:
            self._children.want(wanted)
            await self._wait_until_ended(lambda: not self._children.busy_with(wanted))
        else:
            self._want_all()
            requested_pass = self._passes_begun + 1
            await self._wait_until_ended(lambda: self._passes_ended >= requested_pass)
        if self._stop is not None:
            raise refused(OrchestratorNotRunning("the loop was stopped"))
        if self._children.closed:  # the next run begins what is wanted here; this run cannot end before this answer
            raise refused(LoopRenewed("the loop goes over to a new run"))

    @workflow.query(description="What the loop is doing")
    def status(self, *raw: Any) -> OrchestratorStatus:
        """Return what the loop is doing."""
        return OrchestratorStatus(
            state="running" if self._stop is None else "draining",
            cause=self._stop,
            passes=self._passes_succeeded,
            started_at=self._started_at,
            last_pass_at=self._last_pass_at,
            next_pass_at=self._next_pass_at if self._stop is None else None,
            interval_seconds=self._interval_s,
            reconciling=list(self._children.reconciling)[:SHOWN_MAX],
            waiting=list(self._children.wanted)[:SHOWN_MAX],
            ignored=self._ignored.newest,
            ignored_count=self._ignored.count,
        )

    # --- The loop's steps ---

    async def _wait_for_something_to_do(self) -> None:
        before = self._observed_state()
        await workflow.wait_condition(
            lambda: (
                self._pass_is_due() or self._children.next_startable() is not None or self._observed_state() != before
            )
        )

    def _observed_state(self) -> tuple[object, ...]:
        """The state that the loop acts on or shows, apart from due passes and wanted presets."""
        return self._stop, self._pass, self._next_pass_at, len(self._children.reconciling)

    def _schedule_next_pass(self, at: datetime) -> None:
        """Make the next pass due at *at*, and only then.

        A timer makes it due, not a look at the clock: the clock may read differently in a replay.
        """
        if self._pass_timer is not None:
            self._pass_timer.cancel()
        self._next_pass_at = at
        self._pass_timer = asyncio.create_task(self._make_pass_due((at - workflow.now()).total_seconds()))

    async def _make_pass_due(self, after_s: float) -> None:
        if after_s > 0:
            await workflow.sleep(after_s, summary="until the next pass")
        self._due = True

    def _want_all(self) -> None:
        self._wanted_all = True
        if len(self._causes) < CAUSES_MAX:
            self._causes.append(trace.get_current_span())

    def _pass_is_due(self) -> bool:
        return self._pass is None and (self._wanted_all or self._due)

    def _begin_due_pass(self) -> None:
        if self._pass_is_due():
            self._wanted_all = self._due = False  # before the read, so that a nudge during this pass causes another
            self._schedule_next_pass(workflow.now() + timedelta(seconds=self._interval_s))
            self._passes_begun += 1
            span, self._causes = begin_pass(self._causes), []
            self._causes.append(span)
            self._pass = asyncio.create_task(self._run_pass(span), context=below(span))

    async def _run_pass(self, span: trace.Span) -> None:
        try:
            work: Work = await workflow.execute_activity_method(
                ReconcileActivities.find_work, args=[self._seen, self._interval_s], **READ_STATE
            )
            self._last_pass_at = workflow.now()
            found = self._children.note_work(work)
            self._paused = work.paused
            self._seen = work.seen or self._seen
            if work.short and self._interval_s > CAPACITY_PAUSE_S:
                self._schedule_next_pass(workflow.now() + timedelta(seconds=CAPACITY_PAUSE_S))
            self._children.want(found)
            if found:
                try:
                    await workflow.wait_condition(lambda: not self._children.busy_with(found), timeout=PASS_WAIT)
                except TimeoutError:
                    workflow.logger.warning(
                        "A pass ends while presets are still reconciled",
                        extra={"presets": list(self._children.reconciling)},
                    )
                await workflow.execute_activity_method(ReconcileActivities.end_pass, work.pass_number, **RECORD)
            self._passes_succeeded += 1
        except FailureError as error:
            workflow.logger.error("A pass failed; the next pass retries", extra={"error": repr(cause_of(error))})
        finally:
            self._passes_ended += 1
            self._pass = None
        span.end()

    async def _wait_until_ended(self, ended: Callable[[], bool]) -> None:
        """Wait until *ended* is true, or until this run of the loop begins nothing more."""
        await workflow.wait_condition(lambda: self._stop is not None or self._children.closed or ended())

    def _should_continue_as_new(self) -> bool:
        info = workflow.info()
        events = info.get_current_history_length()
        idle = self._pass is None and not self._children.any_left and not self._wanted_all
        return events >= HISTORY_EVENTS_MAX or (
            idle and (events >= HISTORY_EVENTS or info.is_continue_as_new_suggested())
        )

    async def _continue_as_new(self) -> None:
        """Go on in a new run when this one has nothing under way. A stop that comes meanwhile is carried over."""
        left = self._children.close()
        await self._wait_for_children(PASS_WAIT)
        await workflow.wait_condition(workflow.all_handlers_finished)
        carried = OrchestratorCarried(
            started_at=self._started_at,
            passes=self._passes_succeeded,
            stop_cause=self._stop,
            stopped_by=self._stopped_by,
            wanted_all=self._wanted_all,
            wanted_presets=[*left, *self._children.wanted, *self._children.reconciling],
            next_pass_at=self._next_pass_at,
            ignored=self._ignored.newest,
            pending_max=self._children.pending_max,
            seen=self._seen,
        )
        leave_trace()
        workflow.continue_as_new(
            self._input.model_copy(update={"carried": carried, "interval_seconds": self._interval_s})
        )

    async def _drain(self) -> OrchestratorResult:
        """End the loop: record the cause, and wait for running children. Recorded builds go on by themselves."""
        assert self._stop is not None  # noqa: S101 - `run` calls this only after a stop
        self._children.close()
        self._show_details()
        recording = asyncio.create_task(self._record_stop(self._stop))
        await self._wait_for_children(timedelta(seconds=self._input.drain_timeout_seconds))
        await recording
        await workflow.wait_condition(workflow.all_handlers_finished)
        workflow.set_current_details(f"Stopped: {self._stop}")
        return OrchestratorResult(
            cause=self._stop, passes=self._passes_succeeded, started_at=self._started_at, stopped_at=workflow.now()
        )

    async def _wait_for_children(self, timeout: timedelta) -> None:
        try:
            await workflow.wait_condition(
                lambda: not self._children.reconciling and self._pass is None, timeout=timeout
            )
        except TimeoutError:
            workflow.logger.warning(
                "The loop goes on without waiting for its children", extra={"presets": list(self._children.reconciling)}
            )

    async def _record_stop(self, cause: str) -> None:
        try:
            stopped = [cause, self._input.loop_number, self._stopped_by]
            await workflow.execute_activity_method(ReconcileActivities.record_stop, args=stopped, **RECORD)
        except FailureError as error:  # a worker that would restart the loop reads the cause from its result, too
            workflow.logger.error("The stop could not be recorded", extra={"error": repr(cause_of(error))})

    def _request_stop(self, cause: str, by: str | None = None) -> None:
        if self._stop is None:
            self._stop, self._stopped_by = cause, by
            workflow.logger.info("Stopping", extra={"cause": cause})

    def _show_details(self) -> None:
        """Set the workflow's current details in the Temporal UI."""
        busy = f"reconciling {len(self._children.reconciling)} presets, {len(self._children.wanted)} waiting"
        if self._stop is not None:
            text = f"Draining: {self._stop}; {busy}"
        else:
            text = f"Running: {self._passes_succeeded} passes, {busy}; next pass at {rfc3339(self._next_pass_at)}"
        workflow.set_current_details(text)
