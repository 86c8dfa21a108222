"""Builds, for callers who have no workflow of their own: how one stands, and a wait for its end.

Both are read from the database, where a build's end is recorded: also while Temporal is away.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import StoreUnavailable
from prebuilds.failures.database import store_answers
from prebuilds.payloads import WorkspaceBuildResult
from prebuilds.payloads.not_found import no_build
from prebuilds.store.builds import BuildFacts, read_builds
from prebuilds.store.replacements import read_replacements
from prebuilds.store.workspaces import check_not_released, show_workspace
from prebuilds.vocabulary import BuildStatus, Stage, Transition

logger = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.2
"""Seconds between two reads of the awaited builds. One statement reads all of them."""


@dataclass(frozen=True, slots=True)
class BuildOperations:
    """Reads recorded builds."""

    engine: AsyncEngine

    async def find(self, build_id: UUID) -> BuildFacts:
        """Find a build.

        Raises:
            WorkspaceNotFound: No build has this id.
        """
        if not (found := await read_builds(self.engine, [build_id])):
            raise no_build(build_id)
        return found[0]

    async def read(self, build_id: UUID) -> WorkspaceBuildResult:
        """Read how a build stands.

        Returns:
            Its status. After a start that has succeeded, with the workspace's present address.
        Raises:
            WorkspaceNotFound: No build has this id, or it is a successful start of a workspace that was released since.
        """
        facts = await self.find(build_id)
        address, replacements = None, []
        if facts.transition is Transition.START and facts.status is BuildStatus.SUCCEEDED:
            await check_not_released(self.engine, facts.workspace_id)  # its address may belong to somebody else now
            address = (await show_workspace(self.engine, str(facts.workspace_id))).address
        if facts.stage is Stage.CLAIM and facts.status.ended:
            replacements = (await read_replacements(self.engine, facts.id)).replacements
        return WorkspaceBuildResult(status=facts.status, error=facts.error, replacements=replacements, address=address)


class BuildWatch:
    """Tells any number of waiters of the ends of builds."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._awaited: dict[asyncio.Future[None], UUID] = {}
        self._polling: asyncio.Task[None] | None = None

    async def wait_ended(self, build_id: UUID, within_s: float) -> None:
        """Return once a build has ended, or the time is over."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._awaited[ended] = build_id
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll_builds())
        try:
            await asyncio.wait({ended}, timeout=within_s)
        finally:
            del self._awaited[ended]

    async def _poll_builds(self) -> None:
        """Read the awaited builds again and again while anybody waits, also through an outage of the database."""
        while self._awaited:
            try:
                with store_answers():
                    found = await read_builds(self._engine, list(set(self._awaited.values())))
            except StoreUnavailable as error:
                logger.debug("Awaited builds could not be read", extra={"error": repr(error)})
                found = []
            done = {facts.id for facts in found if facts.status.ended}
            for ended, build_id in self._awaited.items():
                if build_id in done and not ended.done():
                    ended.set_result(None)
            await asyncio.sleep(POLL_INTERVAL_S)
