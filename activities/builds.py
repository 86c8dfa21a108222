"""The control side of a build: where it runs, and its end when no provisioner could tell."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity

from prebuilds.api import WorkspaceNotFound
from prebuilds.payloads import BuildStatus, Replacement, Transition
from prebuilds.store import builds
from prebuilds.store.build_end import end_build
from prebuilds.store.builds import BuildFacts
from prebuilds.store.workspaces import show_workspace


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


class BuildActivities:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @activity.defn
    async def locate_build(self, build_id: UUID) -> BuildPlace:
        """Look up what the start did not say."""
        found = await builds.read_builds(self._engine, [build_id])
        if not found:
            raise WorkspaceNotFound(f"no build has the id {build_id}", {"build_id": str(build_id)})
        facts = found[0]
        ended = await ended_outcome(self._engine, facts) if facts.status.ended else None
        return BuildPlace(facts.queue, facts.build_timeout.total_seconds(), ended)

    @activity.defn
    async def close_build(self, input: CloseBuild) -> BuildOutcome:
        """End a build that ran out of time or was cancelled; one that has ended by itself stays as it ended."""
        end = await end_build(
            self._engine, input.build_id, input.status, error=input.error, error_type=input.error_type
        )
        return BuildOutcome(end.status, end.error)


async def ended_outcome(engine: AsyncEngine, facts: BuildFacts) -> BuildOutcome:
    """How a build has ended that somebody asks for again."""
    address = None
    if facts.transition is Transition.START and facts.status is BuildStatus.SUCCEEDED:
        address = (await show_workspace(engine, str(facts.workspace_id))).address
    return BuildOutcome(facts.status, facts.error, address=address)
