"""The queue of claims that wait: first come, first served, by the preset's name.

Joining the queue and making a prebuild ready both lock the preset's row, which a claim that finds a prebuild never
does. So no prebuild becomes ready unseen by a claim that joins. A prebuild that becomes ready is handed to the head of
the queue in that same transaction (`hand_over`). A place stays, decided, until its workflow has taken the answer; a
refused one stays until that workflow is gone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

import asyncpg
from pydantic import ValidationError

from prebuilds.api import InvalidInput, PrebuildsError, StoreUnavailable
from prebuilds.payloads import ClaimPlace, ClaimQueued, ClaimRequest, ClaimResult, ClaimRun, ClaimTerms
from prebuilds.store.claim_refusals import SUPERSEDED, ClaimTarget, refusal, transferred, unstorable
from prebuilds.store.claim_runs import record_answer
from prebuilds.store.claim_transactions import run_transaction
from prebuilds.store.claims import ClaimOutcome, ClaimStore
from prebuilds.store.kept_traces import keep_trace_of_claim
from prebuilds.vocabulary import MissReason
from prebuilds.vocabulary.owners import owner_key

# NO KEY UPDATE does not block concurrent claims, whose rows refer to the preset's key. The lock of the template's row
# keeps its active version the same.
LOCK_PRESET = """
    SELECT p.name, p.template_id FROM presets p JOIN templates t ON t.id = p.template_id
     WHERE p.id = $1 FOR NO KEY UPDATE OF p FOR SHARE OF t
"""
# Deletes the place of an earlier wait. The claim joins again at the end of the queue. This records no event.
DELETE_LEFTOVER_PLACE = """
    DELETE FROM claim_queue
     WHERE claim_id = $1 AND (refusal IS NOT NULL OR deadline <= now() OR (template_id, preset_name) <> ($2, $3))
"""
# A second attempt keeps the place. The relay wakes the workflow that asked last, and counts the time to its next check
# of that workflow from now.
TAKE_PLACE = """
    INSERT INTO claim_queue (claim_id, workflow_id, template_id, preset_name, request, secrets, request_hash, deadline,
                             owner_id, initiator_id)
    VALUES ($1, $2, $3, $4, $5, $6, $7, now() + $8,
            (SELECT id FROM users WHERE key = $9), (SELECT id FROM users WHERE key = $10))
        ON CONFLICT (claim_id) DO UPDATE SET workflow_id = excluded.workflow_id, looked_after_at = now()
 RETURNING xmax = 0 AS joined
"""
RECORD_QUEUED = """
    INSERT INTO events (kind, actor, preset_id, claim_id, data)
    SELECT 'claim_queued', $1, $2, $3,
           jsonb_strip_nulls(jsonb_build_object('owner', $4::text, 'name', $5::text, 'token_id', token_id))
      FROM claims WHERE id = $3
"""
POSITION = """
    SELECT q.deadline, extract(epoch FROM q.deadline - clock_timestamp())::float8 AS left_s,
           (SELECT count(*) + 1 FROM claim_queue a
             WHERE a.template_id = q.template_id AND a.preset_name = q.preset_name
               AND a.decided_at IS NULL AND a.position < q.position) AS position
      FROM claim_queue q WHERE q.claim_id = $1
"""
LOCK_PLACE = "SELECT workflow_id, refusal, request, request_hash FROM claim_queue WHERE claim_id = $1 FOR UPDATE"
# Lock the place first, read the answer in a second statement: after a lock wait, READ COMMITTED re-reads only the
# locked row. A joined row would be older than the hand-over.
ANSWER = """
    SELECT answer, request_hash, transferred_at IS NOT NULL AS transferred FROM claims
     WHERE id = $1 AND workspace_id IS NOT NULL
"""
# Ends the wait of a claim that has its answer. This records no event, since the answer's event exists already.
DELETE_PLACE = "DELETE FROM claim_queue WHERE claim_id = $1"
OWNER_AND_NAME = "jsonb_build_object('owner', request ->> 'owner', 'name', request ->> 'name')"
"""The fields of a request that an event shows."""
# Ends the wait of a claim that leaves without an answer, and records that as an event.
DELETE_PLACE_AND_RECORD = f"""
    WITH gone AS (DELETE FROM claim_queue WHERE claim_id = $1 RETURNING request, left_by)
    INSERT INTO events (kind, actor, claim_id, data)
    SELECT 'claim_left', coalesce(left_by, request ->> 'initiator', request ->> 'owner'), $1, {OWNER_AND_NAME} FROM gone
