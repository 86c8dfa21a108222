"""Many claims in one transaction, all or nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

from prebuilds.api import LimitExceeded
from prebuilds.payloads import ClaimRequest, ClaimRun
from prebuilds.store.claim_refusals import SUPERSEDED, ClaimTarget, beyond_limits, refusal
from prebuilds.store.claim_runs import record_answer, recorded_refusal
from prebuilds.store.claim_statement import Connection
from prebuilds.store.claim_transactions import RetryTransaction, run_transaction
from prebuilds.store.claims import ClaimOutcome, ClaimStore

# A batch holds rows while it waits for others, which a single claim never does. So it first locks its preset's row, as
# passes, `apply` and other batches do: only one of them runs at a time. The lock of the template's row keeps its active
# version the same, so that all members get this version.
_LOCK_FOR_BATCH = """
    SELECT p.id, o.name AS organization, o.limits
      FROM presets p JOIN templates t ON t.id = p.template_id JOIN organizations o ON o.id = t.organization_id
     WHERE {} FOR NO KEY UPDATE OF p FOR SHARE OF t
"""
LOCK_FOR_BATCH_BY_ID = _LOCK_FOR_BATCH.format("p.id = $1")
LOCK_FOR_BATCH = _LOCK_FOR_BATCH.format("""
       o.name = $1 AND t.name = $2 AND t.deleted_at IS NULL AND p.name = $3
       AND p.template_version_id = t.active_version_id
""")

# A prebuild may be of another preset than the locked one: while a rollout runs, an older version may serve claims.
IS_ACTIVE = """
    SELECT EXISTS (SELECT FROM presets p JOIN templates t ON t.active_version_id = p.template_version_id
                    WHERE p.id = $1)
"""


# All attempts of a run count as one miss.
RECORD_MISS = """
    INSERT INTO events (kind, actor, preset_id, claim_id, data)
    SELECT 'claim_missed', $1, $2, $3,
           jsonb_build_object('owner', $4::text, 'name', $5::text, 'claims', $6::int, 'miss_reason', $7::text,
                              'run', $8::text)
     WHERE NOT EXISTS (SELECT FROM events
                        WHERE claim_id = $3 AND workspace_id IS NULL AND kind = 'claim_missed' AND data ->> 'run' = $8)
"""


def member_ids(claim_id: str, number: int) -> list[str]:
    """The claim ids of a batch's members, in the order of their names. All attempts at the batch lock the first
    member's row first, and it keeps what the batch's run was answered."""
    return [f"{claim_id}/{n}" for n in range(number)]


class ClaimBatches:
    """Claims of several workspaces at once, by the statement of single claims."""

    def __init__(self, store: ClaimStore) -> None:
        self._store = store

    async def claim(
        self,
        claim_id: str,
        requests: Sequence[ClaimRequest],
        target: ClaimTarget,
        request_hash: bytes,
        run: ClaimRun,
        *,
        held: bool | None,
    ) -> list[ClaimOutcome]:
        """Decide one claim for each of *requests*, of one preset, in one transaction.

        Args:
            claim_id: Of the batch; its members' ids are `member_ids`.
            request_hash: Of the batch's request as it came.
            held: As of `ClaimStore.claim`.
        Returns:
            What each request got, in their order. When one misses, nothing at all was written, and the last of the list
            is that miss.
        Raises:
            PrebuildsError: The first refusal; nothing was written.
            StoreUnavailable: The database is away.
        """
        return await run_transaction(partial(self._transact, claim_id, requests, target, request_hash, run, held))

    async def record_miss(
        self, claim_id: str, requests: Sequence[ClaimRequest], run: ClaimRun, missed: ClaimOutcome
    ) -> None:
        """Record an event that a batch has missed. The batch's own transaction was rolled back, and its event with it.

        Raises:
            StoreUnavailable: The database is away.
        """
        first = requests[0]
        values = (member_ids(claim_id, 1)[0], first.owner, first.name, len(requests), missed.miss_reason, run.id)
        await run_transaction(
            partial(self._store.pool.execute, RECORD_MISS, first.initiator_or_owner, missed.preset_id, *values)
        )

    async def _transact(
        self,
        claim_id: str,
        requests: Sequence[ClaimRequest],
        target: ClaimTarget,
        request_hash: bytes,
        run: ClaimRun,
        held: bool | None,
    ) -> list[ClaimOutcome]:
        async with self._store.locking, self._store.pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                claims = await self._decide_each(connection, claim_id, requests, target, request_hash, run, held)
            except BaseException:
                await transaction.rollback()
                raise
            if claims[-1].result is None:
                await transaction.rollback()
            else:
                await transaction.commit()
        return claims

    async def _decide_each(
        self,
        connection: Connection,
        claim_id: str,
        requests: Sequence[ClaimRequest],
        target: ClaimTarget,
        request_hash: bytes,
        run: ClaimRun,
        held: bool | None,
    ) -> list[ClaimOutcome]:
        """In the requests' order; ends with the first miss, if there is one."""
        if target.preset_id is not None:
            row = await connection.fetchrow(LOCK_FOR_BATCH_BY_ID, target.preset_id)
        else:
            row = await connection.fetchrow(LOCK_FOR_BATCH, *(target.path or (None, None, None)))
        locked = None if row is None else row["id"]
        ids = member_ids(claim_id, len(requests))
        answered = await record_answer(connection, ids[0], request_hash, run, None, requests[0])
        if answered.get("error") == SUPERSEDED:
            raise refusal(SUPERSEDED, requests[0], target, claim_id)
        if refused := recorded_refusal(answered):
            raise refused
        never = None
        if row is not None and row["limits"] is not None and answered.get("source") is None:
            never = beyond_limits(len(requests), row["organization"], json.loads(row["limits"]))
        claims: dict[int, ClaimOutcome] = {}
        # In the order of names, so that two batches of one owner, from whatever pools, lock the same names in one
        # order.
        for n, request in sorted(enumerate(requests), key=lambda item: item[1].name):
            try:
                claimed = await self._store.claim_on(connection, ids[n], request, target, request_hash, run, held=held)
            except LimitExceeded as error:
                raise never or error from None
            if never is not None:  # only now, since the first claim refuses who is not a member
                raise never
            if claimed.decided_now and claimed.preset_id != locked and not await connection.fetchval(IS_ACTIVE, locked):
                raise RetryTransaction  # a version became active before its template was locked
            if claimed.result is None:
                return [*claims.values(), claimed]
            claims[n] = claimed
        return [claims[n] for n in range(len(requests))]
