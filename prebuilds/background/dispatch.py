"""Starting what is recorded. Whoever commits a build starts its workflow right after; the relay makes up for the rest.

Nothing here decides anything: a lost start costs the relay's sweep, a lost nudge costs one interval.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Sequence
from datetime import timedelta
from math import inf
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.common import Priority
from temporalio.service import RPCError, RPCStatusCode

from prebuilds.payloads import WorkspaceBuildInput
from prebuilds.store import builds
from prebuilds.store.builds import BuildFacts
from prebuilds.store.hand_over import Served
from prebuilds.telemetry.metrics import METRICS
from prebuilds.temporal.connecting import PEOPLE_PRIORITY, is_failed_connect, start_short
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
"""Nudges of this time go out as one signal."""
NUDGE_SPACING_S = 1.0
"""Between two nudges of one preset, or half of it when another preset's goes out anyway: the first goes at once, and a
burst of 300 claims is two reconciles. Each costs as much as two claims, so that four a second for each of four busy
pools took a third of a machine with two cores."""
NUDGED_MAX = 500
"""Named in one signal; beyond that a pass over all costs less."""
START_DELAY_S = 0.01
"""Builds start after the answer that they follow has left, not beside it; what this time records is read at once."""
STARTS_AT_ONCE = 10
"""Of one process; more would only queue in the server, in front of a claim's own start."""
REST_MAX_S = 0.05
"""A pool's creations start one at a time, and after each there is a rest as long as it took, at most this long: the
busier the server, the more claims go in between. With ten together a claim took half as long again (decision 0005)."""
LINE_READ = 10
"""Creations that are read together, just before they start."""
SIGNAL_TIMEOUT = timedelta(seconds=5)

DELETE_PRIORITY, CREATE_PRIORITY = 2, 4
"""Within a queue: after what a person waits for deletions, which free what creations need. The loop's own is 3."""


