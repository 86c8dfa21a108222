"""Build logs: the lines that provisioners write. Needs only the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.store import logs
from prebuilds.store.logs import Position as Position  # noqa: PLC0414 - where a reader goes on
from prebuilds.views import LoggedBuild, LogLine

POLL_INTERVAL_S = 0.5
LINES_MAX = 1000
"""The most lines of one part."""

START = Position()


@dataclass(frozen=True, slots=True)
class LogPart:
    """Some lines of a log, in order."""

    lines: list[LogLine]
    position: Position
    """The position after which the reader continues."""
    ended: LoggedBuild | None
    """The build, once it has ended and nothing follows; None before."""


@dataclass(frozen=True, slots=True)
class LogOperations:
    """Access to build logs."""

    engine: AsyncEngine

    async def builds(self, reference: str) -> list[LoggedBuild]:
        """Find the builds that *reference* names, oldest first.

        Args:
            reference: A build's id, for that build; or a workspace's id or `owner/name`, for all its builds. If no live
                workspace has the name, it means the most recently released workspace that had it.
        Raises:
            InvalidInput: *reference* is neither an id nor a path.
            WorkspaceNotFound: No build and no workspace has this id, or no workspace has ever had this name.
        """
        return await logs.find_logged_builds(self.engine, reference)

    async def latest(self, reference: str) -> LoggedBuild:
        """Find the latest build that *reference* names; raises as `builds` does.

        For a released workspace it is the latest build that has log lines, if any build has some.
        """
        return logs.choose_logged_build(await self.builds(reference))

    async def end(self, build_id: UUID, limit: int) -> list[LogLine]:
        """Read the last lines of a build's log, in order, however long the log is. A failed build's error is not among
        them."""
        return await logs.read_log_end(self.engine, build_id, limit)

    async def lines(self, build: LoggedBuild, *, follow: bool = False) -> AsyncIterator[LogLine]:
        """Yield a build's lines in order. The last line of a failed build is its error.

        Args:
            follow: Wait for further lines until the build has ended.
        """
        async for part in self.parts(build, follow=follow):
            for line in part.lines:
                yield line

    async def parts(
        self, build: LoggedBuild, after: Position = START, *, follow: bool = False
    ) -> AsyncIterator[LogPart]:
        """Yield a build's lines in order, several at a time.

        Args:
            after: The position of the last part that the reader has; only later lines come.
            follow: Wait for further lines until the build has ended. Otherwise the last part has what there is.
        """
        position = after
        while True:
            # The build is read before its lines: if it has ended by then, no line can follow those read next.
            current = await logs.read_logged_build(self.engine, build.id)
            lines, position = await logs.read_log(self.engine, build.id, position, LINES_MAX)
            more = len(lines) == LINES_MAX
            ended = current.status.ended and not more
            if not more and (ended or not follow):
                lines += current.last_lines()
            if lines or ended:
                yield LogPart(lines, position, current if ended else None)
            if ended or not (more or follow):
                return
            if not more:
                await asyncio.sleep(POLL_INTERVAL_S)
