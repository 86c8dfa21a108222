"""Starts the workflows of recorded builds, and sends signals, in the background.

A process that commits a build starts its workflow right after the commit. The relay makes up for starts that are lost.
Nothing here decides anything: a lost start costs the time until the relay's sweep, a lost nudge costs one interval of
the loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Sequence
from contextvars import Context
from datetime import timedelta
from math import inf
from typing import Any
from uuid import UUID

from opentelemetry.trace import Link
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.common import Priority
from temporalio.service import RPCError, RPCStatusCode

from prebuilds.failures.temporal import is_failed_connect
from prebuilds.payloads import WorkspaceBuildInput
from prebuilds.planning.sizing.replay import REFILL_SPACING_S
from prebuilds.store import builds
from prebuilds.store.builds import BuildFacts
from prebuilds.store.hand_over import Served
from prebuilds.telemetry import tracing
from prebuilds.telemetry.metrics import METRICS
from prebuilds.temporal.connecting import PEOPLE_PRIORITY, start_short
from prebuilds.vocabulary import (
    CONTROL_QUEUE,
    ORCHESTRATOR_ID,
    PREBUILDS_USER,
    BuildStatus,
    Transition,
    build_workflow_id,
)

logger = logging.getLogger(__name__)

NUDGE_WINDOW_S = 0.02
"""Nudges within this many seconds are sent as one signal."""
NUDGE_SPACING_S = REFILL_SPACING_S
"""The shortest time between two nudges of one preset, in seconds; half of it when a nudge for another preset is sent
anyway. The first nudge goes at once. Replays of sizes count with it."""
NUDGED_MAX = 500
"""The most presets that one signal names. For more presets, a pass over all of them costs less."""
START_DELAY_S = 0.01
"""How long a build's start is delayed, in seconds. The delay lets the answer to the caller leave first, and lets builds
that are recorded meanwhile be read together."""
STARTS_AT_ONCE = 10
"""Concurrent starts per process. More would queue at the server and delay the starts of claims."""
REST_MAX_S = 0.05
"""The longest pause after the start of a pool's creation, in seconds. Such creations start one at a time, and after
each there is a pause as long as its start took: the busier the server is, the more claims get through in between. When
ten were started together, a claim took half as long again (decision 0005)."""
CREATIONS_READ = 10
"""How many creations are read together, just before they start."""
SIGNAL_TIMEOUT = timedelta(seconds=5)
CAUSES_MAX = 100
"""The most links of one nudge; the SDK keeps 128 of a span."""

DELETE_PRIORITY, CREATE_PRIORITY = 2, 4
"""Priorities within a queue. Work that a person waits for comes first. Deletions come next, since they free what
creations need. The loop's own priority is 3."""


