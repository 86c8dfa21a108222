"""The end of a build: one transaction records the outcome and applies it to the workspace. The first end counts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.provisioners.base import InvalidSource, OwnedByAnother, Provisioned, Stopped
from prebuilds.store.actions import plan_next_action
from prebuilds.store.build_begin import AttemptOvertaken
from prebuilds.store.builds import BuildFacts, facts_of, lock_build, set_latest
from prebuilds.store.claim_secrets import forget_claim_secrets
from prebuilds.store.events import record_event
from prebuilds.store.hand_over import Served, serve_waiters
from prebuilds.store.history import mark_restored
from prebuilds.store.leases import restart_lease
from prebuilds.store.pool import cancel_creations_of_invalid
from prebuilds.store.restoring import quarantine
from prebuilds.vocabulary import PREBUILDS_USER_ID, BuildStatus, Stage, Transition, build_id_of
from prebuilds.vocabulary.plain_text import LINES, escape

# The preset is locked before the workspace, as by `apply` and the passes. So the expiry that a start records follows
# the preset's current policy.
LOCK_PRESET = text("""
    SELECT standby_paused FROM presets
     WHERE id = (SELECT preset_id FROM workspace_builds WHERE id = :build_id) FOR SHARE
""")
END = text("""
    UPDATE workspace_builds
       SET status = :status, error = :error, error_type = :error_type, completed_at = now(), next_dispatch_at = NULL,
           provisioner_state = coalesce(CAST(:state AS jsonb), provisioner_state)
     WHERE id = :build_id AND status IN ('pending', 'running', 'canceling')
       AND attempt = coalesce(CAST(:attempt AS integer), attempt)
 RETURNING completed_at
""")
MAKE_CLAIMABLE = text("""
    UPDATE workspaces
       SET claimable_preset_id = :preset_id, claim_build_id = :claim_build_id,
           expires_at = expiry_of(created_at, CAST(:expire_after AS interval)),
           probe_failures = 0, probe_failed_at = NULL
     WHERE id = :workspace_id AND quarantined_at IS NULL
""")
STARTED = text("""
    UPDATE workspaces
       SET address = :address, resources = CAST(:resources AS jsonb),
           last_used_at = CASE WHEN :counts_as_use THEN now() ELSE last_used_at END
     WHERE id = :workspace_id
""")
# The id of the claim's build for a paused prebuild is stored here, since SQL cannot compute it.
MAKE_RESUMABLE = text("""
    UPDATE workspaces SET resume_build_id = :resume_build_id WHERE id = :workspace_id AND quarantined_at IS NULL
""")
STOPPED = text("""
    UPDATE workspaces SET address = NULL, resources = coalesce(CAST(:resources AS jsonb), resources)
     WHERE id = :workspace_id
""")
DELETED = text("""
    UPDATE workspaces
       SET deleted_at = now(), address = NULL, resources = '{}', claimable_preset_id = NULL, claim_build_id = NULL,
           expires_at = NULL, resume_build_id = NULL
     WHERE id = :workspace_id
""")
# A provisioner's state may hold secrets, so a deletion forgets all states but the latest. The inventory needs that one
# to remove what a deletion has left; a deletion that saves its state has left an empty one.
FORGET_EARLIER_STATES = text("""
    UPDATE workspace_builds SET provisioner_state = NULL
     WHERE workspace_id = :workspace_id AND provisioner_state IS NOT NULL
       AND number < (SELECT max(number) FROM workspace_builds
                      WHERE workspace_id = :workspace_id AND provisioner_state IS NOT NULL)
""")


@dataclass(frozen=True, slots=True)
class BuildEnd:
    """The end of a build, as its first end has recorded it."""

    facts: BuildFacts
    status: BuildStatus
    error: str | None
    ended_now: bool
    """Whether this call ended it; False when it had ended before."""
    took: timedelta | None = None
    """The time from its record to its end, by the database's clock; None unless it has ended now."""
    served: Served = field(default_factory=Served)
    """The waiting claims that got the prebuild which this build made ready."""
    canceled: list[UUID] = field(default_factory=list)
    """Other builds that were canceled, because their input is the same and cannot work either."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Proof, found by a build, that the database was restored and has lost something."""

    what: str
    """What the database lacks, for people."""
    epoch: UUID
    """The database's epoch in which the build was asked for."""


