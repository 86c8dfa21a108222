"""One person's claim, on asyncpg itself: SQLAlchemy would cost five times the throughput here.

The statement is a database function, since a claim is several steps of which each depends on the one before, and one
round trip is what a claim can afford (decision 0004).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeAlias, TypeVar
from uuid import UUID, uuid4

import asyncpg

from prebuilds.api import ClaimIdReused, NameTaken, PrebuildsError
from prebuilds.payloads import ClaimRequest, ClaimResult, ClaimRun, ClaimTerms
from prebuilds.planning.choose import PresetOffer
from prebuilds.settings.sealing import KeyRing
from prebuilds.store.claim_refusals import REFUSED, SUPERSEDED, ClaimTarget, refusal, transferred, unstorable
from prebuilds.store.claim_runs import record_answer, recorded_refusal
from prebuilds.store.engine import CONNECTION_LOST, store_unavailable
from prebuilds.vocabulary import MissReason, build_id_of
from prebuilds.vocabulary.owners import owner_key

CLAIM = """
    SELECT answer, fresh, organization, template, preset, build_is_open((answer ->> 'build_id')::uuid) AS build_open
      FROM claim_workspace($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
                           $19, $20, $21)
"""
# A batch holds rows while it waits for others, as single claims never do: so it takes turns, at its preset's row, with
# passes, `apply` and other batches, which do so too. The template keeps its active version: all get the same one.
_LOCK_FOR_BATCH = """
    SELECT p.id FROM presets p JOIN templates t ON t.id = p.template_id JOIN organizations o ON o.id = t.organization_id
     WHERE {} FOR NO KEY UPDATE OF p FOR SHARE OF t
"""
LOCK_FOR_BATCH_BY_ID = _LOCK_FOR_BATCH.format("p.id = $1")
LOCK_FOR_BATCH = _LOCK_FOR_BATCH.format("""
       o.name = $1 AND t.name = $2 AND t.deleted_at IS NULL AND p.name = $3
       AND p.template_version_id = t.active_version_id
""")

_OFFER = """
    SELECT p.id, p.name, p.is_default, p.desired_instances IS NOT NULL AS has_pool, p.claim_parameters,
           coalesce((SELECT jsonb_object_agg(x.name, x.value) FROM preset_parameters x WHERE x.preset_id = p.id), '{}')
               AS parameters
"""
OFFERS = f"""
    {_OFFER}
      FROM organizations o
      JOIN templates t ON t.organization_id = o.id AND t.name = $2 AND t.deleted_at IS NULL
      JOIN presets p ON p.template_version_id = t.active_version_id
     WHERE o.name = $1
"""
OFFER_BY_ID = f"{_OFFER} FROM presets p WHERE p.id = $1"
WON = """
    SELECT c.answer, c.request_hash, c.transferred_at
      FROM unnest($1::text[]) WITH ORDINALITY AS asked (id, n) JOIN claims c ON c.id = asked.id
     WHERE c.workspace_id IS NOT NULL ORDER BY asked.n
"""
TEMPLATE_EXISTS = """
    SELECT EXISTS (SELECT FROM templates t JOIN organizations o ON o.id = t.organization_id
                    WHERE o.name = $1 AND t.name = $2 AND t.deleted_at IS NULL)
"""

NAME_KEY = "workspaces_live_name_key"
TRIES_MAX = 5
"""Of a transaction that gave way to another one, in a circle of waits or to a new template version."""

LOCKING_MAX = 6
"""Connections that may wait for presets' rows, fewer than there are: the others are for claims, which wait for none."""

T = TypeVar("T")
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[Any]"


@dataclass(frozen=True, slots=True)
class Claimed:
    """What the claim's transaction decided."""

    result: ClaimResult | None
    """None: nothing was ready."""
    miss_reason: MissReason | None
    preset_id: UUID
    fresh: bool
    """False: an earlier attempt had decided; this is its answer again."""
    build_open: bool
    """Its build is to be started; where there is nothing to do at a hand-over, it has ended with the claim."""
    labels: dict[str, str]


class _GaveWay(Exception):
    """What the transaction stood on has changed: to be tried again."""


async def transacted(transaction: Callable[[], Awaitable[T]]) -> T:
    """Run a transaction, and again when it was the one to give way.

    Raises:
        StoreUnavailable: The database is away, or it had to give way each time.
    """
    for tries_left in reversed(range(TRIES_MAX)):
        try:
            return await transaction()
        except CONNECTION_LOST as error:
            raise store_unavailable(error) from error
        except (asyncpg.DeadlockDetectedError, _GaveWay) as error:
            if not tries_left:
                raise store_unavailable(error) from error
    raise AssertionError("the last try returns or raises")


