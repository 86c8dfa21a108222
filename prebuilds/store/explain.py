"""The recorded decisions behind a pool's size and a claim's outcome, for `explain`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import InvalidInput
from prebuilds.planning.pass_plan import plan_pass
from prebuilds.planning.rules import Rules
from prebuilds.planning.snapshot import Preset
from prebuilds.planning.state import Desired, desired_at, undo_changes
from prebuilds.store.paging import LIMIT_DEFAULT, check_limit, cursor, make_page, read_cursor
from prebuilds.store.pools import FIRST_EVENT
from prebuilds.store.presets import find_preset, find_presets_ever
from prebuilds.store.snapshots import snapshot_preset, snapshot_state, snapshot_transaction
from prebuilds.views import ClaimExplanation, EventRow, Page, PresetExplanation, QueuedClaim

ID_MAX = 2**63 - 1
"""Above every event's id."""
COMMITTED_WITHIN = timedelta(hours=1)
"""Longer than any transaction: an event whose time is so much later than another's has the higher number."""
CONCERN_ALL = "('paused', 'resumed', 'loop_started', 'loop_stopped', 'applied')"
"""Kinds of events that have no preset and may explain any preset; an `applied` event explains those of its
organizations. They are the kinds of the index `events_of_all_idx`."""

# The limit stands in the statement: with a parameter in its place, PostgreSQL plans for a tenth of the table.
PRESET_EVENTS = f"""
    WITH candidates AS (
        SELECT e.id, e.at, e.kind, e.actor, e.data
          FROM unnest(CAST(:presets AS uuid[])) AS p (id),
               LATERAL (SELECT * FROM events WHERE preset_id = p.id AND at <= :at AND id < :before
                        ORDER BY id DESC LIMIT {{limit}}) AS e
         UNION ALL
        (SELECT id, at, kind, actor, data FROM events
          WHERE preset_id IS NULL AND kind IN {CONCERN_ALL} AND at <= :at AND id < :before
            AND (kind <> 'applied' OR coalesce(data -> 'organizations' @> to_jsonb(CAST(:organization AS text)), true))
          ORDER BY id DESC LIMIT {{limit}})
    ), newest AS (
        SELECT * FROM candidates ORDER BY id DESC LIMIT {{limit}}
    )
    SELECT id, at, kind, actor, data FROM newest ORDER BY id DESC
"""

CHANGES_SINCE = text("""
    SELECT data -> 'changes' AS changes
      FROM (SELECT * FROM events WHERE preset_id = ANY(CAST(:presets AS uuid[])) AND kind = 'policy_changed'
             UNION ALL
            SELECT * FROM events WHERE preset_id = ANY(CAST(:presets AS uuid[])) AND kind = 'pool_resized'
             UNION ALL
            SELECT * FROM events WHERE preset_id = ANY(CAST(:presets AS uuid[])) AND kind = 'head_start_changed') AS e
     WHERE at > :at AND jsonb_typeof(data -> 'changes') = 'object'
     ORDER BY id
""")
# The settings at :at follow from the current ones and the recorded changes since then. They are not known when
#  - events of that time were removed;
#  - no preset of the path existed then;
#  - a version has added the preset later, for the first time or again: then nothing recorded how it differs.
SETTINGS_RECORDED = text("""
    SELECT (NOT EXISTS (SELECT FROM retention WHERE rule = 'events' AND removed_event IS NOT NULL)
            OR (SELECT at FROM events ORDER BY id LIMIT 1) <= :at)
       AND EXISTS (SELECT FROM presets WHERE id = ANY(CAST(:presets AS uuid[])) AND created_at <= :at)
       AND NOT EXISTS (SELECT FROM events
                        WHERE preset_id = ANY(CAST(:presets AS uuid[])) AND kind = 'version_activated' AND at > :at
                          AND data ->> 'preset' = 'added')
""")

