"""Builds as an outbox: recorded first, dispatched after, begun once, ended in one transaction.

Whatever changes a build locks its workspace's row first: one order of locks, so that a claim, a deletion, a build's end
and an operator's cancellation never wait for each other in a circle.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import PrebuildsError, WorkspaceNotFound
from prebuilds.provisioners.base import Provision, StaleBuild
from prebuilds.settings.sealing import Sealed, key_ring
from prebuilds.settings.state_key import StateKeyUnusable
from prebuilds.store.claim_secrets import read_claim_secrets
from prebuilds.vocabulary import PEOPLE_SUFFIX, PREBUILDS_USER_ID, BuildStatus, Stage, Transition, build_id_of

BEGUN_REDISPATCH = timedelta(seconds=10)
"""How long after its begin a build's workflow is first looked after; a start of a running one costs one call."""
REDISPATCH_STEP = timedelta(seconds=5)
REDISPATCH_MAX = timedelta(seconds=30)
DISPATCH_BATCH_MAX = 200

_BUILD = """
    SELECT b.id, b.workspace_id, b.number, b.transition, b.stage, b.status, b.error, b.preset_id,
           b.initiator_id, i.name AS initiator, b.created_at, w.name, w.owner_id, w.latest_build,
           b.attempt, w.claimed_at, w.previous_owners, w.host, u.name AS owner, o.name AS organization,
           t.name AS template, t.build_timeout, t.ready_timeout, p.name AS preset, p.expire_after, v.provisioner,
           v.queue, v.source, p.claim_parameters AS claim_parameter_names,
           s.deployment_id, s.epoch, c.id AS claim_id
      FROM workspace_builds b JOIN workspaces w ON w.id = b.workspace_id JOIN users u ON u.id = w.owner_id
      JOIN template_versions v ON v.id = b.template_version_id JOIN templates t ON t.id = v.template_id
      JOIN organizations o ON o.id = t.organization_id JOIN users i ON i.id = b.initiator_id
      LEFT JOIN presets p ON p.id = b.preset_id LEFT JOIN claims c ON c.workspace_id = w.id CROSS JOIN settings s
"""
# Two statements: what a lock waited for has changed the rows that a join with it had read before.
LOCK_WORKSPACE_OF = text("""
    SELECT FROM workspaces WHERE id = (SELECT workspace_id FROM workspace_builds WHERE id = :build_id)
       FOR NO KEY UPDATE
""")
READ_BUILD = text(f"{_BUILD} WHERE b.id = :build_id")
READ_BUILDS = text(f"{_BUILD} WHERE b.id = ANY(CAST(:ids AS uuid[])) ORDER BY b.created_at, b.id")
READ_STATUS = text("SELECT status FROM workspace_builds WHERE id = :build_id")

READ_PARAMETERS = text("SELECT name, value FROM preset_parameters WHERE preset_id = :preset_id")
READ_PROVISIONER_STATE = text("""
    SELECT provisioner_state FROM workspace_builds
     WHERE workspace_id = :workspace_id AND number <= :number AND provisioner_state IS NOT NULL
     ORDER BY number DESC LIMIT 1
""")

SAVE_STATE = text("""
    UPDATE workspace_builds SET provisioner_state = CAST(:state AS jsonb)
     WHERE id = :build_id AND status IN ('running', 'canceling') AND attempt = :attempt
 RETURNING id
""")

BEGIN = text("""
    UPDATE workspace_builds
       SET status = 'running', started_at = coalesce(started_at, now()), dispatches = 0, attempt = attempt + 1,
           attempt_scheduled_at = CAST(:scheduled_at AS timestamptz),
           next_dispatch_at = now() + CAST(:redispatch AS interval)
     WHERE id = :build_id AND status IN ('pending', 'running')
       AND coalesce(attempt_scheduled_at <= CAST(:scheduled_at AS timestamptz), true)
 RETURNING attempt
""")
SET_LATEST_STATUS = text("""
    UPDATE workspaces
       SET latest_status = :status, latest_ended_at = CASE WHEN :ended THEN now() END
     WHERE id = :workspace_id AND latest_build = :number
""")
RECORD_HOST = text("""
    UPDATE workspaces SET host = coalesce(host, :host) WHERE id = :workspace_id RETURNING host
""")

