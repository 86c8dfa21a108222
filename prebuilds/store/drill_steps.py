"""Reads for the steps of a drill: the builds of its workspace, and the input of its check."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import WorkspaceNotFound
from prebuilds.planning.drills import DrillPolicy
from prebuilds.store.build_record import RecordedBuild
from prebuilds.store.logs import read_log_end
from prebuilds.store.workspaces import lock_workspace, record_release
from prebuilds.vocabulary import DRILL_USER, DRILL_USER_ID, BuildStatus
from prebuilds.vocabulary.drills import drill_claim_id
from prebuilds.vocabulary.plain_text import escape

EVIDENCE_LINES = 15
EVIDENCE_CHARS = 300

READ_END = text("""
    SELECT b.status, b.error, extract(epoch FROM b.completed_at - b.created_at) AS seconds
      FROM workspace_builds b WHERE b.id = :id
""")
READ_TRIAL = text("""
    SELECT w.id AS workspace_id, w.address, v.provisioner, t.drill
      FROM drills d JOIN claims c ON c.id = :claim_id JOIN workspaces w ON w.id = c.workspace_id
      JOIN template_versions v ON v.id = w.template_version_id JOIN templates t ON t.id = d.template_id
     WHERE d.id = :id AND w.latest_transition = 'start' AND w.owner_id = :drill_user
""")
READ_CLAIMED = text("""
    SELECT w.id FROM claims c JOIN workspaces w ON w.id = c.workspace_id AND w.deleted_at IS NULL
     WHERE c.id = :claim_id AND w.owner_id = :drill_user
""")
IS_OWN = text("SELECT EXISTS (SELECT FROM workspaces WHERE id = :id AND owner_id = :drill_user)")


@dataclass(frozen=True, slots=True)
class EndedBuild:
    """A build that has ended."""

    status: BuildStatus
    error: str | None
    seconds: float
    """Seconds from its record to its end, by the database's clock."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A workspace to try out."""

    workspace_id: UUID
    address: str | None
    provisioner: str
    policy: DrillPolicy


async def read_ended(engine: AsyncEngine, build_id: UUID) -> EndedBuild | None:
    """Read how a build ended; None while it has not."""
    async with engine.connect() as connection:
        row = (await connection.execute(READ_END, {"id": build_id})).one_or_none()
    if row is None or row.seconds is None:
        return None
    return EndedBuild(BuildStatus(row.status), row.error, float(row.seconds))


async def read_trial(engine: AsyncEngine, drill_id: UUID) -> Trial | None:
    """Read the input of a trial of a drill's workspace; None if there is no workspace, if it is being stopped or
    deleted, or if it belongs to a person."""
    async with engine.connect() as connection:
        values = {"id": drill_id, "claim_id": drill_claim_id(drill_id), "drill_user": DRILL_USER_ID}
        row = (await connection.execute(READ_TRIAL, values)).one_or_none()
    if row is None:
        return None
    return Trial(row.workspace_id, row.address, row.provisioner, DrillPolicy.of_json(row.drill))


async def read_claimed(engine: AsyncEngine, drill_id: UUID) -> UUID | None:
    """Return the live workspace that a drill has claimed; None if there is none, or if it belongs to a person now."""
    async with engine.connect() as connection:
        values = {"claim_id": drill_claim_id(drill_id), "drill_user": DRILL_USER_ID}
        found: UUID | None = await connection.scalar(READ_CLAIMED, values)
    return found


async def release_own(engine: AsyncEngine, workspace_id: UUID) -> RecordedBuild | None:
    """Record the deletion of a drill's workspace. A repeated request gets the same build.

    Returns:
        The build; None if there is no such workspace any more, or if it was transferred to a person.
    """
    async with engine.begin() as connection:
        try:
            await lock_workspace(connection, str(workspace_id))
        except WorkspaceNotFound:
            return None
        if not await connection.scalar(IS_OWN, {"id": workspace_id, "drill_user": DRILL_USER_ID}):
            return None
        return await record_release(connection, workspace_id, DRILL_USER)


async def read_evidence(engine: AsyncEngine, build_id: UUID, error: str | None) -> list[str]:
    """Return the last lines of a build's log and of its error."""
    lines = [line.line for line in await read_log_end(engine, build_id, EVIDENCE_LINES)]
    return last_lines("\n".join([*lines, error or ""]))


def last_lines(output: str) -> list[str]:
    """Return the end of a program's output as lines that are safe to show: of bounded length, without control
    characters."""
    lines = [line for line in output.replace("\r", "\n").split("\n") if line.strip()][-EVIDENCE_LINES:]
    return [escape(line, keep="\t")[:EVIDENCE_CHARS] for line in lines]
