"""Handing ready prebuilds to the claims that wait for them, in the transaction that made the prebuilds ready."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
from pydantic import ValidationError
from sqlalchemy import Row, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import InvalidInput, NameTaken
from prebuilds.payloads import ClaimRequest
from prebuilds.store.claim_refusals import REFUSED
from prebuilds.store.claims import NAME_KEY
from prebuilds.store.events import record_event
from prebuilds.store.kept_traces import keep_other_trace

logger = logging.getLogger(__name__)

# Finds a preset that has waiters and may serve them: one of the active version, or an older one while a rollout lets it
# serve. A new version of the template takes the waiters along.
_SERVES = """
    (p.template_version_id = t.active_version_id
     OR coalesce(t.rollout ->> 'strategy', 'surge') = 'surge'
        AND coalesce(CAST(t.rollout ->> 'serve_old' AS boolean), true)
        AND EXISTS (SELECT FROM rollouts r
                     WHERE r.template_id = t.id AND r.state IN ('running', 'paused', 'failed'))
        AND EXISTS (SELECT FROM presets a
                     WHERE a.template_version_id = t.active_version_id AND a.name = p.name
                       AND a.desired_instances IS NOT NULL AND a.claim_parameters = p.claim_parameters))
"""
PRESET = text(f"""
    SELECT p.id, p.name, p.template_id, p.template_version_id, p.last_invalidated_at, v.hands_over, t.default_ttl,
           t.organization_id, o.name AS organization, t.name AS template,
           CASE WHEN o.limits ?| ARRAY['workspaces', 'workspaces_per_member'] THEN o.limits END AS limits,
           CASE WHEN p.template_version_id <> t.active_version_id THEN v.number END AS older_version,
           a.id AS active_preset_id, a.canary_rollout_id
      FROM presets p JOIN templates t ON t.id = p.template_id AND {_SERVES}
      JOIN template_versions v ON v.id = p.template_version_id JOIN organizations o ON o.id = t.organization_id
      LEFT JOIN presets a ON a.template_version_id = t.active_version_id AND a.name = p.name
     WHERE p.id = :preset_id AND t.deleted_at IS NULL AND NOT t.deprecated AND o.prebuilds_enabled
       AND NOT EXISTS (SELECT FROM settings WHERE restore_found_at IS NOT NULL)
       AND EXISTS (SELECT FROM claim_queue q
                    WHERE q.template_id = t.id AND q.preset_name = p.name AND q.decided_at IS NULL)
""")
# Waits for a waiter that looks up its place or leaves now: its transaction is short, and holds no lock that we need.
# Skips a waiter whose claim's row is held by a retry of its own claim: the retry may be waiting for our locks.
HEAD = text("""
    SELECT q.claim_id, q.workflow_id, q.request, q.secrets, q.request_hash, q.owner_id, q.initiator_id,
           q.traceparent, clock_timestamp() - q.queued_at AS waited, c.workspace_id
      FROM claim_queue q JOIN claims c ON c.id = q.claim_id
     WHERE q.template_id = :template_id AND q.preset_name = :name AND q.decided_at IS NULL AND q.deadline > now()
       AND q.owner_id <> ALL (CAST(:passed AS uuid[]))
     ORDER BY q.position LIMIT 1 FOR UPDATE OF q FOR UPDATE OF c SKIP LOCKED
""")
OLDEST_READY = text("""
    SELECT id, claim_build_id, address, latest_build + 1 AS build_number, template_version_id FROM workspaces
     WHERE claimable_preset_id = :preset_id
       AND NOT is_expired(created_at, expires_at, CAST(:invalidated AS timestamptz))
     ORDER BY created_at, id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
""")
PEOPLE = text(
    "SELECT o.name AS owner, i.name AS initiator FROM users o, users i WHERE o.id = :owner AND i.id = :initiator"
)
HAND_OVER = text("""
    SELECT hand_over(
        :claim_id, :request_hash, :workspace_id, :build_id, :number, :address, :preset_id, :version_id, :hands_over,
        :owner_id, :owner, :initiator_id, :initiator, :name, :autostart, :next_start,
        nullif(coalesce(CAST(:ttl AS interval), CAST(:default_ttl AS interval)), interval '0'),
        CAST(:secrets AS jsonb))
""")
# If the older version has other claim parameters, it serves no waiter (`_SERVES`), so there are no turns.
LOCK_CANARY = text("SELECT is_new FROM lock_canary(:rollout_id, :preset_id, true)")
COUNT_CANARY_CLAIM = text("""
    SELECT count_canary_claim(:rollout_id, :preset_id, :new) FROM lock_canary(:rollout_id, :preset_id, true)
""")
BEGIN_LEASE = text("SELECT begin_lease(CAST(:answer AS jsonb), true, CAST(:lease AS interval))")
TELL_VERSION = text("SELECT tell_version(:claim_id, :version)")
DECIDE = text("""
    UPDATE claim_queue SET decided_at = now(), refusal = :refusal, secrets = NULL WHERE claim_id = :claim_id