class Dispatcher:
    """Starts builds' workflows and nudges the loop, in the background of whoever committed."""

    def __init__(self, engine: AsyncEngine, client: Client) -> None:
        self._engine = engine
        self._client = client
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting = asyncio.Semaphore(STARTS_AT_ONCE)
        self._draining = False
        self._nudges: dict[UUID, float] = {}
        """When each preset is due."""
        self._nudged_at: dict[UUID, float] = {}
        """Within the last `NUDGE_SPACING_S`."""
        self._alarm: asyncio.TimerHandle | None = None
        self._recorded: set[UUID] = set()
        self._line: dict[UUID, None] = {}
        """Creations of pools that wait for their turn."""
        self._repeating: set[UUID] = set()
        """While Temporal is away, the relay asks again and again for what could not be started yet."""

    def start_builds(self, build_ids: Iterable[UUID]) -> None:
        """Start the workflows of recorded builds, soon. Call after the commit."""
        first = not self._recorded
        self._recorded.update(build_ids)
        if first and self._recorded:
            self._spawn(self._start_recorded())

    def repeat_starts(self, build_ids: Iterable[UUID]) -> None:
        """Start builds again whose start may have been lost. Most runs all the same, and is only attached to: these do
        not stand in line before those that were never started."""
        if ids := set(build_ids) - self._line.keys() - self._repeating:
            self._repeating |= ids
            self._spawn(self._repeat(ids))

    def cancel_builds(self, build_ids: Iterable[UUID]) -> None:
        """Cancel the workflows of builds that were cancelled, soon. Call after the commit.

        One that is lost is made up for: the relay cancels what is canceling again, and what has ended ends by itself
        once a provisioner takes it up.
        """
        for build_id in build_ids:
            self._spawn(self._cancel(build_id))

    def nudge(self, preset_ids: Iterable[UUID], *, urgent: bool = False) -> None:
        """Ask the loop to reconcile these presets now, soon. Call after the commit. A stopped loop stays stopped.

        Args:
            urgent: Also when they were nudged a moment ago.
        """
        now = asyncio.get_running_loop().time()
        for preset in preset_ids:
            spaced = 0.0 if urgent else self._nudged_at.get(preset, 0.0) + NUDGE_SPACING_S
            due = max(now + NUDGE_WINDOW_S, spaced)
            self._nudges[preset] = min(due, self._nudges.get(preset, due))
        self._nudge_later()

    def follow(self, served: Served) -> None:
        """Go on after a hand-over: tell who waited, start the claims' builds, refill. Call after the commit."""
        for workflow_id in served.workflow_ids:
            self._spawn(self._wake(workflow_id))
        for labels in served.labels:
            METRICS.count_claim(labels, None)
        self.start_builds(served.build_ids)
        self.nudge(served.preset_ids)

    async def drain(self) -> None:
        """Do what was asked for so far, and wait for it; called before the process ends."""
        self._nudges = dict.fromkeys(self._nudges, 0.0)
        self._nudge_now()
        self._draining = True
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._draining = False

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, RPCError) or is_failed_connect(error):
            logger.warning("A background start failed; the relay will repeat it: %s", error)
        else:
            logger.warning("A background start failed; the relay will repeat it", exc_info=error)

    def _nudge_later(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        if self._nudges:
            self._alarm = asyncio.get_running_loop().call_at(min(self._nudges.values()), self._nudge_now)

    def _nudge_now(self) -> None:
        now = asyncio.get_running_loop().time()
        # Whoever is due soon comes along: one signal for all busy presets costs the loop less than one for each.
        soon = now + NUDGE_SPACING_S / 2 if min(self._nudges.values(), default=inf) <= now else now
        due = sorted(preset for preset, at in self._nudges.items() if at <= soon)
        self._nudged_at = {preset: at for preset, at in self._nudged_at.items() if at > now - NUDGE_SPACING_S}
        for preset in due:
            self._nudged_at[preset] = now
            del self._nudges[preset]
        self._nudge_later()
        if due:
            self._spawn(self._send_nudges(due))

    async def _send_nudges(self, presets: Sequence[UUID]) -> None:
        if len(presets) > NUDGED_MAX:
            presets = []  # all
        handle = self._client.get_workflow_handle(ORCHESTRATOR_ID)
        try:
            await handle.signal("nudge", [str(preset) for preset in presets], rpc_timeout=SIGNAL_TIMEOUT)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:  # not found: the loop is stopped, and is to stay so
                raise

    async def _wake(self, workflow_id: str) -> None:
        try:
            await self._client.get_workflow_handle(workflow_id).signal("wake", rpc_timeout=SIGNAL_TIMEOUT)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:  # not found: the relay withdraws it
                raise

    async def _cancel(self, build_id: UUID) -> None:
        async with self._starting:
            await self._ask_to_end(build_id)

    async def _ask_to_end(self, build_id: UUID) -> None:
        try:
            await self._client.get_workflow_handle(build_workflow_id(build_id)).cancel(rpc_timeout=SIGNAL_TIMEOUT)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:  # not found: it was not started yet, or has ended
                raise

    async def _start_recorded(self) -> None:
        await asyncio.sleep(START_DELAY_S)
        ids, self._recorded = self._recorded, set()
        for build in await self._unfinished(ids):
            if not (build.pool and build.transition is Transition.START):
                self._spawn(self._start(build))
                continue
            if not self._line:
                self._spawn(self._start_in_turn())
            self._line[build.id] = None

    async def _repeat(self, ids: set[UUID]) -> None:
        try:
            starts = [self._start(build) for build in await self._unfinished(ids)]
            outcomes = await asyncio.gather(*starts, return_exceptions=True)
        finally:
            self._repeating -= ids
        for error in filter(None, outcomes):
            raise error

    async def _start_in_turn(self) -> None:
        try:
            while self._line:
                ids = list(self._line)[:LINE_READ]
                for build in await self._unfinished(ids):
                    if self._draining:
                        self._spawn(self._start(build))
                    else:
                        await self._start_and_rest(build)
                for id in ids:
                    del self._line[id]
        finally:
            self._line.clear()  # Temporal or the database is away: the relay repeats what was left

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

    async def _unfinished(self, ids: Iterable[UUID]) -> list[BuildFacts]:
        return [build for build in await builds.read_builds(self._engine, list(ids)) if not build.status.ended]

    async def _start(self, build: BuildFacts) -> None:
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
                    priority_key=_priority(build),
                    fairness_key=str(build.preset_id or build.workspace_id),
                ),
            )
            if build.status is BuildStatus.CANCELING:  # the start has only attached to what runs
                await self._ask_to_end(build.id)


def _priority(build: BuildFacts) -> int:
    if not build.pool:
        return PEOPLE_PRIORITY
    return DELETE_PRIORITY if build.transition is Transition.DELETE else CREATE_PRIORITY
