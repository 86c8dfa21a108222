"""The control side of a build: where it runs, and its end when no provisioner could tell."""

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
from prebuilds.store.replacements import Recorded, read_replacements
from prebuilds.store.workspaces import check_not_released, show_workspace
from prebuilds.telemetry.metrics import METRICS
from prebuilds.temporal.queues import polled_within
from prebuilds.vocabulary import PEOPLE_SUFFIX, BuildStatus, Stage, Transition


@dataclass(frozen=True)
class BuildOutcome:
    """How a build ended; or, with `moved_to`, that another queue must take it."""

    status: BuildStatus
    error: str | None = None
    replacements: list[Replacement] = field(default_factory=list)
    moved_to: str | None = None
    address: str | None = None
    """Of the workspace, after a start that has succeeded."""


@dataclass(frozen=True)
class BuildPlace:
    """Where a build's provisioning runs, and for how long at most."""

    queue: str
    timeout_seconds: float
    ended: BuildOutcome | None = None
    """Set: it has ended before, so nothing is left to provision."""


@dataclass(frozen=True)
class CloseBuild:
    build_id: UUID
    status: BuildStatus
    error: str
    error_type: str


POLL_WITHIN = timedelta(seconds=65)
"""A worker that has a slot polls each minute."""


class BuildActivities:
    def __init__(self, engine: AsyncEngine, dispatcher: Dispatcher) -> None:
        self._engine = engine
        self._dispatcher = dispatcher

    @activity.defn
    async def locate_build(self, build_id: UUID) -> BuildPlace:
        """Look up what the start did not say, as for who waits for a build of another's.

        Raises:
            WorkspaceNotFound: There is no such build; or it is a start that succeeded, of a workspace released since.
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
            await check_not_released(self._engine, facts.workspace_id)  # its address may be somebody else's by now
        ended = await ended_outcome(self._engine, facts) if facts.status.ended else None
        return BuildPlace(facts.queue, facts.build_timeout.total_seconds(), ended)

    @activity.defn
    async def host_is_there(self, queue: str) -> bool:
        """Whether the worker of a host's queue lives: it asks for the pool's builds or for people's, though it has no
        slot for more of the other kind."""
        base, host = queue.split("@")
        base = base.removesuffix(PEOPLE_SUFFIX)
        return await polled_within(activity.client(), [f"{base}@{host}", f"{base}{PEOPLE_SUFFIX}@{host}"], POLL_WITHIN)

    @activity.defn
    async def close_build(self, input: CloseBuild) -> BuildOutcome:
        """End a build that ran out of time or was cancelled; one that has ended by itself stays as it ended."""
        end = await end_build(
            self._engine,
            input.build_id,
            input.status,
            error=input.error,
            error_type=input.error_type,
            unless_canceling=True,
        )
        return await ended_badly(self._engine, self._dispatcher, end)


async def ended_badly(engine: AsyncEngine, dispatcher: Dispatcher, end: BuildEnd) -> BuildOutcome:
    """Follow up a build that has not succeeded. The pool lacks one now, and its preset may have to back off: that is
    decided at once, not at the next pass. One that had ended before is told as it ended then."""
    dispatcher.cancel_builds(end.canceled)
    if end.facts.pool and end.facts.preset_id is not None:
        dispatcher.nudge([end.facts.preset_id])
    if not end.ended_now:
        return await ended_outcome(engine, end.facts)
    replaced = await read_replaced(engine, end.facts)
    measure(end, replaced=replaced.first)
    return BuildOutcome(end.status, end.error, replaced.replacements)


async def read_replaced(engine: AsyncEngine, facts: BuildFacts) -> Recorded:
    """What a claim's build has replaced so far; other builds replace nothing."""
    if facts.stage is not Stage.CLAIM:
        return Recorded([], first=False)
    return await read_replacements(engine, facts.id)


def measure(end: BuildEnd, *, replaced: bool) -> None:
    """Count a build's end, unless it had ended before."""
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


async def ended_outcome(engine: AsyncEngine, facts: BuildFacts) -> BuildOutcome:
    """How a build has ended that somebody asks for again."""
    address = None
    if facts.transition is Transition.START and facts.status is BuildStatus.SUCCEEDED:
        address = (await show_workspace(engine, str(facts.workspace_id))).address
    replaced = await read_replaced(engine, facts)
    return BuildOutcome(facts.status, facts.error, replaced.replacements, address=address)
