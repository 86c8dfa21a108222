"""The reconciliation loop: one for a deployment, running until a signal with a cause stops it.

It keeps true that every preset with work is reconciled again and again, each by one child at a time. Control workers
start it and bring it back when it was terminated. It ends by `stop`, with a result that carries the first cause;
cancelled, it stops with the cause `cancelled`. It decides nothing: a pass asks which presets have work, children do it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import FailureError, WorkflowAlreadyStartedError
from temporalio.workflow import ParentClosePolicy

with workflow.unsafe.imports_passed_through():
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
    from prebuilds.vocabulary import reconcile_preset_id, rfc3339
    from prebuilds.vocabulary.plain_text import escape
    from workflows.raw import as_text, asked_at, only_input, preset_ids, seconds, stop_cause, stopped_by
    from workflows.refusal import cause_of, refused

INTERVAL_S = 15.0
PASS_WAIT = timedelta(seconds=30)
"""How long a pass waits for its presets; the rest stay busy, and stop nobody."""
CHILD_TIMEOUT = timedelta(seconds=60)
BUSY_PAUSE = timedelta(seconds=1)
"""Before asking again for a preset that a child of an earlier run is still at."""
HISTORY_EVENTS = 4000
"""Then the loop continues as new at its next idle moment: replay after a worker's death stays within a second."""
HISTORY_EVENTS_MAX = 10_000
"""Then it does not wait for an idle moment: the server warns at 10,240 and ends the workflow at 51,200."""
IGNORED_KEPT, IGNORED_CHARS = 5, 200
"""Signals that were not understood: how many the status has, and how much of each."""
SEE_PRESETS = "give ids as `prebuilds --json presets list` has them"
WANTED_MAX = 1000
"""Presets that wait by name; beyond that a pass finds them again, and no payload grows with the deployment."""
SHOWN_MAX = 100
"""Ids of each kind that the status has."""
CAPACITY_PAUSE_S = 2.0
"""Until the next pass when somebody waits for capacity: it frees up as builds begin, which nudges nobody."""
TASK_TIMEOUT = timedelta(seconds=2)

READ_STATE = workflow.ActivityConfig(
    start_to_close_timeout=timedelta(seconds=30),
    heartbeat_timeout=timedelta(seconds=2),
    retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=10)),
    schedule_to_close_timeout=timedelta(minutes=5),
)
# Normal activities, though short: this loop acts on timers, and a local activity's end may be replayed at another time.
NOTE = workflow.ActivityConfig(
    start_to_close_timeout=timedelta(seconds=5),
    retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_attempts=5),
)


