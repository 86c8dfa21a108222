"""The activities of `LintPreset`: find ready prebuilds, and plan a claim on a worker beside the driver."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity

from activities.heartbeat import heartbeating
from prebuilds.api import ProvisionFailed
from prebuilds.payloads import Payload, Replacement
from prebuilds.provisioners.base import InvalidSource, OwnedByAnother, Provisioner, StaleBuild
from prebuilds.store import lint
from prebuilds.store.lint import Candidate, Candidates


class Linted(Payload):
    """The replacements that a claim of a prebuild would cause."""

    gone: bool = False
    """Whether the prebuild was claimed meanwhile; then the replacements are not known."""
    replacements: list[Replacement] = Field(default_factory=list)


class CandidateActivities:
    """The lint's activity on control workers."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @activity.defn
    async def find_candidates(self, preset: str) -> Candidates:
        """Find ready prebuilds for which a claim can be planned.

        Raises:
            PresetNotFound: No live template has the preset.
            NoClaimablePrebuiltWorkspaces: It has no ready prebuild.
        """
        return await lint.find_candidates(self._engine, preset)


class LintActivities:
    """The lint's activity on provisioner workers."""

    def __init__(self, engine: AsyncEngine, driver: Callable[[str], Provisioner]) -> None:
        """Make the activities of one provisioner worker.

        Args:
            driver: Returns the driver with a name, the same one each time.
        """
        self._engine = engine
        self._driver = driver

    @activity.defn
    async def plan_claim(self, candidate: Candidate) -> Linted:
        """Plan a claim with made-up inputs.

        Raises:
            ProvisionFailed: The claim cannot be planned; the message has the reason.
        """
        async with heartbeating():
            found = await lint.read_claim(self._engine, candidate)
            if found is None:
                return Linted(gone=True)
            provisioner, wanted = found
            try:
                replacements = await self._driver(provisioner).plan(wanted)
            except StaleBuild:
                return Linted(gone=True)
            except (InvalidSource, OwnedByAnother, ProvisionFailed) as error:
                message = f"a claim with made-up inputs cannot be planned: {error.message}"
                raise ProvisionFailed(message, error.details, remedy=error.remedy) from error
            if not await lint.is_ready(self._engine, candidate):
                return Linted(gone=True)  # the plan may have seen part of the claim's effect
            return Linted(replacements=replacements)
