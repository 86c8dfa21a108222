"""A build's beginning and its attempts: what a provisioner worker gets to do, and what it saves while it is at work."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import PrebuildsError
from prebuilds.provisioners.base import Provision, StaleBuild
from prebuilds.settings.sealing import Sealed, environment_key_ring
from prebuilds.settings.state_key import StateKeyUnusable
from prebuilds.store.builds import BuildFacts, facts_of, lock_build, set_latest
from prebuilds.store.claim_secrets import read_claim_secrets
from prebuilds.store.template_files import read_files
from prebuilds.vocabulary import BuildStatus, Transition

BEGUN_REDISPATCH = timedelta(seconds=10)
"""How long after its begin the relay first checks that a build's workflow still runs. A check costs one call."""

BEGIN = text("""
    UPDATE workspace_builds
       SET status = 'running', started_at = coalesce(started_at, now()), dispatches = 0, attempt = attempt + 1,
           attempt_scheduled_at = CAST(:scheduled_at AS timestamptz),
           next_dispatch_at = now() + CAST(:redispatch AS interval)
     WHERE id = :build_id AND status IN ('pending', 'running')
       AND coalesce(attempt_scheduled_at <= CAST(:scheduled_at AS timestamptz), true)
 RETURNING attempt
""")
READ_PARAMETERS = text("SELECT name, value FROM preset_parameters WHERE preset_id = :preset_id")
READ_PROVISIONER_STATE = text("""
    SELECT provisioner_state FROM workspace_builds
     WHERE workspace_id = :workspace_id AND number <= :number AND provisioner_state IS NOT NULL
     ORDER BY number DESC LIMIT 1
""")

READ_STATUS = text("SELECT status FROM workspace_builds WHERE id = :build_id")

SAVE_STATE = text("""
    UPDATE workspace_builds SET provisioner_state = CAST(:state AS jsonb)
     WHERE id = :build_id AND status IN ('running', 'canceling') AND attempt = :attempt
 RETURNING id
""")

RECORD_HOST = text("""
    UPDATE workspaces SET host = coalesce(host, :host) WHERE id = :workspace_id RETURNING host
""")


class BuildWaiting(PrebuildsError):
    """An earlier build of the same workspace is still running."""

    default_remedy = "wait for that build to end"

    retryable = True


class AttemptOvertaken(StaleBuild):
    """A later attempt of the same build has begun. This one must stop, and leave the build's end to it."""

    default_remedy = "do nothing: the later attempt ends the build"

    retryable = True


class SecretsUnreadable(Exception):
    """A build that has begun needs its claim's secrets, and no key of this process opens them. They stay stored."""

    def __init__(self, facts: BuildFacts, error: StateKeyUnusable) -> None:
        super().__init__(str(error))
        self.facts = facts
        self.error = error
        """The error that ends the build."""


async def begin_build(
    engine: AsyncEngine, build_id: UUID, scheduled_at: datetime | None = None
) -> tuple[BuildFacts, Provision | None]:
    """Mark a build as running, before it has any effect. Each call is a new attempt, which overtakes the earlier ones.

    Args:
        scheduled_at: When Temporal scheduled this attempt, by Temporal's clock. An attempt that freezes before it comes
            here overtakes none that was scheduled later. Should that clock go back, attempts are refused until it has
            caught up. None overtakes any attempt.
    Returns:
        The build's facts, and what to provision; None when the build has ended or is being cancelled.
    Raises:
        WorkspaceNotFound: No build has this id.
        AttemptOvertaken: An attempt that was scheduled later has begun; nothing changes.
        BuildWaiting: Another build of the workspace is running; try again soon.
        SecretsUnreadable: A start needs its claim's secrets, and no key of this process opens them. The build has
            begun, so the caller has to end it.
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
            files = await read_files(connection, row.files_digest)
    except IntegrityError as error:
        if "workspace_builds_one_active_key" in str(error):
            raise BuildWaiting(f"build {build_id} waits for an earlier build of its workspace") from error
        raise
    secrets = _open(sealed, facts)  # after the commit: whoever ends the build must find it begun
    wanted = _provision(row, {p.name: p.value for p in parameters}, secrets or {}, state)
    return facts, wanted.model_copy(update={"files": files, "claim_parameters_withheld": secrets is None})


def _open(sealed: Sealed | None, facts: BuildFacts) -> dict[str, str] | None:
    """The claim's secrets, as this build needs them; None: they cannot be read, and the build works without them."""
    if sealed is None:
        return {}
    try:
        what = f"the claim parameters of workspace {facts.workspace_id}"
        found: dict[str, str] = environment_key_ring().open(sealed, what)
    except StateKeyUnusable as error:
        if facts.transition is not Transition.START:
            return None  # a lost key must not keep anybody from stopping or deleting a workspace
        again = StateKeyUnusable(error.message, remedy=f"{error.remedy}, then try the build again")
        raise SecretsUnreadable(facts, again) from error
    return found


async def save_state(engine: AsyncEngine, build_id: UUID, state: dict[str, Any], attempt: int) -> None:
    """Save a driver's state of a running build; the driver gets it again with the workspace's next attempt or build.

    Args:
        attempt: The number that `begin_build` gave the attempt which saves it.
    Raises:
        StaleBuild: The build has ended; nothing was saved.
        AttemptOvertaken: A later attempt of this build has begun; nothing was saved.
    """
    values = {"build_id": build_id, "state": json.dumps(state), "attempt": attempt}
    async with engine.begin() as connection:
        if await connection.scalar(SAVE_STATE, values) is not None:
            return
        row = (await connection.execute(READ_STATUS, {"build_id": build_id})).one_or_none()
    if row is not None and not BuildStatus(row.status).ended:
        raise AttemptOvertaken(f"a later attempt of build {build_id} is at work")
    raise StaleBuild(f"build {build_id} has ended, and its state is kept as it was then")


async def record_host(engine: AsyncEngine, workspace_id: UUID, host: str) -> str:
    """Record which host makes a workspace, before it begins: after a crash, the build must go on at that host.

    Returns:
        The host of the workspace; another host than *host* when that one was recorded first.
    """
    async with engine.begin() as connection:
        return str(await connection.scalar(RECORD_HOST, {"workspace_id": workspace_id, "host": host}))


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