LOCK_WORKSPACE = text("""
    SELECT w.latest_build, w.latest_transition, w.template_version_id, w.preset_id, w.owner_id,
           b.id AS build_id, b.status AS build_status
      FROM workspaces w JOIN workspace_builds b ON b.workspace_id = w.id AND b.number = w.latest_build
     WHERE w.id = :workspace_id AND w.deleted_at IS NULL FOR NO KEY UPDATE OF w
""")
SUPERSEDE = text("""
    UPDATE workspace_builds SET status = 'canceled', completed_at = now(), next_dispatch_at = NULL, error = :cause
     WHERE workspace_id = :workspace_id AND status = 'pending' RETURNING id
""")
# Due again at once, as `RECORD` has it: the relay makes up for a cancellation that never reached the workflow.
CANCEL_START = text("""
    UPDATE workspace_builds SET status = 'canceling', dispatches = 0, next_dispatch_at = now() + interval '1 second'
     WHERE workspace_id = :workspace_id AND status = 'running' AND transition = 'start' RETURNING id
""")
RECORD = text("""
    INSERT INTO workspace_builds (id, workspace_id, number, transition, stage, initiator_id, preset_id,
                                  template_version_id, next_dispatch_at)
    VALUES (:build_id, :workspace_id, :number, :transition, :stage, :initiator_id, :preset_id, :version_id,
            now() + interval '1 second')
""")
ADVANCE_WORKSPACE = text("""
    UPDATE workspaces
       SET latest_build = :number, latest_transition = :transition, latest_status = 'pending', latest_ended_at = NULL,
           next_action_at = NULL, claimable_preset_id = NULL, claim_build_id = NULL, expires_at = NULL
     WHERE id = :workspace_id
""")

# People's builds first, then deletions: what is waited for, and what frees room.
TAKE_DUE = text(f"""
    UPDATE workspace_builds b
       SET dispatches = b.dispatches + 1,
           next_dispatch_at =
               now() + least(CAST(:step AS interval) * power(2, least(b.dispatches, 10)), CAST(:max AS interval))
      FROM (SELECT d.id FROM workspace_builds d CROSS JOIN settings s
             WHERE d.status IN ('pending', 'running', 'canceling') AND d.next_dispatch_at <= now()
               AND NOT ((s.paused OR s.restore_found_at IS NOT NULL)
                        AND d.initiator_id = '{PREBUILDS_USER_ID}' AND d.status = 'pending')
             ORDER BY d.initiator_id = '{PREBUILDS_USER_ID}', d.transition <> 'delete', d.next_dispatch_at
             LIMIT :limit FOR UPDATE OF d SKIP LOCKED) AS due
     WHERE b.id = due.id RETURNING b.id
""")


class BuildWaiting(PrebuildsError):
    """An earlier build of the same workspace is still running."""

    retryable = True


class AttemptOvertaken(StaleBuild):
    """A later attempt of the same build is at work: this one must leave the build's end to it."""

    retryable = True


@dataclass(frozen=True, slots=True)
class RecordedBuild:
    id: UUID
    """To be started after the commit."""
    canceled: list[UUID] = field(default_factory=list)
    """Builds that had to make way for it; their workflows are to be cancelled after the commit."""
    fresh: bool = True
    """Recorded now; False when it was there before."""


@dataclass(frozen=True, slots=True)
class BuildFacts:
    """One recorded build, with all that starting, running and measuring it needs."""

    id: UUID
    workspace_id: UUID
    number: int
    transition: Transition
    stage: Stage
    status: BuildStatus
    error: str | None
    preset_id: UUID | None
    pool: bool
    """Initiated by the prebuilds user."""
    provisioner: str
    queue: str
    """Where its provisioning runs, host and kind of initiator included."""
    host: str | None
    organization: str
    template: str
    preset: str | None
    owner: str
    name: str
    """The workspace's, as it is called now."""
    initiator_id: UUID
    initiator: str
    build_timeout: timedelta
    created_at: datetime
    attempt: int
    """How often it was begun. Only the latest attempt saves a state, and ends the build."""


class SecretsUnreadable(Exception):
    """A build that has begun needs what its claim brought, which cannot be read here. Nothing is lost by it."""

    def __init__(self, facts: BuildFacts, error: StateKeyUnusable) -> None:
        super().__init__(str(error))
        self.facts = facts
        self.error = error
        """To end the build with."""


def provisioning_queue(queue: str, *, pool: bool, host: str | None) -> str:
    """People's builds have a queue beside the pool's, so that a herd of pool builds delays nobody; what lives on one
    host can only be served there."""
    return f"{queue}{'' if pool else PEOPLE_SUFFIX}{f'@{host}' if host else ''}"