def request_hash(request: ClaimTerms, key: bytes = b"") -> bytes:
    """Hash what was asked, so that another request under a used claim id is noticed; the same in every release.

    Args:
        key: The deployment's own (`load_request_key`), so that who reads the hash cannot try secrets against it.
    """
    asked = json.dumps(request.same_for_all_spellings().model_dump(mode="json", exclude_defaults=True), sort_keys=True)
    return hmac.new(key, asked.encode(), hashlib.sha256).digest()


def batch_fence(claim_id: str) -> str:
    """The member of a batch whose row keeps how the batch's run was answered: all its attempts lock that one first."""
    return f"{claim_id}/0"


class ClaimStore:
    def __init__(
        self,
        pool: asyncpg.Pool[Any],
        *,
        enabled: bool,
        create_owners: bool = True,
        ring: KeyRing | None = None,
        request_key: bytes = b"",
    ) -> None:
        """Args:
        ring: Seals what claims bring; None leaves it clear.
        request_key: Keys the hashes of requests; the same for all claims workers of a deployment.
        """
        self.pool = pool
        self._ring = ring or KeyRing()
        self._request_key = request_key
        self.turns = asyncio.Semaphore(LOCKING_MAX)
        """To be taken before a connection, for a transaction that begins with locking a preset's row."""
        self._enabled = enabled
        self._create_owners = create_owners

    def request_hash(self, request: ClaimTerms) -> bytes:
        return request_hash(request, self._request_key)

    def seal(self, request: ClaimRequest) -> str | None:
        """What the request's claim parameters are stored as; None when it has none."""
        if not request.claim_parameters:
            return None
        return json.dumps(self._ring.seal(request.claim_parameters))

    async def offers(self, target: ClaimTarget | None, template: Sequence[str] | None) -> list[PresetOffer]:
        """The presets that a claim may choose from, with their parameters; empty when there is no such thing."""
        try:
            if template is not None:
                rows = await self.pool.fetch(OFFERS, *template)
            elif target is not None and target.preset_id is not None:
                rows = await self.pool.fetch(OFFER_BY_ID, target.preset_id)
            elif target is not None and target.path is not None:
                organization, template_name, preset = target.path
                rows = [r for r in await self.pool.fetch(OFFERS, organization, template_name) if r["name"] == preset]
            else:
                return []
        except CONNECTION_LOST as error:
            raise store_unavailable(error) from error
        return [
            PresetOffer(
                id=row["id"],
                name=row["name"],
                is_default=row["is_default"],
                has_pool=row["has_pool"],
                parameters=json.loads(row["parameters"]),
                claim_parameters=frozenset(row["claim_parameters"]),
            )
            for row in rows
        ]

    async def template_exists(self, organization: str, template: str) -> bool:
        return bool(await self.pool.fetchval(TEMPLATE_EXISTS, organization, template))

    async def won(self, claim_ids: Sequence[str], asked: bytes) -> list[ClaimResult]:
        """What claims have won before, in their order, whatever has become of their preset since.

        Raises:
            ClaimIdReused: With another request.
            WorkspaceNotFound: One of the workspaces has another owner since.
            StoreUnavailable: The database is away.
        """
        try:
            rows = await self.pool.fetch(WON, claim_ids)
        except CONNECTION_LOST as error:
            raise store_unavailable(error) from error
        if any(row["request_hash"] != asked for row in rows):
            used = "has won a workspace with a different request; use a new id"
            raise ClaimIdReused(f"claim id {claim_ids[0]} {used}", {"claim_id": claim_ids[0]})
        if any(row["transferred_at"] is not None for row in rows):
            raise transferred(claim_ids[0])
        return [ClaimResult.model_validate(json.loads(row["answer"])) for row in rows]

    async def claim(
        self,
        claim_id: str,
        request: ClaimRequest,
        target: ClaimTarget,
        asked: bytes,
        run: ClaimRun,
        *,
        held: bool | None = None,
    ) -> Claimed:
        """Decide a claim in one transaction and one round trip. What a claim has won is its answer for good; a miss is
        the answer of its run.

        Args:
            asked: `request_hash` of the request as it came, before anything was computed for it.
            run: The request that this is an attempt at. It takes nothing once the run was answered, or a later one
                has begun.
            held: Whether creation is held, for the reason of a miss. None when that is not known: then a pool that is
                just empty decides nothing, also not to create, and is to be asked again with the answer.
        Raises:
            PrebuildsError: One of the contract's refusals; nothing was written. `answer_run` makes it final.
            StoreUnavailable: The database is away; whether the claim was decided is known to its next attempt.
        """
        return await transacted(partial(self.decide, self.pool, claim_id, request, target, asked, run, held=held))

    async def answer_run(
        self, claim_id: str, asked: bytes, run: ClaimRun, error: PrebuildsError
    ) -> ClaimResult | PrebuildsError:
        """Make *error* the answer of a run, so that no attempt at it takes anything any more.

        Returns:
            What the run is to be told: what an attempt has won meanwhile, or was told before, or *error*.
        Raises:
            StoreUnavailable: The database is away, so nothing may be told.
        """

        answer = await transacted(partial(record_answer, self.pool, claim_id, asked, run, error))
        if answer.get("source") is not None:
            return ClaimResult.model_validate(answer)
        return recorded_refusal(answer) or error

    async def claim_all(
        self,
        claim_id: str,
        requests: Sequence[ClaimRequest],
        target: ClaimTarget,
        asked: bytes,
        run: ClaimRun,
        *,
        held: bool | None,
    ) -> list[Claimed]:
        """Decide one claim for each of *requests*, of one preset, in one transaction.

        A refusal, and a miss that nothing is created for, leaves nothing behind; the last of the answers is then that
        miss.

        Raises:
            PrebuildsError: The first refusal.
            StoreUnavailable: The database is away.
        """
        return await transacted(partial(self._transact_all, claim_id, requests, target, asked, run, held))

    async def _transact_all(
        self,
        claim_id: str,
        requests: Sequence[ClaimRequest],
        target: ClaimTarget,
        asked: bytes,
        run: ClaimRun,
        held: bool | None,
    ) -> list[Claimed]:
        async with self.turns, self.pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                claims = await self._decide_each(connection, claim_id, requests, target, asked, run, held)
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
        asked: bytes,
        run: ClaimRun,
        held: bool | None,
    ) -> list[Claimed]:
        """In the requests' order; ends with the first miss, if there is one."""
        if target.preset_id is not None:
            locked = await connection.fetchval(LOCK_FOR_BATCH_BY_ID, target.preset_id)
        else:
            locked = await connection.fetchval(LOCK_FOR_BATCH, *(target.path or (None, None, None)))
        answered = await record_answer(connection, batch_fence(claim_id), asked, run, None)
        if answered.get("error") == SUPERSEDED:
            raise refusal(SUPERSEDED, requests[0], target, claim_id)
        if refused := recorded_refusal(answered):
            raise refused
        claims: dict[int, Claimed] = {}
        # By name: batches of one owner, from whatever pools, then wait for each other's names in one order.
        for n, request in sorted(enumerate(requests), key=lambda item: item[1].name):
            claimed = await self.decide(connection, f"{claim_id}/{n}", request, target, asked, run, held=held)
            if claimed.fresh and claimed.preset_id != locked:
                raise _GaveWay  # a version became active before its template was held
            if claimed.result is None:
                return [*claims.values(), claimed]
            claims[n] = claimed
        return [claims[n] for n in range(len(requests))]

    async def decide(
        self,
        connection: asyncpg.Pool[Any] | Connection,
        claim_id: str,
        request: ClaimRequest,
        target: ClaimTarget,
        asked: bytes,
        run: ClaimRun,
        *,
        held: bool | None,
    ) -> Claimed:
        """`claim` on a connection of the caller's, inside its transaction."""
        # The id of a workspace that this attempt may create. It may be a random one: the claim's row holds the answer,
        # so that no other attempt creates a second.
        workspace_id = uuid4()
        organization, template, preset = target.path or (None, None, None)
        ttl = None if request.ttl_seconds is None else timedelta(seconds=request.ttl_seconds)
        try:
            row = await connection.fetchrow(
                CLAIM,
                claim_id,
                asked,
                target.preset_id,
                organization,
                template,
                preset,
                owner_key(request.owner),
                owner_key(request.asked_by),
                request.name,
                request.autostart_schedule,
                request.next_start_at,
                ttl,
                self.seal(request),
                request.on_empty.value,
                self._enabled,
                held,
                workspace_id,
                build_id_of(workspace_id, 1),
                request.owner if request.create_owner and self._create_owners else None,
                run.id,
                run.began_at,
            )
        except asyncpg.UniqueViolationError as error:
            if error.constraint_name == NAME_KEY:
                raise refusal(NameTaken.__name__, request, target, claim_id) from error
            raise
        except asyncpg.DataError as error:
            raise unstorable(request, claim_id, error) from error
        except asyncpg.PostgresError as error:
            if error.sqlstate == REFUSED:
                raise refusal(str(error), request, target, claim_id) from error
            raise
        assert row is not None  # noqa: S101 - a function returns one row
        answer: dict[str, Any] = json.loads(row["answer"])
        if refused := recorded_refusal(answer):
            raise refused
        won = answer["source"] is not None
        return Claimed(
            result=ClaimResult.model_validate(answer) if won else None,
            miss_reason=MissReason(answer["miss_reason"]) if answer["miss_reason"] else None,
            preset_id=UUID(answer["preset_id"]),
            fresh=row["fresh"],
            build_open=row["build_open"],
            labels={
                "organization_name": row["organization"] or "",
                "template_name": row["template"] or "",
                "preset_name": row["preset"] or "",
            },
        )