READ_CLAIM = text("""
    SELECT c.*, q.decided_at, q.refusal, q.deadline,
           (SELECT count(*) + 1 FROM claim_queue a
             WHERE a.template_id = q.template_id AND a.preset_name = q.preset_name
               AND a.decided_at IS NULL AND a.position < q.position) AS position
      FROM claims c LEFT JOIN claim_queue q ON q.claim_id = c.id
     WHERE c.id = :id
""")
LIST_WAITING = text("""
    WITH waiting AS (
        SELECT q.claim_id, o.name || '/' || t.name || '/' || q.preset_name AS preset, q.request ->> 'owner' AS owner,
               q.request ->> 'name' AS name, coalesce(q.request ->> 'initiator', q.request ->> 'owner') AS initiator,
               q.queued_at, q.deadline, q.position AS place,
               row_number() OVER (PARTITION BY q.template_id, q.preset_name ORDER BY q.position) AS position
          FROM claim_queue q JOIN templates t ON t.id = q.template_id JOIN organizations o ON o.id = t.organization_id
         WHERE q.decided_at IS NULL
           AND (CAST(:preset AS text) IS NULL OR o.name || '/' || t.name || '/' || q.preset_name = :preset)
    )
    SELECT * FROM waiting
     WHERE CAST(:after_place AS bigint) IS NULL OR (preset, place) > (CAST(:after_preset AS text), :after_place)
     ORDER BY preset, place LIMIT :limit
""")
CLAIM_EVENTS = text("""
    SELECT id, at, kind, actor, data FROM events WHERE claim_id = :claim_id AND workspace_id IS NULL
     UNION ALL
    SELECT id, at, kind, actor, data FROM events
     WHERE workspace_id = :workspace_id AND (claim_id = :claim_id OR build_id = :build_id)
     ORDER BY at, id
""")


async def explain_preset(
    engine: AsyncEngine,
    reference: str,
    rules: Rules,
    at: datetime | None,
    *,
    limit: int = LIMIT_DEFAULT,
    after: str | None = None,
) -> PresetExplanation:
    """Explain what was desired of a preset's pool at an instant, with the newest events up to that instant.

    Args:
        reference: An id or a path, also of a deleted template. The events are those of every preset of that path.
        rules: The deployment's rules.
        at: The instant. `desired` then follows from the settings of that time, as far as the changes since are
            recorded, as if the preset was active. None for now, with the current hold.
        limit: The most events, of which the newest are returned.
        after: The `next` of an explanation, for the events before its own; None for the newest events.
    Raises:
        InvalidInput: *reference* is neither an id nor a path, or *after* is not the `next` of an explanation.
        PresetNotFound: There never was such a preset.
    """
    before = read_cursor(after, int)[0] if after is not None else ID_MAX
    async with snapshot_transaction(engine) as connection:
        found = (await find_presets_ever(connection, reference))[0]
        snapshot = await snapshot_preset(connection, found.id, rules)
        everywhere = [p.id for p in await find_presets_ever(connection, found.path)]
        preset, until, recorded = snapshot.preset, at or snapshot.taken_at, True
        if at is not None:
            preset, recorded = await _with_settings_at(connection, preset, everywhere, at)
        wanted, held = desired_at(preset, until), None
        if at is None:
            decisions = plan_pass(await snapshot_state(connection, rules)).decisions
            decision = next((decision for decision in decisions if decision.item.preset.id == found.id), None)
            wanted = Desired(0)
            if decision is not None:
                state = decision.state
                wanted = Desired(state.desired, state.window, sized=state.sized, early=state.early)
            held = decision.held if decision is not None else None
        if until + COMMITTED_WITHIN < snapshot.taken_at:  # without it, all later events would be read and dropped
            first_later = await connection.scalar(FIRST_EVENT, {"since": until + COMMITTED_WITHIN})
            before = min(before, int(str(first_later)) + 1)
        organization = found.path.partition("/")[0]
        values = {"presets": everywhere, "at": until, "before": before, "organization": organization}
        statement = text(PRESET_EVENTS.format(limit=check_limit(limit) + 1))
        rows = (await connection.execute(statement, values)).all()
    page = make_page(rows, limit, lambda row: cursor(row.id))
    return PresetExplanation(
        preset=found.path,
        preset_id=found.id,
        at=until,
        desired=wanted.instances,
        window=wanted.window,
        sized=wanted.sized,
        early=wanted.early,
        paused=preset.desired_paused if at is not None or preset.active else 0,
        paused_sized=preset.follows_paused and (at is not None or preset.active),
        base=preset.base_instances,
        settings_recorded=recorded,
        held=held.reason if held is not None else None,
        held_until=held.until if held is not None else None,
        events=_events(sorted(page.rows, key=lambda row: (row.at, row.id))),
        next=page.next,
    )


