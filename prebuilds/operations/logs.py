"""Builds' logs: what their drivers told. They need the database alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.store import build_logs
from prebuilds.store.build_logs import LOG_LIFE, Position
from prebuilds.views import LoggedBuild, LogLine

POLL_INTERVAL_S = 0.5
LOG_DAYS = LOG_LIFE.days
"""How long a build's lines are kept after its end."""


@dataclass(frozen=True, slots=True)
class LogOperations:
    engine: AsyncEngine

    async def builds(self, reference: str) -> list[LoggedBuild]:
        """The builds that *reference* names, oldest first: one by its id, or all of a workspace, by its id or
        `owner/name`. Of a name that no live workspace has, those of the latest released one that had it.

        Raises:
            InvalidInput: Neither an id nor a path.
            WorkspaceNotFound: No build and no workspace of that id, and never a workspace of that name.
        """
        return await build_logs.find_logged_builds(self.engine, reference)

    async def latest(self, reference: str) -> LoggedBuild:
        """The latest of those builds; of a released workspace, the latest one that told anything, if one did. Raises
        as `builds` does."""
        return build_logs.choose_logged_build(await self.builds(reference))

    async def lines(self, build: LoggedBuild, *, follow: bool = False) -> AsyncIterator[LogLine]:
        """A build's lines in order; one that ended badly has its error as the last line.

        Args:
            follow: Go on until the build has ended.
        """
        position = Position()
        while True:
            now = await build_logs.read_logged_build(self.engine, build.id)  # before its lines: if ended, they are all
            lines, position = await build_logs.read_log(self.engine, build.id, position)
            for line in lines:
                yield line
            if now.status.ended or not follow:
                break
            await asyncio.sleep(POLL_INTERVAL_S)
        for line in now.last_lines():
            yield line