"""
# The workflow cannot record this later, since it does not know who has cancelled it.
NOTE_WHO_LEAVES = "UPDATE claim_queue SET left_by = $2 WHERE claim_id = $1"
LOCK_CLAIM = "SELECT request_hash, run, other_runs_after, workspace_id FROM claims WHERE id = $1 FOR UPDATE"

SECRET_FIELDS = {"parameters", "claim_parameters"}
"""Left out of a waiting request, since both may bring secrets. A hand-over needs the claim parameters alone, which are
stored sealed."""
JOIN_TRIES_MAX = 5
"""Tries to join; each further one is for a template version that became active in between."""


@dataclass(frozen=True, slots=True)
class _RefusedPlace:
    """A place that can no longer be served, to be recorded as the run's answer."""

    error: PrebuildsError
    request_hash: bytes


class ClaimQueue:
    """Joining, looking up and leaving places, each in one transaction."""

    def __init__(self, store: ClaimStore) -> None:
        self._store = store

    async def join(
        self,
        claim_id: str,
        workflow_id: str,
        request: ClaimRequest,
        target: ClaimTarget,
        missed: ClaimOutcome,
        request_hash: bytes,
        run: ClaimRun,
    ) -> ClaimOutcome | ClaimQueued:
        """Join the queue of the preset that *missed* names; if a prebuild became ready meanwhile, take it instead.

        Returns at once. A claim that waits already keeps its place and deadline.

        Args:
            workflow_id: The workflow to wake when the claim has its answer.
            missed: What the claim's statement has found.
            request_hash: Of the request as it came.
        Returns:
            Its place; or what it has won after all; or its miss again, when there is no pool to wait for.
        Raises:
            PrebuildsError: What any claim is refused with; `ClaimIdReused` also when another request waits under this
                id.
            StoreUnavailable: The database is away.
        """
        if missed.miss_reason is MissReason.NO_POOL:
            return missed
        for _ in range(JOIN_TRIES_MAX):
            join = partial(self._join, claim_id, workflow_id, request, target, missed.preset_id, request_hash, run)
            found = await run_transaction(join)
            if isinstance(found, ClaimQueued) or found.result is not None or found.miss_reason is MissReason.NO_POOL:
                return found
            missed = found
        raise StoreUnavailable(
            f"the version of {target.label} changes all the time", remedy="try again with the same id"
        )

    async def _join(
        self,
        claim_id: str,
        workflow_id: str,
        request: ClaimRequest,
        target: ClaimTarget,
        preset_id: UUID,
        request_hash: bytes,
        run: ClaimRun,
    ) -> ClaimOutcome | ClaimQueued:
        """Returns a miss, and joins nothing, when another preset is the one to wait for, or there is no pool."""
        async with self._store.locking, self._store.pool.acquire() as connection, connection.transaction():
            preset = await connection.fetchrow(LOCK_PRESET, preset_id)
            again = await self._store.claim_on(connection, claim_id, request, target, request_hash, run, held=None)
            if again.result is not None or again.miss_reason is MissReason.NO_POOL:
                return again
            if preset is None or again.preset_id != preset_id:  # a version became active before its template was locked
                return again
            queue = (preset["template_id"], preset["name"])
            await connection.execute(DELETE_LEFTOVER_PLACE, claim_id, *queue)
            timeout = timedelta(seconds=request.wait_timeout_seconds)
            clear, secrets = request.model_dump_json(exclude=SECRET_FIELDS), self._store.seal(request)
            people = (owner_key(request.owner), owner_key(request.initiator_or_owner))
            await keep_trace_of_claim(connection)
            place = (claim_id, workflow_id, *queue, clear, secrets, request_hash, timeout, *people)
            try:
                is_new = await connection.fetchval(TAKE_PLACE, *place)
            except asyncpg.DataError as error:
                raise unstorable(request, claim_id, error) from error
            if is_new:
                facts = (request.initiator_or_owner, preset_id, claim_id, request.owner, request.name)
                await connection.execute(RECORD_QUEUED, *facts)
            return _queued(await connection.fetchrow(POSITION, claim_id))

    async def take_answer_or_place(self, claim_id: str, run: ClaimRun) -> ClaimPlace:
        """Take the claim's answer and delete its place; without an answer, look up where the claim stands.

        Raises:
            PrebuildsError: The claim can no longer be served, such as NameTaken: that is the run's answer then.
        """
        place, refused = await run_transaction(partial(self._take_answer_or_place, claim_id))
        if refused is None:
            return place
        # Not in the same transaction: an attempt to claim holds the claim's row while it waits for the place's.
        answer = await self._store.answer_run(claim_id, refused.request_hash, run, refused.error)
        if isinstance(answer, ClaimResult):
            return ClaimPlace(result=answer)
        raise answer

    async def _take_answer_or_place(self, claim_id: str) -> tuple[ClaimPlace, _RefusedPlace | None]:
        async with self._store.pool.acquire() as connection, connection.transaction():
            place = await connection.fetchrow(LOCK_PLACE, claim_id)
            answered = await connection.fetchrow(ANSWER, claim_id)
            if answered is not None:
                await connection.execute(DELETE_PLACE, claim_id)
                if answered["transferred"]:  # before its claim's workflow was woken
                    return ClaimPlace(), _RefusedPlace(transferred(claim_id), answered["request_hash"])
                return ClaimPlace(result=ClaimResult.model_validate(json.loads(answered["answer"]))), None
            if place is None:  # withdrawn, or left by an earlier attempt
                return ClaimPlace(), None
            if place["refusal"] is not None:  # it stays for the next attempt, should this answer be lost
                return ClaimPlace(), _RefusedPlace(_refused(claim_id, place), place["request_hash"])
            return ClaimPlace(waiting=_queued(await connection.fetchrow(POSITION, claim_id))), None

    async def leave(
        self,
        claim_id: str,
        workflow_id: str,
        request_hash: bytes,
        run: ClaimRun,
        answer: PrebuildsError | None,
        request: ClaimTerms | None = None,
    ) -> ClaimPlace:
        """Leave the queue, also on behalf of attempts that have yet to join it. A prebuild that was handed over before
        is taken all the same.

        Args:
            workflow_id: Who leaves. Several workflows may stand for one claim: the place is that of the one which asked
                last, and stays when another one goes.
            answer: The run's answer, unless it has one already; None when the run goes on without its place.
            request: As of `record_answer`.
        Raises:
            PrebuildsError: The claim was refused while it waited: that is the run's answer then.
        """
        left = await run_transaction(partial(self._leave, claim_id, workflow_id, request_hash, run, answer, request))
        if isinstance(left, PrebuildsError):
            raise left
        return left

    async def _leave(
        self,
        claim_id: str,
        workflow_id: str,
        request_hash: bytes,
        run: ClaimRun,
        answer: PrebuildsError | None,
        request: ClaimTerms | None,
    ) -> ClaimPlace | PrebuildsError:
        async with self._store.pool.acquire() as connection, connection.transaction():
            # Lock the claim's row first, as an attempt to claim does. A hand-over skips a claim whose row is locked.
            known = await record_answer(connection, claim_id, request_hash, run, None, request)
            place = await connection.fetchrow(LOCK_PLACE, claim_id)
            if known.get("source") is not None:
                await connection.execute(DELETE_PLACE, claim_id)
                return ClaimPlace(result=ClaimResult.model_validate(known))
            if known.get("error") == SUPERSEDED:
                return ClaimPlace()
            refused = _refused(claim_id, place) if place is not None and place["refusal"] is not None else None
            if not known and (refused is not None or answer is not None):
                await record_answer(connection, claim_id, request_hash, run, refused or answer, request)
            if place is not None and place["workflow_id"] == workflow_id:
                await connection.execute(DELETE_PLACE if refused else DELETE_PLACE_AND_RECORD, claim_id)
            return refused or ClaimPlace()

    async def note_who_leaves(self, claim_id: str, by: str) -> None:
        """Note who asks that a claim leaves the queue, for the event. It may have left already."""
        await run_transaction(partial(self._store.pool.execute, NOTE_WHO_LEAVES, claim_id, by))

    async def withdraw(self, claim_id: str, workflow_id: str, answer: PrebuildsError) -> None:
        """Take a claim whose workflow is gone out of the queue. What it has won, or was answered, stays.

        Args:
            workflow_id: The workflow that is gone; the place of another one stays.
            answer: Of the claim's last run, unless that has one.
        """
        await run_transaction(partial(self._withdraw, claim_id, workflow_id, answer))

    async def _withdraw(self, claim_id: str, workflow_id: str, answer: PrebuildsError) -> None:
        async with self._store.pool.acquire() as connection, connection.transaction():
            claim = await connection.fetchrow(LOCK_CLAIM, claim_id)
            place = await connection.fetchrow(LOCK_PLACE, claim_id)
            if claim is None or claim["workspace_id"] is not None:
                return
            if place is not None:
                if place["workflow_id"] != workflow_id:
                    return
                await connection.execute(DELETE_PLACE if place["refusal"] else DELETE_PLACE_AND_RECORD, claim_id)
            run = ClaimRun(id=claim["run"], began_at=claim["other_runs_after"])
            await record_answer(connection, claim_id, claim["request_hash"], run, answer)


def _queued(row: asyncpg.Record | None) -> ClaimQueued:
    assert row is not None  # noqa: S101 - the caller holds the waiting row
    deadline: datetime = row["deadline"]
    return ClaimQueued(position=row["position"], deadline=deadline, left_seconds=row["left_s"])


def _refused(claim_id: str, place: asyncpg.Record) -> PrebuildsError:
    """The error that a refused place stands for."""
    try:
        request = ClaimRequest.model_validate_json(place["request"])
    except ValidationError:
        return InvalidInput(f"claim {claim_id} waited in a form that this release cannot read", remedy="ask again")
    return refusal(place["refusal"], request, ClaimTarget(request.preset or request.template or ""), claim_id)