async def _with_settings_at(
    connection: AsyncConnection, preset: Preset, everywhere: Sequence[UUID], at: datetime
) -> tuple[Preset, bool]:
    """Return the preset with its settings at an instant, and True; with the oldest known ones, and False."""
    values = {"presets": everywhere, "at": at}
    changes = await connection.scalars(CHANGES_SINCE, values)
    recorded = await connection.scalar(SETTINGS_RECORDED, values)
    return undo_changes(preset, changes), bool(recorded)


async def explain_claim(engine: AsyncEngine, claim_id: str) -> ClaimExplanation:
    """Explain the outcome of a claim, with its events and those of its build.

    Raises:
        InvalidInput: No claim with this id is recorded.
    """
    async with engine.connect() as connection:
        claim = (await connection.execute(READ_CLAIM, {"id": claim_id})).one_or_none()
        if claim is None:
            message = f"no claim {claim_id} is recorded; one that was refused leaves nothing behind"
            raise InvalidInput.field("claim_id", message, "correct the id, or see the claim's workflow in Temporal")
        answer = claim.answer or {}
        build_id = UUID(answer["build_id"]) if "build_id" in answer else None
        values = {"claim_id": claim_id, "workspace_id": claim.workspace_id, "build_id": build_id}
        events = _events(await connection.execute(CLAIM_EVENTS, values))
    waits = claim.deadline is not None and claim.decided_at is None and claim.workspace_id is None
    refused = claim.refusal is not None and claim.workspace_id is None
    return ClaimExplanation(
        claim_id=claim_id,
        outcome="waiting" if waits else "refused" if refused else claim.outcome,
        position=claim.position if waits else None,
        deadline=claim.deadline if waits else None,
        miss_reason=claim.miss_reason,
        workspace_id=claim.workspace_id,
        error=f"{answer['error']}: {answer.get('message')}" if "error" in answer else None,
        preset_id=answer.get("preset_id"),
        created_at=claim.created_at,
        completed_at=None if waits else claim.completed_at,
        events=events,
    )


async def list_waiting(
    engine: AsyncEngine, preset: str | None, *, limit: int = LIMIT_DEFAULT, after: str | None = None
) -> Page[QueuedClaim]:
    """List a page of the claims that wait for a prebuild, ordered by preset and then by place in the queue.

    Args:
        preset: An id, or a path in a live template; None for all presets.
        limit: The most claims of the page.
        after: The `next` of the previous page; None for the first page. It stays valid after its claim has left.
    Raises:
        InvalidInput: *preset* is neither an id nor a path, or *after* is no cursor of this list.
        PresetNotFound: No live template has the preset.
    """
    passed: list[Any] = read_cursor(after, str, int) if after is not None else [None, None]
    async with engine.connect() as connection:
        path = (await find_preset(connection, preset)).path if preset is not None else None
        values = {"preset": path, "after_preset": passed[0], "after_place": passed[1], "limit": check_limit(limit) + 1}
        rows = (await connection.execute(LIST_WAITING, values)).all()
    page = make_page(rows, limit, lambda row: cursor(row.preset, row.place))
    waiting = [
        QueuedClaim(
            claim_id=row.claim_id,
            preset=row.preset,
            owner=row.owner,
            name=row.name,
            initiator=row.initiator,
            position=row.position,
            queued_at=row.queued_at,
            deadline=row.deadline,
        )
        for row in page.rows
    ]
    return Page(waiting, page.next)


def _events(rows: Iterable[Any]) -> list[EventRow]:
    return [EventRow(at=row.at, kind=row.kind, actor=row.actor, data=row.data) for row in rows]