async def end_build(
    engine: AsyncEngine,
    build_id: UUID,
    status: BuildStatus,
    *,
    error: str | None = None,
    error_type: str | None = None,
    provisioned: Provisioned | None = None,
    attempt: int | None = None,
    unless_canceling: bool = False,
    left: str | None = None,
    lost: Lost | None = None,
) -> BuildEnd:
    """End a build and apply its outcome to the workspace, in one transaction. A build that has ended stays as it is.

    Args:
        status: `succeeded`, `failed` or `canceled`.
        error: Why it did not succeed; None when it did.
        error_type: The error's type; None when it succeeded.
        provisioned: The result of a successful start, or of a stop that says what it has left; None otherwise.
        attempt: The attempt that ends it, by its number from `begin_build`; None when the caller does not provision.
        unless_canceling: Whether a build that is being canceled ends as canceled instead. Its worker may have died, or
            its time may have run out, before it learned of the cancellation; the pool must not back off for that.
        left: Why a deletion has left what exists as it is; None when it has removed all of it.
        lost: Proof that the database was restored; None without one. It is recorded in the same transaction as the end,
            so that a late attempt that meets the mark of a later claim, and ends nothing, does not report it.
    Raises:
        AttemptOvertaken: A later attempt of this build has begun; nothing was changed.
    """
    made = provisioned or Provisioned()
    error = None if error is None else escape(error, keep=LINES)  # the text comes from a driver or from what it called
    async with engine.begin() as connection:
        standby = await connection.scalar(LOCK_PRESET, {"build_id": build_id})
        row = await lock_build(connection, build_id)
        facts = facts_of(row)
        if unless_canceling and facts.status is BuildStatus.CANCELING:
            status, error, error_type = BuildStatus.CANCELED, "canceled", "Canceled"
        completed_at: datetime | None = await connection.scalar(
            END,
            {
                "build_id": build_id,
                "status": status,
                "error": error,
                "error_type": error_type,
                "state": json.dumps(made.state) if made.state is not None else None,
                "attempt": attempt,
            },
        )
        if completed_at is None and not facts.status.ended:
            raise AttemptOvertaken(f"a later attempt of build {build_id} is running, and will end it")
        if completed_at is None:
            return BuildEnd(facts, facts.status, facts.error, ended_now=False)
        await set_latest(connection, facts.workspace_id, facts.number, status)
        if status is BuildStatus.SUCCEEDED:
            await _apply_success(connection, row, facts, provisioned)
        canceled: list[UUID] = []
        if error_type == InvalidSource.__name__ and facts.stage is Stage.CREATE and facts.preset_id is not None:
            canceled = await cancel_creations_of_invalid(connection, facts.preset_id, build_id)
        if row.lease is not None and facts.transition is Transition.START:
            await restart_lease(connection, facts.workspace_id, facts.number)
        if facts.number == row.latest_build:
            await plan_next_action(connection, facts.workspace_id)
        await record_event(
            connection,
            f"build_{status}",
            facts.owner,
            preset_id=facts.preset_id,
            workspace_id=facts.workspace_id,
            build_id=build_id,
            data={"transition": facts.transition, "stage": facts.stage, "error": error}
            | ({"left": left} if left else {}),
        )
        if error_type == OwnedByAnother.__name__:
            await quarantine(connection, facts.workspace_id, error or error_type)
        if lost is not None:
            await mark_restored(connection, lost.what, lost.epoch)
        served = Served()
        if status is BuildStatus.SUCCEEDED and facts.stage in (Stage.CREATE, Stage.RESUME) and facts.preset_id:
            await serve_waiters(connection, facts.preset_id, served)
        took = completed_at - facts.created_at
        if standby and facts.pool and facts.preset_id is not None:
            served.preset_ids.append(facts.preset_id)  # the prebuild may have to be paused
        return BuildEnd(facts, status, error, ended_now=True, took=took, served=served, canceled=canceled)


async def _apply_success(
    connection: AsyncConnection, row: Row[tuple[object, ...]], facts: BuildFacts, made: Provisioned | None
) -> None:
    """Apply a successful build to its workspace's row."""
    target: dict[str, Any] = {"workspace_id": facts.workspace_id}
    if facts.transition is Transition.DELETE:
        await connection.execute(DELETED, target)
        await connection.execute(FORGET_EARLIER_STATES, target)
        await forget_claim_secrets(connection, facts.workspace_id)
    elif facts.transition in (Transition.STOP, Transition.PAUSE):
        left = json.dumps(made.resources) if made is not None else None
        await connection.execute(STOPPED, target | {"resources": left})
        if isinstance(made, Stopped) and made.kept:
            await record_event(
                connection,
                "stop_kept_all",
                "provisioner",
                workspace_id=facts.workspace_id,
                build_id=facts.id,
                data={"replacements": [one.model_dump() for one in made.kept]},
            )
        unclaimed = row.owner_id == PREBUILDS_USER_ID and facts.number == row.latest_build
        if facts.transition is Transition.PAUSE and unclaimed:
            resumable = {"resume_build_id": build_id_of(facts.workspace_id, facts.number + 1)}
            await connection.execute(MAKE_RESUMABLE, target | resumable)
    else:
        made = made or Provisioned()
        started = {
            "address": made.address,
            "resources": json.dumps(made.resources),
            "counts_as_use": facts.stage is Stage.NONE,  # a claim has set last_used_at already
        }
        await connection.execute(STARTED, target | started)
        unclaimed = row.owner_id == PREBUILDS_USER_ID
        if unclaimed and facts.number == row.latest_build and facts.preset_id is not None:
            claimable = {
                "preset_id": facts.preset_id,
                "claim_build_id": build_id_of(facts.workspace_id, facts.number + 1),
                "expire_after": row.expire_after,
            }
            await connection.execute(MAKE_CLAIMABLE, target | claimable)
