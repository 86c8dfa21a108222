"""Logs of builds: written line by line, read in order, removed when they are old."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import WorkspaceNotFound
from prebuilds.payloads import parse_workspace_path
from prebuilds.payloads.not_found import no_log
from prebuilds.store.workspaces import resolve_workspace
from prebuilds.views import LoggedBuild, LogLine
from prebuilds.vocabulary import BuildStatus, Stage, Transition
from prebuilds.vocabulary.owners import owner_key

COUNT_BEFORE = text("SELECT count(*) FROM build_logs WHERE build_id = :id AND attempt < :attempt")
# A line that is sent again, after a lost reply, exists already.
APPEND_LINES = text("""
    INSERT INTO build_logs (build_id, attempt, number, at, line)
    SELECT :id, :attempt, n.number, n.at, n.line
      FROM unnest(CAST(:numbers AS int[]), CAST(:times AS timestamptz[]), CAST(:lines AS text[]))
           AS n (number, at, line)
        ON CONFLICT DO NOTHING
""")
READ = text("""
    SELECT attempt, number, at, line FROM build_logs
     WHERE build_id = :id AND (attempt, number) > (:attempt, :number)
     ORDER BY attempt, number LIMIT CAST(:limit AS bigint)
""")
READ_END = text("""
    SELECT at, line FROM build_logs WHERE build_id = :id ORDER BY attempt DESC, number DESC LIMIT :limit
""")
_BUILDS = """
    SELECT b.id, b.workspace_id, b.transition, b.stage, b.status, b.error, b.created_at, b.completed_at, w.deleted_at,
           coalesce((SELECT true FROM build_logs l WHERE l.build_id = b.id LIMIT 1), false) AS logged
      FROM workspace_builds b JOIN workspaces w ON w.id = b.workspace_id
"""
READ_BUILD = text(f"{_BUILDS} WHERE b.id = :id")
BUILDS_OF = text(f"{_BUILDS} WHERE b.workspace_id = :id ORDER BY b.number")
LAST_RELEASED = text("""
    SELECT w.id FROM workspaces w JOIN users u ON u.id = w.owner_id
     WHERE u.key = :owner AND w.name = :name AND w.deleted_at IS NOT NULL ORDER BY w.deleted_at DESC LIMIT 1
""")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of an attempt; its number counts from 1."""

    number: int
    at: datetime
    text: str


@dataclass(frozen=True, slots=True)
class Position:
    """A position in a log: after the line with this number of this attempt."""

    attempt: int = 0
    number: int = 0


async def count_lines_before(engine: AsyncEngine, build_id: UUID, attempt: int) -> int:
    """Count the lines of a build's earlier attempts."""
    async with engine.connect() as connection:
        return int(str(await connection.scalar(COUNT_BEFORE, {"id": build_id, "attempt": attempt})))


async def append_lines(engine: AsyncEngine, build_id: UUID, attempt: int, lines: Sequence[Line]) -> None:
    """Add lines of an attempt to a build's log. Lines that are sent twice are kept once."""
    async with engine.begin() as connection:
        await connection.execute(
            APPEND_LINES,
            {
                "id": build_id,
                "attempt": attempt,
                "numbers": [line.number for line in lines],
                "times": [line.at for line in lines],
                "lines": [line.text for line in lines],
            },
        )


async def read_log(
    engine: AsyncEngine, build_id: UUID, after: Position = Position(), limit: int | None = None
) -> tuple[list[LogLine], Position]:
    """Read the lines that follow *after*, in order, and return them with the position of the last one.

    Args:
        limit: The most lines; None for all.
    """
    async with engine.connect() as connection:
        position = {"id": build_id, "attempt": after.attempt, "number": after.number, "limit": limit}
        rows = (await connection.execute(READ, position)).all()
    lines = [LogLine(build_id=build_id, at=row.at, line=row.line) for row in rows]
    return lines, Position(rows[-1].attempt, rows[-1].number) if rows else after


async def read_log_end(engine: AsyncEngine, build_id: UUID, limit: int) -> list[LogLine]:
    """Read the last lines of a build's log, in order."""
    async with engine.connect() as connection:
        rows = (await connection.execute(READ_END, {"id": build_id, "limit": limit})).all()
    return [LogLine(build_id=build_id, at=row.at, line=row.line) for row in reversed(rows)]


async def read_logged_build(engine: AsyncEngine, build_id: UUID) -> LoggedBuild:
    """Read the facts about a build that exists."""
    async with engine.connect() as connection:
        row = (await connection.execute(READ_BUILD, {"id": build_id})).one()
        return _logged(row)


async def find_logged_builds(engine: AsyncEngine, reference: str) -> list[LoggedBuild]:
    """Find one build by its id, or all builds of a workspace, oldest first.

    Args:
        reference: The id of a build or workspace, or `owner/name`. If no live workspace has that name, it means the one
            that was released last.
    Raises:
        InvalidInput: *reference* is neither an id nor a path.
        WorkspaceNotFound: No build and no workspace has the id, or no workspace ever had the name.
    """
    async with engine.connect() as connection:
        try:
            id = await resolve_workspace(connection, reference)
        except WorkspaceNotFound:
            owner, name = parse_workspace_path(reference)
            released = await connection.scalar(LAST_RELEASED, {"owner": owner_key(owner), "name": name})
            if released is None:
                raise
            id = released
        for statement in (READ_BUILD, BUILDS_OF):
            if rows := (await connection.execute(statement, {"id": id})).all():
                return [_logged(row) for row in rows]
    raise no_log(str(id))


def choose_logged_build(builds: Sequence[LoggedBuild]) -> LoggedBuild:
    """Choose the build whose log is shown for a workspace: the latest one.

    For a released workspace it is the latest one with a log, if there is one: a deletion seldom logs anything.
    """
    logged = [build for build in builds if build.logged] if builds[-1].released_at is not None else []
    return (logged or builds)[-1]


def _logged(row: Row[tuple[object, ...]]) -> LoggedBuild:
    return LoggedBuild(
        id=row.id,
        workspace_id=row.workspace_id,
        transition=Transition(row.transition),
        stage=Stage(row.stage),
        status=BuildStatus(row.status),
        error=row.error,
        created_at=row.created_at,
        completed_at=row.completed_at,
        released_at=row.deleted_at,
        logged=row.logged or bool(row.error),
    )
