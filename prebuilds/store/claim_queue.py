"""Claims that wait: first come, first served, by preset name.

Queueing and making a prebuild ready both lock the preset's row, which fast claims never do; so no waiter and no
prebuild can miss each other. A prebuild that becomes ready is handed to the head in that same transaction
(`hand_over`). A row stays, decided, until its workflow has taken the answer; refused, until that workflow is gone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

import asyncpg
from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import InvalidInput, PrebuildsError, StoreUnavailable
from prebuilds.payloads import ClaimPlace, ClaimQueued, ClaimRequest, ClaimResult, ClaimRun
from prebuilds.store.claim_refusals import SUPERSEDED, ClaimTarget, refusal, transferred, unstorable
from prebuilds.store.claim_runs import record_answer
from prebuilds.store.claims import Claimed, ClaimStore, transacted
from prebuilds.vocabulary import MissReason
from prebuilds.vocabulary.owners import owner_key

# NO KEY UPDATE: claims in the air refer to the preset by its key, and go on. The template keeps its active version.
LOCK_PRESET = """
    SELECT p.name, p.template_id FROM presets p JOIN templates t ON t.id = p.template_id
     WHERE p.id = $1 FOR NO KEY UPDATE OF p FOR SHARE OF t
"""
# What is left of an earlier wait under this id, which nobody may have come back for: it starts over, at the end.
FORGET_PLACE = """
    DELETE FROM claim_queue
     WHERE claim_id = $1 AND (refusal IS NOT NULL OR deadline <= now() OR (template_id, preset_name) <> ($2, $3))
"""
# A second attempt keeps the place; who asked last is woken, and the relay begins to look after it anew.
ENQUEUE = """
    INSERT INTO claim_queue (claim_id, workflow_id, template_id, preset_name, request, secrets, request_hash, deadline,
                             owner_id, initiator_id)
    VALUES ($1, $2, $3, $4, $5, $6, $7, now() + $8,
            (SELECT id FROM users WHERE key = $9), (SELECT id FROM users WHERE key = $10))
        ON CONFLICT (claim_id) DO UPDATE SET workflow_id = excluded.workflow_id, looked_after_at = now()
 RETURNING xmax = 0 AS joined
"""
TELL_QUEUED = """
    INSERT INTO events (kind, actor, preset_id, claim_id, data)
    VALUES ('claim_queued', $1, $2, $3, jsonb_build_object('owner', $4::text, 'name', $5::text))
"""
POSITION = """
    SELECT q.deadline, extract(epoch FROM q.deadline - clock_timestamp())::float8 AS left_s,
           (SELECT count(*) + 1 FROM claim_queue a
             WHERE a.template_id = q.template_id AND a.preset_name = q.preset_name
               AND a.decided_at IS NULL AND a.position < q.position) AS position
      FROM claim_queue q WHERE q.claim_id = $1
"""
LOCK_PLACE = "SELECT workflow_id, refusal, request, request_hash FROM claim_queue WHERE claim_id = $1 FOR UPDATE"
# On its own, after the lock: what is joined to a row that was waited for comes as it was before the hand-over.
ANSWER = """
    SELECT answer, request_hash, transferred_at IS NOT NULL AS transferred FROM claims
     WHERE id = $1 AND workspace_id IS NOT NULL
"""
TAKE = "DELETE FROM claim_queue WHERE claim_id = $1"
_GONE = "jsonb_build_object('owner', request ->> 'owner', 'name', request ->> 'name') FROM gone"
LEAVE = f"""
    WITH gone AS (DELETE FROM claim_queue WHERE claim_id = $1 RETURNING request)
    INSERT INTO events (kind, actor, claim_id, data)
    SELECT 'claim_left', coalesce(request ->> 'initiator', request ->> 'owner'), $1, {_GONE}