@workflow.defn
class PrebuildsOrchestrator:
    @workflow.init
    def __init__(self, *raw: Any) -> None:
        self._refusal: InvalidInput | None = None
        try:
            self._input = parse_input(OrchestratorInput, only_input(raw), "input")
        except InvalidInput as refusal:  # refused by `run`: whatever raises here would park the workflow
            self._refusal, self._input = refusal, OrchestratorInput()
        carried = self._input.carried or OrchestratorCarried(started_at=workflow.now())
        self._started_at = carried.started_at
        self._passes = carried.passes
        self._stop = carried.stop_cause
        self._stopped_by = carried.stopped_by
        self._wanted_all = carried.wanted_all
        self._wanted = dict.fromkeys(carried.wanted_presets)  # in the order they were asked for
        self._next_pass_at = carried.next_pass_at or workflow.now()
        self._ignored = list(carried.ignored)
        self._pending_max = carried.pending_max  # the last pass's shares of the capacity
        self._favored: set[str] = set()
        self._paused = False  # as the last pass has found it
        self._seen = carried.seen
        self._interval_s = self._input.interval_seconds or INTERVAL_S
        self._running: dict[str, asyncio.Task[None]] = {}
        self._pass: asyncio.Task[None] | None = None
        self._alarm: asyncio.Task[None] | None = None
        self._due = False
        self._passes_begun = 0
        self._passes_ended = 0
        self._last_pass_at: datetime | None = None
        self._leaving = False
        self._paths: dict[str, str] = {}  # of presets that passes have found, for the UI
        self._ignored_count = 0

    @workflow.run
    async def run(self, *raw: Any) -> OrchestratorResult:
        if self._refusal is not None:
            raise refused(self._refusal)
        self._wake_at(self._next_pass_at)
        try:
            while self._stop is None:
                if self._should_continue_as_new():
                    await self._continue_as_new()
                self._begin_due_pass()
                self._begin_wanted_children()
                self._tell()
                await self._wait_for_something_to_do()
        except asyncio.CancelledError:
            self._request_stop("cancelled")
        return await self._drain()

    # --- What operators and our own processes send ---

    @workflow.signal(description='Stop reconciling. Input: a cause, or {"cause": TEXT}, or nothing')
    def stop(self, *raw: Any) -> None:  # typed parameters would drop or park what an operator mistypes
        asked = asked_at(raw)
        if asked is not None and asked < self._started_at:
            # By an attempt of a worker that was frozen since: the loop that it was to stop has ended before this one.
            self._ignore(f"stop asked for at {rfc3339(asked)}, before this loop began")
            return
        self._request_stop(stop_cause(raw), stopped_by(raw))

    @workflow.update(name="stop", description="Stop reconciling, and answer with the cause that counts")
    def stop_with_answer(self, *raw: Any) -> StopAnswer:
        already = self._stop is not None
        self._request_stop(stop_cause(raw), stopped_by(raw))
        return StopAnswer(cause=self._stop or "", already_stopping=already)

    @workflow.signal(description="Ask for a pass now. Input: nothing, or a list of preset ids for those alone")
    def nudge(self, *raw: Any) -> None:
        wanted, unknown = preset_ids(raw)
        for item in unknown:
            self._ignore(f"nudge {item}")
        if len(self._wanted) + len(wanted) > WANTED_MAX or not (wanted or unknown):
            self._wanted_all = True
        elif not self._paused:  # each claim sends one, and would plan its pool for nothing; `resume` asks for a pass
            self._wanted.update(dict.fromkeys(wanted))

    @workflow.signal(description="Set the seconds between passes")
    def set_interval(self, *raw: Any) -> None:
        interval = seconds(raw)
        if interval is None:
            self._ignore(f"set_interval {as_text(list(raw))}")
            return
        self._interval_s = interval
        if not self._due:
            self._wake_at(min(self._next_pass_at, workflow.now() + timedelta(seconds=interval)))

    @workflow.signal(dynamic=True)
    def unknown(self, name: str, args: Sequence[RawValue]) -> None:
        """Catch a mistyped name, so that it shows in the status; the caller was told `succeeded`."""
        self._ignore(name)

    @workflow.update(
        description="Run a pass, of all presets or of those given, and answer when it has ended; LoopRenewed: ask again"
    )
    async def reconcile(self, *raw: Any) -> None:
        wanted, unknown = preset_ids(raw)
        if unknown:
            raise refused(InvalidInput.field("presets", f"no preset ids: {', '.join(unknown)}", SEE_PRESETS))
        if wanted:
            self._wanted.update(dict.fromkeys(wanted))
            await self._until_ended(lambda: not self._busy_with(wanted))
        else:
            self._wanted_all = True
            mine = self._passes_begun + 1
            await self._until_ended(lambda: self._passes_ended >= mine)
        if self._stop is not None:
            raise refused(OrchestratorNotRunning("the loop was stopped"))
        if self._leaving:  # it carries what is wanted along, begins none of it, and cannot end before this answer
            raise refused(LoopRenewed("the loop goes over to a new run"))

    @workflow.query(description="What the loop is doing")
    def status(self, *raw: Any) -> OrchestratorStatus:
        return OrchestratorStatus(
            state="running" if self._stop is None else "draining",
            cause=self._stop,
            passes=self._passes,
            started_at=self._started_at,
            last_pass_at=self._last_pass_at,
            next_pass_at=self._next_pass_at if self._stop is None else None,
            interval_seconds=self._interval_s,
            reconciling=list(self._running)[:SHOWN_MAX],
            waiting=list(self._wanted)[:SHOWN_MAX],
            ignored=self._ignored,
            ignored_count=self._ignored_count,
        )

    # --- The loop's steps ---

    async def _wait_for_something_to_do(self) -> None:
        seen = self._doing()
        await workflow.wait_condition(
            lambda: self._pass_is_due() or self._startable() is not None or self._doing() != seen
        )

    def _doing(self) -> tuple[object, ...]:
        """What a turn of the loop tells, and acts on beside what is due and wanted."""
        return self._stop, self._pass, self._next_pass_at, len(self._running)

    def _wake_at(self, moment: datetime) -> None:
        """Have the next pass fall due at *moment*.

        By a timer's firing and not by asking the clock: the clock may read differently in a replay.
        """
        if self._alarm is not None:
            self._alarm.cancel()
        self._next_pass_at = moment
        self._alarm = asyncio.create_task(self._ring((moment - workflow.now()).total_seconds()))

    async def _ring(self, after_s: float) -> None:
        if after_s > 0:
            await workflow.sleep(after_s, summary="until the next pass")
        self._due = True

    def _pass_is_due(self) -> bool:
        return self._pass is None and (self._wanted_all or self._due)

    def _begin_due_pass(self) -> None:
        if self._pass_is_due():
            self._wanted_all = self._due = False  # before the read, so that a nudge during this pass earns another
            self._wake_at(workflow.now() + timedelta(seconds=self._interval_s))
            self._passes_begun += 1
            self._pass = asyncio.create_task(self._run_pass())

    async def _run_pass(self) -> None:
        try:
            known = [self._seen, self._interval_s]
            work: Work = await workflow.execute_activity_method(ReconcileActivities.find_work, args=known, **READ_STATE)
            self._last_pass_at = workflow.now()
            found = [str(preset) for preset in work.preset_ids]
            self._paths = dict([*self._paths.items(), *zip(found, work.paths, strict=False)][-WANTED_MAX:])
            self._pending_max, self._favored = work.pending_max, {str(preset) for preset in work.favored}
            self._paused = work.paused
            self._seen = work.seen or self._seen
            if work.short and self._interval_s > CAPACITY_PAUSE_S:
                self._wake_at(workflow.now() + timedelta(seconds=CAPACITY_PAUSE_S))
            self._wanted.update(dict.fromkeys(found))
            if found:
                try:
                    await workflow.wait_condition(lambda: not self._busy_with(found), timeout=PASS_WAIT)
                except TimeoutError:
                    workflow.logger.warning("A pass leaves presets busy", extra={"presets": list(self._running)})
                await workflow.execute_activity_method(ReconcileActivities.end_pass, work.pass_number, **NOTE)
            self._passes += 1
        except FailureError as error:
            workflow.logger.error("A pass failed; the next is the retry", extra={"error": repr(cause_of(error))})
        finally:
            self._passes_ended += 1
            self._pass = None

    async def _until_ended(self, ended: Callable[[], bool]) -> None:
        """Wait for what somebody asked for, or for this run to begin none of it any more."""
        await workflow.wait_condition(lambda: self._stop is not None or self._leaving or ended())

    def _busy_with(self, presets: Sequence[str]) -> bool:
        return any(preset in self._wanted or preset in self._running for preset in presets)

    def _startable(self) -> str | None:
        """The next preset to begin: one that is being reconciled keeps its turn until that has ended."""
        # They contend for this workflow's tasks: 500 children take 10 s at 50 at a time, and 23 s unbounded.
        if self._leaving or len(self._running) >= self._input.max_parallel_presets:
            return None
        return next((preset for preset in self._wanted if preset not in self._running), None)

    def _begin_wanted_children(self) -> None:
        while (preset := self._startable()) is not None:
            del self._wanted[preset]
            self._running[preset] = asyncio.create_task(self._reconcile_preset(preset))

    async def _reconcile_preset(self, preset: str) -> None:
        try:
            done = await workflow.execute_child_workflow(
                "ReconcilePreset",
                {"preset_id": preset, "pending_max": self._share_of(preset)},
                id=reconcile_preset_id(preset),
                static_summary=f"Preset {self._paths.get(preset, preset)}: create, delete and cancel as its plan says",
                parent_close_policy=ParentClosePolicy.ABANDON,
                execution_timeout=CHILD_TIMEOUT,
                task_timeout=TASK_TIMEOUT,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            )
            if done.get("more") and not self._leaving:
                self._wanted[preset] = None
        except WorkflowAlreadyStartedError:
            await workflow.sleep(BUSY_PAUSE)
            self._wanted[preset] = None
        except FailureError as error:
            workflow.logger.warning("A preset failed", extra={"preset_id": preset, "error": repr(cause_of(error))})
        finally:
            del self._running[preset]

    def _share_of(self, preset: str) -> int | None:
        if self._pending_max is None or preset not in self._favored:
            return self._pending_max
        self._favored.remove(preset)  # once: until the next pass it is a preset like any other
        return self._pending_max + 1

    def _should_continue_as_new(self) -> bool:
        info = workflow.info()
        events = info.get_current_history_length()
        idle = self._pass is None and not self._running and not self._wanted and not self._wanted_all
        return events >= HISTORY_EVENTS_MAX or (
            idle and (events >= HISTORY_EVENTS or info.is_continue_as_new_suggested())
        )

    async def _continue_as_new(self) -> None:
        """Go on in a new run, once nothing of this one is in the air; a stop that comes meanwhile is carried along."""
        left = self._begin_leaving()
        await self._wait_for_children(PASS_WAIT)
        await workflow.wait_condition(workflow.all_handlers_finished)
        carried = OrchestratorCarried(
            started_at=self._started_at,
            passes=self._passes,
            stop_cause=self._stop,
            stopped_by=self._stopped_by,
            wanted_all=self._wanted_all,
            wanted_presets=[*left, *self._wanted, *self._running],
            next_pass_at=self._next_pass_at,
            ignored=self._ignored,
            pending_max=self._pending_max,
            seen=self._seen,
        )
        workflow.continue_as_new(
            self._input.model_copy(update={"carried": carried, "interval_seconds": self._interval_s})
        )

    def _begin_leaving(self) -> list[str]:
        """Start nothing more. Returns the presets that were still waiting, for whoever comes after."""
        self._leaving = True
        left, self._wanted = list(self._wanted), {}
        return left

    async def _drain(self) -> OrchestratorResult:
        """End: what runs is awaited, recorded builds go on by themselves, and the cause is written down."""
        assert self._stop is not None  # noqa: S101 - `run` comes here for no other reason
        self._begin_leaving()
        self._tell()
        note = asyncio.create_task(self._record_stop(self._stop))
        await self._wait_for_children(timedelta(seconds=self._input.drain_timeout_seconds))
        await note
        await workflow.wait_condition(workflow.all_handlers_finished)
        workflow.set_current_details(f"Stopped: {self._stop}")
        return OrchestratorResult(
            cause=self._stop, passes=self._passes, started_at=self._started_at, stopped_at=workflow.now()
        )

    async def _wait_for_children(self, timeout: timedelta) -> None:
        try:
            await workflow.wait_condition(lambda: not self._running and self._pass is None, timeout=timeout)
        except TimeoutError:
            workflow.logger.warning("Presets are left to their children", extra={"presets": list(self._running)})

    async def _record_stop(self, cause: str) -> None:
        try:
            stopped = [cause, self._input.loop_number, self._stopped_by]
            await workflow.execute_activity_method(ReconcileActivities.record_stop, args=stopped, **NOTE)
        except FailureError as error:  # our completion says the same to whoever would bring us back
            workflow.logger.error("The stop could not be written down", extra={"error": repr(cause_of(error))})

    def _request_stop(self, cause: str, by: str | None = None) -> None:
        if self._stop is None:
            self._stop, self._stopped_by = cause, by
            workflow.logger.info("Stopping", extra={"cause": cause})

    def _ignore(self, what: str) -> None:
        shown = escape(what[:IGNORED_CHARS])[:IGNORED_CHARS]
        self._ignored = [*self._ignored, shown][-IGNORED_KEPT:]
        self._ignored_count += 1
        if self._ignored_count == 1:  # thousands of lines in one task would take longer than a task may
            workflow.logger.warning(
                "A signal was not understood; the status has the newest ones and their number",
                extra={"signal": shown},
            )

    def _tell(self) -> None:
        busy = f"reconciling {len(self._running)} presets, {len(self._wanted)} waiting"
        if self._stop is not None:
            text = f"Draining: {self._stop}; {busy}"
        else:
            text = f"Running: {self._passes} passes, {busy}; next pass at {rfc3339(self._next_pass_at)}"
        workflow.set_current_details(text)