""")

LOCK_LIMITS = text("SELECT lock_limits(:organization_id, NULL, CAST(:limits AS jsonb))")
REACHED_LIMIT = text("""
    SELECT limit_name, maximum, used FROM reached_limit(:organization_id, :owner_id, CAST(:limits AS jsonb))
     WHERE limit_name IS NOT NULL
""")
# The event is recorded once for each claim and limit, since the relay tries again every two seconds.
RECORD_PASSED_OVER = text("""
    INSERT INTO events (kind, actor, preset_id, claim_id, data)
    SELECT 'claim_passed_over', 'queue', :preset_id, :claim_id, CAST(:data AS jsonb)
     WHERE NOT EXISTS (SELECT FROM events WHERE claim_id = :claim_id AND workspace_id IS NULL
                          AND kind = 'claim_passed_over' AND data ->> 'limit' = CAST(:data AS jsonb) ->> 'limit')
""")

WAITED_FOR = text(f"""
    SELECT DISTINCT p.id
      FROM claim_queue q JOIN templates t ON t.id = q.template_id AND t.deleted_at IS NULL AND NOT t.deprecated
      JOIN organizations o ON o.id = t.organization_id AND o.prebuilds_enabled
      JOIN presets p ON p.template_id = t.id AND p.name = q.preset_name AND {_SERVES}
     WHERE q.decided_at IS NULL AND EXISTS (SELECT FROM workspaces w WHERE w.claimable_preset_id = p.id)
""")
SHARE_PRESET = text("SELECT FROM presets WHERE id = :preset_id FOR SHARE")


@dataclass(slots=True)
class Served:
    """What a hand-over leaves to be done after its commit (`Dispatcher.follow_up`)."""

    workflow_ids: list[str] = field(default_factory=list)
    """Workflows of waiters that have their answer, to be woken."""
    build_ids: list[UUID] = field(default_factory=list)
    """Builds to be started."""
    preset_ids: list[UUID] = field(default_factory=list)
    """Presets to reconcile: their pool has handed out a prebuild, or has one that may have to be paused."""
    labels: list[dict[str, str]] = field(default_factory=list)
    """The preset's names for each prebuild that was handed over, for the metrics."""
    waited: list[timedelta] = field(default_factory=list)
    """How long each claim that was handed a prebuild has waited, for the metrics."""

    def add(self, other: Served) -> None:
        """Take over what *other* leaves to be done."""
        self.workflow_ids += other.workflow_ids
        self.build_ids += other.build_ids
        self.preset_ids += other.preset_ids
        self.labels += other.labels
        self.waited += other.waited


async def serve_waiters(connection: AsyncConnection, preset_id: UUID, served: Served) -> None:
    """Give a preset's ready prebuilds, oldest first, to the head of its queue, until one of both is used up.

    A waiter that has reached a limit on workspaces is skipped, and keeps its place.

    Args:
        connection: In a transaction that holds the preset's row with a shared lock, so that nobody joins the queue
            meanwhile.
        served: The work to do after the commit is added to it.
    """
    preset = (await connection.execute(PRESET, {"preset_id": preset_id})).one_or_none()
    if preset is None:
        return
    labels = {
        "organization_name": preset.organization,
        "template_name": preset.template,
        "preset_name": preset.name,
    }
    queue = {"template_id": preset.template_id, "name": preset.name}
    ready = {"preset_id": preset_id, "invalidated": preset.last_invalidated_at}
    passed: list[UUID] = []
    if preset.limits is not None:  # locked before any prebuild, in the order of claims
        await connection.execute(LOCK_LIMITS, _limits_of(preset))
    while (
        await _has_turn(connection, preset)
        and (prebuild := (await connection.execute(OLDEST_READY, ready)).one_or_none()) is not None
    ):
        while (head := (await connection.execute(HEAD, {**queue, "passed": passed})).one_or_none()) is not None:
            if preset.limits is not None and head.workspace_id is None:
                reached = await _find_reached_limit(connection, preset, head)
                if reached == "workspaces":
                    return  # the limit binds every other waiter, too
                if reached is not None:
                    passed.append(head.owner_id)
                    continue
            refusal = None if head.workspace_id is not None else await _hand_over(connection, preset, prebuild, head)
            await connection.execute(DECIDE, {"claim_id": head.claim_id, "refusal": refusal})
            if refusal is not None:
                reason = {"error": refusal}
                await record_event(
                    connection, "claim_refused", "queue", preset_id=preset_id, claim_id=head.claim_id, data=reason
                )
            served.workflow_ids.append(head.workflow_id)
            if head.workspace_id is None and refusal is None:
                await _count_for_canary(connection, preset)
                break
        else:
            return
        served.preset_ids.append(preset_id)
        served.labels.append(labels)
        served.waited.append(head.waited)
        if preset.hands_over:
            served.build_ids.append(prebuild.claim_build_id)