"""

LOOKED_AFTER_AGAIN = timedelta(seconds=30)
"""How often the relay makes sure that a waiting claim's workflow still runs."""
WOKEN_AFTER, WOKEN_AGAIN = timedelta(seconds=2), timedelta(seconds=10)
"""A signal that was lost is made up for soon; a workflow without a worker is not buried under them."""
GRACE = timedelta(seconds=10)
"""After its deadline a claim's own workflow leaves the queue; past this it is withdrawn."""
LOOK_AFTER_MAX = 200
TAKE_UNATTENDED = text("""
    UPDATE claim_queue q SET looked_after_at = now()
      FROM (SELECT claim_id FROM claim_queue
             WHERE CASE WHEN decided_at IS NULL
                        THEN looked_after_at < now() - CAST(:again AS interval)
                             OR deadline < now() - CAST(:grace AS interval)
                        ELSE decided_at < now() - CAST(:woken_after AS interval)
                             AND (looked_after_at < decided_at
                                  OR looked_after_at < now() - CAST(:woken_again AS interval)) END
             ORDER BY looked_after_at LIMIT :limit FOR UPDATE SKIP LOCKED) AS due
     WHERE q.claim_id = due.claim_id
 RETURNING q.claim_id, q.workflow_id, q.looked_after_at, q.decided_at IS NOT NULL AS decided,
           q.decided_at IS NULL AND q.deadline < now() - CAST(:grace AS interval) AS late
""")
# Nobody has come back meanwhile, and no hand-over is in the air; else the next round decides. Whoever holds rows of the
# queue may wait for another one, so this never waits.
WITHDRAW = text(f"""
    WITH seen AS (
        SELECT q.claim_id
          FROM claim_queue q JOIN unnest(CAST(:ids AS text[]), CAST(:times AS timestamptz[])) AS s (id, at)
               ON q.claim_id = s.id AND q.looked_after_at = s.at
           FOR UPDATE OF q SKIP LOCKED
    ), gone AS (
        DELETE FROM claim_queue q USING seen WHERE q.claim_id = seen.claim_id
     RETURNING q.claim_id, q.request, q.decided_at
    ), told AS (
        INSERT INTO events (kind, actor, claim_id, data)
        SELECT 'claim_withdrawn', 'relay', claim_id, {_GONE} WHERE decided_at IS NULL
    )
    SELECT claim_id FROM gone ORDER BY claim_id
""")
SECRET_FIELDS = {"parameters", "claim_parameters"}
"""Left out of a waiting request. Both may bring secrets, and a hand-over needs only the sealed claim parameters."""
JOIN_TRIES_MAX = 5
"""Each further one is for a template version that became active in between."""


@dataclass(frozen=True, slots=True)
class Unattended:
    """A row that the relay looks after."""

    claim_id: str
    workflow_id: str
    looked_after_at: datetime
    """By this the row is known again: whoever comes back to it changes it."""
    decided: bool
    """It has its answer, and may not have heard of it."""
    late: bool
    """It waits, long past its deadline."""


@dataclass(frozen=True, slots=True)
class _RefusedPlace:
    error: PrebuildsError
    asked: bytes