class Dispatcher:
    """Starts builds' workflows and nudges the loop, in background tasks of the process that has committed."""

    def __init__(self, engine: AsyncEngine, client: Client) -> None:
        self._engine = engine
        self._client = client
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting = asyncio.Semaphore(STARTS_AT_ONCE)
        self._draining = False
        self._nudges: dict[UUID, float] = {}
        """When the next nudge of each preset is due, by the event loop's clock."""
        self._nudged_at: dict[UUID, float] = {}
        """When presets were nudged within the last `NUDGE_SPACING_S`."""
        self._nudge_timer: asyncio.TimerHandle | None = None
        self._nudge_causes: list[Link] = []
        """Links to the spans that have asked for the next nudges."""
        self._recorded: set[UUID] = set()
        """Builds to start after `START_DELAY_S`."""
        self._creations: dict[UUID, None] = {}
        """Creations of pools that wait to be started one after the other, in order."""
        self._repeating: set[UUID] = set()
        """Builds whose start is being repeated. While Temporal is away, the relay requests the same builds again and
        again; they must not pile up."""

    def start_builds(self, build_ids: Iterable[UUID]) -> None:
        """Start the workflows of recorded builds, soon. Call after the commit."""
        first = not self._recorded
        self._recorded.update(build_ids)
        if first and self._recorded:
            self._spawn(self._start_recorded())

    def repeat_starts(self, build_ids: Iterable[UUID]) -> None:
        """Start builds again whose start may have been lost.

        Most of their workflows run nevertheless, and the start only attaches to them. So these builds do not wait in
        line with creations that were never started.
        """
        if ids := set(build_ids) - self._creations.keys() - self._repeating:
            self._repeating |= ids
            self._spawn(self._repeat(ids))

    def cancel_builds(self, build_ids: Iterable[UUID]) -> None:
        """Cancel the workflows of builds that were cancelled, soon. Call after the commit.

        The relay repeats a lost cancellation of a build that is canceling. A build whose record has already ended needs
        no repetition: its workflow ends by itself when a provisioner begins with it.
        """
        if ids := list(build_ids):
            self._spawn(self._cancel_each(ids), traced=True)

    def nudge(self, preset_ids: Iterable[UUID], *, urgent: bool = False) -> None:
        """Ask the loop, soon, to reconcile these presets. Call after the commit. A stopped loop stays stopped.

        Args:
            urgent: Whether to nudge them even when they were nudged less than `NUDGE_SPACING_S` ago.
        """
        now = asyncio.get_running_loop().time()
        is_sooner = False
        for preset in preset_ids:
            spaced = 0.0 if urgent else self._nudged_at.get(preset, 0.0) + NUDGE_SPACING_S
            due = max(now + NUDGE_WINDOW_S, spaced)
            if due < self._nudges.get(preset, inf):
                self._nudges[preset] = due
                is_sooner = True
        if (cause := tracing.link_to_current()) is not None and len(self._nudge_causes) < CAUSES_MAX:
            self._nudge_causes.append(cause)
        if is_sooner:
            self._schedule_nudges()

    def follow_up(self, served: Served) -> None:
        """Act on hand-overs: wake the waiting claims, start their builds, refill the pools. Call after the commit."""
        for workflow_id in served.workflow_ids:
            self._spawn(self._wake(workflow_id), traced=True)
        for labels in served.labels:
            METRICS.count_claim(labels, None)
        for waited in served.waited:
            METRICS.record_wait(waited)
        self.start_builds(served.build_ids)
        self.nudge(served.preset_ids)

    async def drain(self) -> None:
        """Finish all requests so far without delays, and wait for them. Call before the process ends."""
        self._nudges = dict.fromkeys(self._nudges, 0.0)
        self._send_due_nudges()
        self._draining = True
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._draining = False

    def _spawn(self, work: Coroutine[Any, Any, None], *, traced: bool = False) -> None:
        """Run *work* in the background.

        Args:
            traced: Whether it belongs to the caller's trace. False for work that is done for several callers together.
        """
        task = asyncio.create_task(work, context=None if traced else Context())
        self._tasks.add(task)
        task.add_done_callback(self._forget_task)

    def _forget_task(self, task: asyncio.Task[None]) -> None:
        """Log why a finished task has failed; the relay repeats its work."""
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, RPCError) or is_failed_connect(error):
            logger.warning("A background start failed; the relay will repeat it: %s", error)
        else:
            logger.warning("A background start failed; the relay will repeat it", exc_info=error)

    def _schedule_nudges(self) -> None:
        """Set the timer for the first nudge that is due."""
        if self._nudge_timer is not None:
            self._nudge_timer.cancel()
        if self._nudges:
            self._nudge_timer = asyncio.get_running_loop().call_at(min(self._nudges.values()), self._send_due_nudges)

    def _send_due_nudges(self) -> None:
        now = asyncio.get_running_loop().time()
        # Nudges that are due soon are sent too: one signal for all busy presets costs the loop less than one for each.
        soon = now + NUDGE_SPACING_S / 2 if min(self._nudges.values(), default=inf) <= now else now
        due = sorted(preset for preset, at in self._nudges.items() if at <= soon)
        self._nudged_at = {preset: at for preset, at in self._nudged_at.items() if at > now - NUDGE_SPACING_S}
        for preset in due:
            self._nudged_at[preset] = now
            del self._nudges[preset]
        self._schedule_nudges()
        if due:
            causes, self._nudge_causes = self._nudge_causes, []
            self._spawn(self._send_nudges(due, causes))

    async def _send_nudges(self, presets: Sequence[UUID], causes: Sequence[Link]) -> None:
        if len(presets) > NUDGED_MAX:
            presets = []  # an empty list means all presets
        handle = self._client.get_workflow_handle(ORCHESTRATOR_ID)
        with tracing.span("nudge", {"prebuilds.presets": len(presets)}, links=causes):
            try:
                await handle.signal("nudge", [str(preset) for preset in presets], rpc_timeout=SIGNAL_TIMEOUT)
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:  # not found: the loop is stopped and stays stopped
                    raise

    async def _wake(self, workflow_id: str) -> None:
        try:
            await self._client.get_workflow_handle(workflow_id).signal("wake", rpc_timeout=SIGNAL_TIMEOUT)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:  # not found: the relay withdraws the claim
                raise

    async def _cancel_each(self, ids: Sequence[UUID]) -> None:
        left = iter(ids)

        async def cancel_until_error() -> None:
            for build_id in left:
                await self._cancel(build_id)

        # Each worker stops at its first error: while Temporal is away, 12,000 timeouts would take hours.
        workers = [cancel_until_error() for _ in range(min(STARTS_AT_ONCE, len(ids)))]
        for error in filter(None, await asyncio.gather(*workers, return_exceptions=True)):
            raise error

    async def _cancel(self, build_id: UUID) -> None:
        async with self._starting:
            await self._cancel_workflow(build_id)

    async def _cancel_workflow(self, build_id: UUID) -> None:
        try:
            await self._client.get_workflow_handle(build_workflow_id(build_id)).cancel(rpc_timeout=SIGNAL_TIMEOUT)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:  # not found: the workflow has not started yet, or has ended
                raise

    async def _start_recorded(self) -> None:
        await asyncio.sleep(START_DELAY_S)
        ids, self._recorded = self._recorded, set()
        for build in await self._read_unfinished(ids):
            if not (build.pool and build.transition is Transition.START):
                self._spawn(self._start(build))
                continue
            if not self._creations:
                self._spawn(self._start_creations())
            self._creations[build.id] = None

    async def _repeat(self, ids: set[UUID]) -> None:
        try:
            starts = [self._start(build) for build in await self._read_unfinished(ids)]
            outcomes = await asyncio.gather(*starts, return_exceptions=True)
        finally:
            self._repeating -= ids
        for error in filter(None, outcomes):
            raise error

    async def _start_creations(self) -> None:
        """Start the creations of pools one after the other, until none is left."""
        try:
            while self._creations:
                ids = list(self._creations)[:CREATIONS_READ]
                for build in await self._read_unfinished(ids):
                    if self._draining:
                        self._spawn(self._start(build))
                    else:
                        await self._start_and_rest(build)
                for id in ids:
                    del self._creations[id]
        finally:
            self._creations.clear()  # Temporal or the database is away: the relay repeats the others

    async def _start_and_rest(self, build: BuildFacts) -> None:
        clock = asyncio.get_running_loop().time
        begun = clock()
        try:
            await self._start(build)
        except RPCError as error:
            if error.status in (RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED):
                raise
            logger.warning("A build's start failed; the relay will repeat it: %s", error)
        await asyncio.sleep(min(clock() - begun, REST_MAX_S))

    async def _read_unfinished(self, ids: Iterable[UUID]) -> list[BuildFacts]:
        return [build for build in await builds.read_builds(self._engine, list(ids)) if not build.status.ended]

    async def _start(self, build: BuildFacts) -> None:
        with tracing.in_trace(build.traceparent):
            await self._start_workflow(build)

    async def _start_workflow(self, build: BuildFacts) -> None:
        path = f"{build.organization}/{build.template}"
        async with self._starting:
            await start_short(
                self._client,
                "WorkspaceBuild",
                WorkspaceBuildInput(
                    build_id=build.id,
                    queue=build.queue,
                    timeout_seconds=build.build_timeout.total_seconds(),
                ),
                id=build_workflow_id(build.id),
                task_queue=CONTROL_QUEUE,
                summary=f"{build.transition} {build.owner}/{build.name} of {path}/{build.preset or '-'}",
                search={
                    "preset": f"{path}/{build.preset}" if build.preset else None,
                    "template": path,
                    "initiator": PREBUILDS_USER if build.pool else build.initiator,
                    "owner": build.owner,
                    "transition": build.transition,
                },
                priority=Priority(
                    priority_key=_priority_of(build),
                    fairness_key=str(build.preset_id or build.workspace_id),
                ),
            )
            if build.status is BuildStatus.CANCELING:  # the start has only attached to the running workflow
                await self._cancel_workflow(build.id)


def _priority_of(build: BuildFacts) -> int:
    if not build.pool:
        return PEOPLE_PRIORITY
    return DELETE_PRIORITY if build.transition is Transition.DELETE else CREATE_PRIORITY
