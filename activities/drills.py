"""The activities of `DrillTemplate`: on control workers, on claims workers, and on provisioner workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity

from activities.heartbeat import heartbeating
from prebuilds.background.dispatch import Dispatcher
from prebuilds.background.drill_trials import TrialEnd, try_workspace
from prebuilds.operations.drill_claims import DrillClaims
from prebuilds.payloads import ClaimResult, ClaimRun
from prebuilds.planning.rules import Rules
from prebuilds.provisioners.base import Provisioner
from prebuilds.store import builds, drill_steps, drills
from prebuilds.store.drills import BegunDrill, DrillEnd
from prebuilds.telemetry.metrics import METRICS
from prebuilds.vocabulary import BuildStatus
from prebuilds.vocabulary.words import one_line

POLL_S = 0.2
POLL_MAX_S = 2.0


@dataclass(frozen=True)
class WatchBuild:
    """Input of `watch_build`."""

    drill_id: UUID
    build_id: UUID
    """A build of the drill's workspace."""
    within_seconds: float


@dataclass(frozen=True)
class WatchedBuild:
    """The end of a build; without a status, it did not end in time."""

    status: BuildStatus | None
    """None if it did not end in time."""
    reason: str | None
    """Why it did not succeed; None if it did."""
    evidence: list[str]
    seconds: float
    """Seconds from its record to its end; 0 if it did not end."""
    queue: str
    """The task queue of its provisioning, by which the workspace can be reached."""


@dataclass(frozen=True)
class TakePrebuild:
    """Input of `take_prebuild`."""

    drill_id: UUID
    preset_id: UUID
    run: ClaimRun


class DrillActivities:
    """The drill's activities on control workers."""

    def __init__(self, engine: AsyncEngine, dispatcher: Dispatcher, rules: Rules) -> None:
        self._engine = engine
        self._dispatcher = dispatcher
        self._rules = rules

    @activity.defn
    async def begin_drill(self, drill_id: UUID) -> BegunDrill | None:
        """Choose the preset, or end the drill as skipped. Return None if there is no such drill."""
        begun = await drills.begin_drill(self._engine, drill_id, self._rules)
        if begun is not None and begun.outcome == "skipped":
            organization, template, *_ = begun.preset.split("/")
            METRICS.count_drill({"organization_name": organization, "template_name": template}, begun.outcome)
        return begun

    @activity.defn
    async def watch_build(self, input: WatchBuild) -> WatchedBuild:
        """Wait until a build has ended, or for the given time."""
        await drills.record_claim(self._engine, input.drill_id)
        async with heartbeating():
            clock, pause = asyncio.get_running_loop().time, POLL_S
            ends_at = clock() + input.within_seconds
            while (ended := await drill_steps.read_ended(self._engine, input.build_id)) is None and clock() < ends_at:
                await asyncio.sleep(pause)
                pause = min(pause * 1.2, POLL_MAX_S)
        [facts] = await builds.read_builds(self._engine, [input.build_id])
        if ended is None:
            lines = await drill_steps.read_evidence(self._engine, input.build_id, None)
            return WatchedBuild(None, f"not done within {input.within_seconds:g} s", lines, 0.0, facts.queue)
        if ended.status is BuildStatus.SUCCEEDED:
            return WatchedBuild(ended.status, None, [], ended.seconds, facts.queue)
        lines = await drill_steps.read_evidence(self._engine, input.build_id, ended.error)
        return WatchedBuild(ended.status, one_line(ended.error or ""), lines, ended.seconds, facts.queue)

    @activity.defn
    async def release_drilled(self, drill_id: UUID) -> UUID | None:
        """Record the deletion of a drill's workspace, and return the build; None if there is nothing to delete."""
        workspace_id = await drill_steps.read_claimed(self._engine, drill_id)
        recorded = None if workspace_id is None else await drill_steps.release_own(self._engine, workspace_id)
        if recorded is None:
            return None
        self._dispatcher.cancel_builds(recorded.canceled)
        self._dispatcher.start_builds([recorded.id])
        return recorded.id

    @activity.defn
    async def end_drill(self, end: DrillEnd) -> None:
        """Record how a drill ended."""
        labels = await drills.end_drill(self._engine, end)
        if labels is not None:
            METRICS.count_drill(labels, end.outcome)


class DrillClaimActivities:
    """The drill's activity on claims workers."""

    def __init__(self, claims: DrillClaims) -> None:
        self._claims = claims

    @activity.defn
    async def take_prebuild(self, input: TakePrebuild) -> ClaimResult:
        """Take a prebuild that can be spared; see `DrillClaims.take`."""
        return await self._claims.take(input.drill_id, input.preset_id, input.run)


class DrillTrialActivities:
    """The drill's activity on provisioner workers."""

    def __init__(self, engine: AsyncEngine, driver: Callable[[str], Provisioner]) -> None:
        """Make the activities of one provisioner worker.

        Args:
            driver: Returns the driver with a name, the same one each time.
        """
        self._engine = engine
        self._driver = driver

    @activity.defn
    async def try_drilled(self, drill_id: UUID) -> TrialEnd:
        """Wait until a drill's workspace is ready, and run the template's check in it."""
        async with heartbeating():
            trial = await drill_steps.read_trial(self._engine, drill_id)
            if trial is None:
                return TrialEnd(stage="ready", reason="the workspace was stopped, released or transferred meanwhile")
            return await try_workspace(self._driver(trial.provisioner), trial)