async def read_builds(engine: AsyncEngine, ids: Sequence[UUID]) -> list[BuildFacts]:
    """Facts of those of *ids* that exist, oldest first."""
    async with engine.connect() as connection:
        return [facts_of(row) for row in await connection.execute(READ_BUILDS, {"ids": list(ids)})]


async def begin_build(
    engine: AsyncEngine, build_id: UUID, scheduled_at: datetime | None = None
) -> tuple[BuildFacts, Provision | None]:
    """Mark a build as running, before any effect. Repeated, it continues, as a new attempt that overtakes the others.

    Args:
        scheduled_at: When Temporal had this attempt begin, by its clock, so that one that was frozen before it came
            here overtakes none that was scheduled after it. Should that clock go back, attempts are refused until it
            has caught up. None overtakes any.
    Returns:
        Its facts, and what to provision; None when the build is closed or is being canceled.
    Raises:
        WorkspaceNotFound: No build has this id.
        AttemptOvertaken: An attempt that was scheduled later has begun; nothing changes.
        BuildWaiting: Another build of the workspace is running; try again soon.
        SecretsUnreadable: A start needs what its claim brought, and no key of this process opens it. The build has
            begun, and is the caller's to end.
    """
    try:
        async with engine.begin() as connection:
            row = await lock_build(connection, build_id)
            facts = facts_of(row)
            if facts.status not in (BuildStatus.PENDING, BuildStatus.RUNNING):
                return facts, None
            begun = {"build_id": build_id, "scheduled_at": scheduled_at, "redispatch": BEGUN_REDISPATCH}
            if (attempt := await connection.scalar(BEGIN, begun)) is None:
                raise AttemptOvertaken(f"a later attempt of build {build_id} is at work")
            facts = replace(facts, attempt=int(attempt))
            await set_latest(connection, facts.workspace_id, facts.number, BuildStatus.RUNNING)
            parameters = (await connection.execute(READ_PARAMETERS, {"preset_id": facts.preset_id})).all()
            state = await connection.scalar(
                READ_PROVISIONER_STATE, {"workspace_id": facts.workspace_id, "number": facts.number}
            )
            sealed = await read_claim_secrets(connection, facts.workspace_id)
    except IntegrityError as error:
        if "workspace_builds_one_active_key" in str(error):
            raise BuildWaiting(f"build {build_id} waits for an earlier build of its workspace") from error
        raise
    secrets = _open(sealed, facts)  # after the commit: who ends the build must find it begun
    return facts, _provision(row, {p.name: p.value for p in parameters}, secrets, state)


def _open(sealed: Sealed | None, facts: BuildFacts) -> dict[str, str]:
    """What the claim brought, for this build."""
    if sealed is None:
        return {}
    try:
        found: dict[str, str] = key_ring().open(sealed, f"the claim parameters of workspace {facts.workspace_id}")
    except StateKeyUnusable as error:
        if facts.transition is not Transition.START:
            return {}  # a lost key must not keep anybody from stopping or deleting a workspace
        raise SecretsUnreadable(facts, StateKeyUnusable(f"{error}; then try the build again")) from error
    return found


async def save_state(engine: AsyncEngine, build_id: UUID, state: dict[str, Any], attempt: int) -> None:
    """Keep what a driver wants to be given again, while its build runs.

    Args:
        attempt: Whose it is, by the number that `begin_build` gave it.
    Raises:
        StaleBuild: The build has ended; what it or a later one has left stays.
        AttemptOvertaken: A later attempt of this build has begun; what that one has left stays.
    """
    values = {"build_id": build_id, "state": json.dumps(state), "attempt": attempt}
    async with engine.begin() as connection:
        if await connection.scalar(SAVE_STATE, values) is not None:
            return
        row = (await connection.execute(READ_STATUS, {"build_id": build_id})).one_or_none()
    if row is not None and not BuildStatus(row.status).ended:
        raise AttemptOvertaken(f"a later attempt of build {build_id} is at work")
    raise StaleBuild(f"build {build_id} has ended; its state is kept as it was then")


async def record_host(engine: AsyncEngine, workspace_id: UUID, host: str) -> str:
    """Note which host makes the workspace, before it does: a crash right after must be followed up there.

    Returns:
        The host that has it: another one, when that was first.
    """
    async with engine.begin() as connection:
        return str(await connection.scalar(RECORD_HOST, {"workspace_id": workspace_id, "host": host}))