class ClaimQueue:
    def __init__(self, store: ClaimStore) -> None:
        self._store = store

    async def enqueue(
        self,
        claim_id: str,
        workflow_id: str,
        request: ClaimRequest,
        target: ClaimTarget,
        missed: Claimed,
        asked: bytes,
        run: ClaimRun,
    ) -> Claimed | ClaimQueued:
        """Wait for a prebuild of the preset that *missed* names; what became ready meanwhile is taken at once.

        A claim that waits already keeps its place and deadline.

        Returns:
            Its place; or what it has won after all; or its miss again, when there is no pool to wait for.
        Raises:
            PrebuildsError: What any claim is refused with; `ClaimIdReused` also when another request waits under it.
            StoreUnavailable: The database is away.
        """
        if missed.miss_reason is MissReason.NO_POOL:
            return missed
        for _ in range(JOIN_TRIES_MAX):
            join = partial(self._join, claim_id, workflow_id, request, target, missed.preset_id, asked, run)
            found = await transacted(join)
            if isinstance(found, ClaimQueued) or found.result is not None or found.miss_reason is MissReason.NO_POOL:
                return found
            missed = found
        raise StoreUnavailable(f"the version of {target.label} changes all the time; try again with the same id")

    async def _join(
        self,
        claim_id: str,
        workflow_id: str,
        request: ClaimRequest,
        target: ClaimTarget,
        preset_id: UUID,
        asked: bytes,
        run: ClaimRun,
    ) -> Claimed | ClaimQueued:
        """Returns a miss, and joins nothing, when another preset is the one to wait for, or there is no pool."""
        async with self._store.turns, self._store.pool.acquire() as connection, connection.transaction():
            preset = await connection.fetchrow(LOCK_PRESET, preset_id)
            again = await self._store.decide(connection, claim_id, request, target, asked, run, held=None)
            if again.result is not None or again.miss_reason is MissReason.NO_POOL:
                return again
            if preset is None or again.preset_id != preset_id:  # a version became active before its template was held
                return again
            queue = (preset["template_id"], preset["name"])
            await connection.execute(FORGET_PLACE, claim_id, *queue)
            timeout = timedelta(seconds=request.wait_timeout_seconds)
            clear, secrets = request.model_dump_json(exclude=SECRET_FIELDS), self._store.seal(request)
            people = (owner_key(request.owner), owner_key(request.asked_by))
            place = (claim_id, workflow_id, *queue, clear, secrets, asked, timeout, *people)
            try:
                joined = await connection.fetchval(ENQUEUE, *place)
            except asyncpg.DataError as error:
                raise unstorable(request, claim_id, error) from error
            if joined:
                told = (request.asked_by, preset_id, claim_id, request.owner, request.name)
                await connection.execute(TELL_QUEUED, *told)
            return _queued(await connection.fetchrow(POSITION, claim_id))

    async def look(self, claim_id: str, run: ClaimRun) -> ClaimPlace:
        """Where the claim stands now; an answer is taken, and the place given up for it.

        Raises:
            PrebuildsError: It can no longer be served, such as NameTaken: that is the run's answer then.
        """
        place, refused = await transacted(partial(self._stand, claim_id))
        if refused is None:
            return place
        # After the place's transaction: an attempt to claim holds the claim's row while it waits for the place's.
        answer = await self._store.answer_run(claim_id, refused.asked, run, refused.error)
        if isinstance(answer, ClaimResult):
            return ClaimPlace(result=answer)
        raise answer

    async def leave(
        self, claim_id: str, workflow_id: str, asked: bytes, run: ClaimRun, told: PrebuildsError | None
    ) -> ClaimPlace:
        """Leave the queue, or what an attempt may yet make of it. A hand-over that has won is taken all the same.

        Several workflows may stand for one claim. The place is that of who asked last, and stays when another one goes.

        Args:
            told: The run's answer, unless there is one already; None when the run goes on without its place.
        Raises:
            PrebuildsError: It could no longer be served anyway: that is the run's answer then.
        """
        left = await transacted(partial(self._leave, claim_id, workflow_id, asked, run, told))
        if isinstance(left, PrebuildsError):
            raise left
        return left

    async def _leave(
        self, claim_id: str, workflow_id: str, asked: bytes, run: ClaimRun, told: PrebuildsError | None
    ) -> ClaimPlace | PrebuildsError:
        async with self._store.pool.acquire() as connection, connection.transaction():
            # The claim's row first, as an attempt to claim takes it. A hand-over passes over who leaves.
            answer = await record_answer(connection, claim_id, asked, run, None)
            place = await connection.fetchrow(LOCK_PLACE, claim_id)
            if answer.get("source") is not None:
                await connection.execute(TAKE, claim_id)
                return ClaimPlace(result=ClaimResult.model_validate(answer))
            if answer.get("error") == SUPERSEDED:
                return ClaimPlace()
            refused = _refused(claim_id, place) if place is not None and place["refusal"] is not None else None
            if not answer and (refused is not None or told is not None):
                await record_answer(connection, claim_id, asked, run, refused or told)
            if place is not None and place["workflow_id"] == workflow_id:
                await connection.execute(TAKE if refused else LEAVE, claim_id)
            return refused or ClaimPlace()

    async def _stand(self, claim_id: str) -> tuple[ClaimPlace, _RefusedPlace | None]:
        async with self._store.pool.acquire() as connection, connection.transaction():
            place = await connection.fetchrow(LOCK_PLACE, claim_id)
            won = await connection.fetchrow(ANSWER, claim_id)
            if won is not None:
                await connection.execute(TAKE, claim_id)
                if won["transferred"]:  # before its claim's workflow was woken
                    return ClaimPlace(), _RefusedPlace(transferred(claim_id), won["request_hash"])
                return ClaimPlace(result=ClaimResult.model_validate(json.loads(won["answer"]))), None
            if place is None:  # withdrawn, or left by an earlier attempt
                return ClaimPlace(), None
            if place["refusal"] is not None:  # it stays for the next attempt, should this answer be lost
                return ClaimPlace(), _RefusedPlace(_refused(claim_id, place), place["request_hash"])
            return ClaimPlace(waiting=_queued(await connection.fetchrow(POSITION, claim_id))), None


async def take_unattended(engine: AsyncEngine) -> list[Unattended]:
    """Rows whose workflow may not know of its answer, may be late, or may be gone; each is looked after again later."""
    due = {
        "again": LOOKED_AFTER_AGAIN,
        "woken_after": WOKEN_AFTER,
        "woken_again": WOKEN_AGAIN,
        "grace": GRACE,
        "limit": LOOK_AFTER_MAX,
    }
    async with engine.begin() as connection:
        rows = await connection.execute(TAKE_UNATTENDED, due)
        return [Unattended(row.claim_id, row.workflow_id, row.looked_after_at, row.decided, row.late) for row in rows]


async def withdraw(engine: AsyncEngine, gone: Sequence[Unattended]) -> list[str]:
    """Take claims that nobody stands behind out of the queue, so that nothing is handed to nobody.

    Returns:
        The ids of those; whoever came back meanwhile stays.
    """
    async with engine.begin() as connection:
        seen = {"ids": [g.claim_id for g in gone], "times": [g.looked_after_at for g in gone]}
        return list(await connection.scalars(WITHDRAW, seen))


def _queued(row: asyncpg.Record | None) -> ClaimQueued:
    assert row is not None  # noqa: S101 - the caller holds the waiting row
    deadline: datetime = row["deadline"]
    return ClaimQueued(position=row["position"], deadline=deadline, left_seconds=row["left_s"])


def _refused(claim_id: str, place: asyncpg.Record) -> PrebuildsError:
    try:
        request = ClaimRequest.model_validate_json(place["request"])
    except ValidationError:
        return InvalidInput(f"claim {claim_id} waited in a form that this release cannot read; ask again")
    return refusal(place["refusal"], request, ClaimTarget(request.preset or request.template or ""), claim_id)