async def serve_all_waiters(engine: AsyncEngine) -> Served:
    """Serve the waiters of every preset that has prebuilds ready: those of a version that became active again, say,
    which no hand-over has seen.

    When one preset fails, that is logged, and the others are served.
    """
    served = Served()
    async with engine.connect() as connection:
        presets = list(await connection.scalars(WAITED_FOR))
    for preset_id in presets:
        now = Served()
        try:
            async with engine.begin() as connection:
                await connection.execute(SHARE_PRESET, {"preset_id": preset_id})
                await serve_waiters(connection, preset_id, now)
        except DBAPIError:
            logger.warning(
                "Serving the claims that wait has failed", extra={"preset_id": str(preset_id)}, exc_info=True
            )
        else:
            served.add(now)
    return served


def _limits_of(preset: Row[Any]) -> dict[str, Any]:
    return {"organization_id": preset.organization_id, "limits": json.dumps(preset.limits)}


async def _has_turn(connection: AsyncConnection, preset: Row[Any]) -> bool:
    """Return whether the preset may serve the next claim. While a canary runs, the new version gets its share of the
    claims. Locks the canary's count."""
    if preset.canary_rollout_id is None:
        return True
    canary = {"rollout_id": preset.canary_rollout_id, "preset_id": preset.active_preset_id}
    is_new = await connection.scalar(LOCK_CANARY, canary)
    return preset.older_version is not None or is_new is not False


async def _count_for_canary(connection: AsyncConnection, preset: Row[Any]) -> None:
    if preset.canary_rollout_id is not None:
        canary = {"rollout_id": preset.canary_rollout_id, "preset_id": preset.active_preset_id}
        await connection.execute(COUNT_CANARY_CLAIM, canary | {"new": preset.older_version is None})


async def _find_reached_limit(connection: AsyncConnection, preset: Row[Any], head: Row[Any]) -> str | None:
    """Return the limit on workspaces that a waiter has reached, and record that it is skipped; None if it has reached
    none."""
    values = {**_limits_of(preset), "owner_id": head.owner_id}
    reached = (await connection.execute(REACHED_LIMIT, values)).one_or_none()
    if reached is None:
        return None
    facts = {"limit": reached.limit_name, "maximum": reached.maximum, "used": reached.used}
    event = {"preset_id": preset.id, "claim_id": head.claim_id, "data": json.dumps(facts)}
    await connection.execute(RECORD_PASSED_OVER, event)
    return str(reached.limit_name)


async def _hand_over(connection: AsyncConnection, preset: Row[Any], prebuild: Row[Any], head: Row[Any]) -> str | None:
    """Give *prebuild* to *head*. Returns the kind of refusal when that claim can no longer be served, else None."""
    try:
        request = ClaimRequest.model_validate(head.request)
    except ValidationError:  # a request of another release, which must not keep the build from ending
        return InvalidInput.__name__
    ids = {"owner": head.owner_id, "initiator": head.initiator_id}
    people = (await connection.execute(PEOPLE, ids)).one()
    values = {
        "claim_id": head.claim_id,
        "request_hash": head.request_hash,
        "workspace_id": prebuild.id,
        "build_id": prebuild.claim_build_id,
        "number": prebuild.build_number,
        "address": prebuild.address,
        "preset_id": preset.id,
        "version_id": prebuild.template_version_id,
        "hands_over": preset.hands_over,
        "owner_id": head.owner_id,
        "owner": people.owner,
        "initiator_id": head.initiator_id,
        "initiator": people.initiator,
        "name": request.name,
        "autostart": request.autostart_schedule,
        "next_start": request.next_start_at,
        "ttl": None if request.ttl_seconds is None else timedelta(seconds=request.ttl_seconds),
        "default_ttl": preset.default_ttl,
        "secrets": json.dumps(head.secrets) if head.secrets is not None else None,  # still sealed by its claims worker
    }
    try:
        async with connection.begin_nested():  # a savepoint: when this waiter fails, the next one can be served
            await keep_other_trace(connection, head.traceparent)
            answer = await connection.scalar(HAND_OVER, values)
            if preset.older_version is not None:
                older = {"claim_id": head.claim_id, "version": preset.older_version}
                answer = await connection.scalar(TELL_VERSION, older)
            if request.lease_seconds is not None:
                lease = timedelta(seconds=request.lease_seconds)
                await connection.execute(BEGIN_LEASE, {"answer": json.dumps(answer), "lease": lease})
    except IntegrityError as error:
        if NAME_KEY in str(error):
            return NameTaken.__name__
        raise
    except DBAPIError as error:
        raised = getattr(error.orig, "__cause__", None)
        if isinstance(raised, asyncpg.PostgresError) and raised.sqlstate == REFUSED:
            return str(raised)  # for example NotAMember: the owner was removed while the claim waited
        raise
    return None
