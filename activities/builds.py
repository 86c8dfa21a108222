"""The control worker's activities of a build: finding its queue, and ending it when its provisioner could not."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity

from prebuilds.api import WorkspaceNotFound
from prebuilds.background.dispatch import Dispatcher
from prebuilds.payloads import Replacement
from prebuilds.store import builds
from prebuilds.store.build_end import BuildEnd, end_build
from prebuilds.store.builds import BuildFacts
from prebuilds.store.replacements import RecordedReplacements, read_replacements
from prebuilds.store.workspaces import check_not_released, show_workspace
from prebuilds.telemetry.metrics import METRICS
from prebuilds.temporal.queues import polled_within
from prebuilds.vocabulary import PEOPLE_SUFFIX, BuildStatus, Stage, Transition


@dataclass(frozen=True)
class BuildOutcome:
    """The outcome of a build, or the queue that it has to move to."""

    status: BuildStatus
    error: str | None = None
    replacements: list[Replacement] = field(default_factory=list)
    moved_to: str | None = None
    """The queue of the host that has the workspace; None unless the build must run there."""
    address: str | None = None
    """The workspace's address, after a start that has succeeded; None otherwise."""


@dataclass(frozen=True)
class BuildRoute:
    """The queue on which a build's provisioning runs, and the most seconds that an attempt may take."""

    queue: str
    timeout_seconds: float
    ended: BuildOutcome | None = None
    """The outcome of a build that has ended already; None when it has to be provisioned."""


@dataclass(frozen=True)
class CloseBuild:
    """Input of `close_build`: the end of a build, unless it has ended by itself."""

    build_id: UUID
    status: BuildStatus
    error: str
    error_type: str


POLL_WITHIN = timedelta(seconds=65)
"""A worker that has polled a queue within this time lives: one with a free slot polls every minute."""


class BuildActivities:
    """Activities of `WorkspaceBuild` on control workers."""

    def __init__(self, engine: AsyncEngine, dispatcher: Dispatcher) -> None:
        self._engine = engine
        self._dispatcher = dispatcher

    @activity.defn
    async def locate_build(self, build_id: UUID) -> BuildRoute:
        """Read a build's queue and timeout, for a start of the workflow that did not give them.

        Raises:
            WorkspaceNotFound: There is no such build, or it is a successful start of a workspace that was released
                since.
        """
        found = await builds.read_builds(self._engine, [build_id])
        if not found:
            raise WorkspaceNotFound(
                f"no build has the id {build_id}",
                {"build_id": str(build_id)},
                remedy="correct it as `prebuilds jobs list` has it",
            )
        facts = found[0]
        if facts.transition is Transition.START and facts.status is BuildStatus.SUCCEEDED:
            await check_not_released(self._engine, facts.workspace_id)  # its address may belong to somebody else now
        ended = await read_outcome(self._engine, facts) if facts.status.ended else None
        return BuildRoute(facts.queue, facts.build_timeout.total_seconds(), ended)

    @activity.defn
    async def host_is_there(self, queue: str) -> bool:
        """Return whether the worker of a host's queue lives.

        A worker polls one queue for the pool's builds and one for people's builds. While all slots of one kind are in
        use, it polls only the other queue, so either poll shows that it lives.
        """
        base, host = queue.split("@")
        base = base.removesuffix(PEOPLE_SUFFIX)
        return await polled_within(activity.client(), [f"{base}@{host}", f"{base}{PEOPLE_SUFFIX}@{host}"], POLL_WITHIN)

    @activity.defn
    async def close_build(self, input: CloseBuild) -> BuildOutcome:
        """End a build that timed out or was cancelled. A build that has ended by itself keeps its outcome."""
        end = await end_build(
            self._engine,
            input.build_id,
            input.status,
            error=input.error,
            error_type=input.error_type,
            unless_canceling=True,
        )
        return await follow_up_end(self._engine, self._dispatcher, end)


async def follow_up_end(engine: AsyncEngine, dispatcher: Dispatcher, end: BuildEnd) -> BuildOutcome:
    """Nudge the preset of a build that ended other than by its driver's success, and return the build's outcome.

    That is a build that failed or was canceled, or a deletion that ended without removing what belongs to another.
    After a failure the pool lacks a prebuild, and the preset may have to back off: the nudge has this decided at once,
    not at the next pass. A build that had ended before keeps the outcome of that time.
    """
    dispatcher.cancel_builds(end.canceled)
    if end.facts.pool and end.facts.preset_id is not None:
        dispatcher.nudge([end.facts.preset_id])
    if not end.ended_now:
        return await read_outcome(engine, end.facts)
    recorded = await read_recorded_replacements(engine, end.facts)
    measure_build(end, replaced=recorded.first)
    return BuildOutcome(end.status, end.error, recorded.replacements)


async def read_recorded_replacements(engine: AsyncEngine, facts: BuildFacts) -> RecordedReplacements:
    """Read the replacements that were recorded for a claim's build; other builds replace nothing."""
    if facts.stage is not Stage.CLAIM:
        return RecordedReplacements([], first=False)
    return await read_replacements(engine, facts.id)


def measure_build(end: BuildEnd, *, replaced: bool) -> None:
    """Count the end of a build in the metrics, unless it had ended before.

    Args:
        replaced: Whether the build is the first of its prebuild's claims to replace a resource.
    """
    if end.took is None:
        return
    facts = end.facts
    METRICS.record_build(
        {
            "organization_name": facts.organization,
            "template_name": facts.template,
            "preset_name": facts.preset or "",
        },
        transition=facts.transition,
        stage=facts.stage,
        status=end.status,
        duration=end.took,
        replaced=replaced,
    )


async def read_outcome(engine: AsyncEngine, facts: BuildFacts) -> BuildOutcome:
    """Read the outcome of a build that has ended already."""
    address = None
    if facts.transition is Transition.START and facts.status is BuildStatus.SUCCEEDED:
        address = (await show_workspace(engine, str(facts.workspace_id))).address
    recorded = await read_recorded_replacements(engine, facts)
    return BuildOutcome(facts.status, facts.error, recorded.replacements, address=address)