async def record_build(
    connection: AsyncConnection,
    workspace_id: UUID,
    transition: Transition,
    *,
    initiator_id: UUID | None = None,
    stage: Stage = Stage.NONE,
    anew: bool = False,
) -> RecordedBuild:
    """Record one more build of a workspace, behind one that runs; asked again, it is the same build.

    A pending build of another kind is superseded: a release need not wait for a start that nobody has begun. Nor for
    one that runs: a deletion cancels it, and begins once it has ended, however it ends.

    Args:
        initiator_id: Who asks; None for the workspace's owner.
        anew: Also behind, or in place of, an unfinished build of this very kind: it was for another owner.
    Raises:
        WorkspaceNotFound: The workspace is deleted.
    """
    row = (await connection.execute(LOCK_WORKSPACE, {"workspace_id": workspace_id})).one_or_none()
    if row is None:
        raise WorkspaceNotFound(f"no live workspace has the id {workspace_id}")
    unfinished = row.build_status in (BuildStatus.PENDING, BuildStatus.RUNNING)
    if unfinished and row.latest_transition == transition and not anew:
        return RecordedBuild(UUID(str(row.build_id)), fresh=False)
    superseded = {"workspace_id": workspace_id, "cause": f"superseded by a {transition}"}
    canceled = list(await connection.scalars(SUPERSEDE, superseded))
    if transition is Transition.DELETE:
        canceled += await connection.scalars(CANCEL_START, {"workspace_id": workspace_id})
    number = row.latest_build + 1
    build = {
        "build_id": build_id_of(workspace_id, number),
        "workspace_id": workspace_id,
        "number": number,
        "transition": transition,
        "stage": stage,
        "initiator_id": initiator_id or row.owner_id,
        "preset_id": row.preset_id,
        "version_id": row.template_version_id,
    }
    await connection.execute(RECORD, build)
    await connection.execute(ADVANCE_WORKSPACE, build)
    return RecordedBuild(build_id_of(workspace_id, number), canceled)


async def take_due_builds(engine: AsyncEngine) -> list[UUID]:
    """Unfinished builds that nobody may be looking after, at most `DISPATCH_BATCH_MAX`; each is due again later."""
    async with engine.begin() as connection:
        due = {"step": REDISPATCH_STEP, "max": REDISPATCH_MAX, "limit": DISPATCH_BATCH_MAX}
        return list(await connection.scalars(TAKE_DUE, due))


async def lock_build(connection: AsyncConnection, build_id: UUID) -> Row[tuple[object, ...]]:
    """The build, and its workspace's row held."""
    await connection.execute(LOCK_WORKSPACE_OF, {"build_id": build_id})
    row = (await connection.execute(READ_BUILD, {"build_id": build_id})).one_or_none()
    if row is None:
        raise WorkspaceNotFound(f"no build has the id {build_id}", {"build_id": str(build_id)})
    return row


async def set_latest(connection: AsyncConnection, workspace_id: UUID, number: int, status: BuildStatus) -> None:
    """Repeat a build's new status on its workspace's row, when it is the latest one."""
    latest = {"workspace_id": workspace_id, "number": number, "status": status, "ended": status.ended}
    await connection.execute(SET_LATEST_STATUS, latest)


def facts_of(row: Row[tuple[object, ...]]) -> BuildFacts:
    pool = row.initiator_id == PREBUILDS_USER_ID
    return BuildFacts(
        id=row.id,
        workspace_id=row.workspace_id,
        number=row.number,
        transition=Transition(row.transition),
        stage=Stage(row.stage),
        status=BuildStatus(row.status),
        error=row.error,
        preset_id=row.preset_id,
        pool=pool,
        provisioner=row.provisioner,
        queue=provisioning_queue(row.queue, pool=pool, host=row.host),
        host=row.host,
        organization=row.organization,
        template=row.template,
        preset=row.preset,
        owner=row.owner,
        name=row.name,
        initiator_id=row.initiator_id,
        initiator=row.initiator,
        build_timeout=row.build_timeout,
        created_at=row.created_at,
        attempt=row.attempt,
    )


def _provision(
    row: Row[tuple[object, ...]], parameters: dict[str, str], secrets: dict[str, str], state: Any
) -> Provision:
    return Provision(
        deployment_id=row.deployment_id,
        epoch=row.epoch,
        workspace_id=row.workspace_id,
        build_number=row.number,
        name=row.name,
        owner=row.owner,
        organization=row.organization,
        template=row.template,
        preset=row.preset,
        source=row.source,
        parameters=parameters,
        claim_parameters=secrets,
        claim_parameter_names=tuple(row.claim_parameter_names or ()),
        claimed=row.claimed_at is not None,
        claim_id=row.claim_id,
        previous_owners=row.previous_owners,
        ready_timeout_s=row.ready_timeout.total_seconds(),
        state=state,
    )
