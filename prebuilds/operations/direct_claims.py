"""Claims that a server decides in its own process: no workflow stands before the answer (decision 0023).

Each request of a caller is a run of its claim, as a workflow's run is one: it has an id of its own, and began when it
came in, by the database's clock. So all that decision 0015 says of runs holds for it: what a request was answered is
final for it, and a request that is decided late, after a later one of the same claim was answered, takes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import ClaimIdReused, StoreUnavailable
from prebuilds.failures.database import CONNECTION_LOST, store_answers, store_unavailable
from prebuilds.operations.claim_attempts import Decided
from prebuilds.operations.claim_requests import first_of, nothing_ready
from prebuilds.operations.claim_targets import find_target
from prebuilds.operations.claims import WITHIN, Claims
from prebuilds.payloads import ClaimRequest, ClaimResult, ClaimRun, ClaimsRequest, ClaimsResult
from prebuilds.planning.lead_times import Outlook
from prebuilds.planning.rules import Rules
from prebuilds.store.claim_batches import member_ids
from prebuilds.store.claim_queue import ClaimQueue
from prebuilds.store.claim_runs import read_denial, recorded_refusal
from prebuilds.store.claim_states import ClaimFound as ClaimFound  # noqa: PLC0414 - what callers get
from prebuilds.store.claim_states import read_batch, read_claims
from prebuilds.store.claim_transactions import run_transaction
from prebuilds.store.claims import ClaimStore
from prebuilds.store.clock import DatabaseClock
from prebuilds.store.outlooks import read_outlook
from prebuilds.store.presets import find_presets_ever
from prebuilds.vocabulary import MissReason

BEFORE_ALL = datetime(1970, 1, 1, tzinfo=UTC)
"""The start time given to a run that yields to every other run of its claim."""
LATER_RUN_LOOKS = 20
LATER_RUN_PAUSE_S = 0.05
"""How often, and at what distance, a request that was overtaken looks for the answer of the later one. That one has its
answer within milliseconds, unless its process has died."""
READY_TIMEOUT_S = 1.0
OUTLOOK_LIFE_S = 0.5
"""How long an outlook is used again, in seconds. In a burst over an empty pool all requests want the same one."""
OUTLOOKS_MAX = 1000

T = TypeVar("T")
SomeRequest = ClaimRequest | ClaimsRequest
SomeDecision = Decided[ClaimResult] | Decided[ClaimsResult]


class DirectClaims:
    """Decides claims at once, or says what their callers can expect."""

    def __init__(
        self, claims: Claims, store: ClaimStore, clock: DatabaseClock, engine: AsyncEngine, rules: Rules
    ) -> None:
        self.queue = ClaimQueue(store)
        self._claims = claims
        self._store = store
        self._clock = clock
        self._engine = engine
        self._rules = rules
        self._outlooks: dict[tuple[str, int | None], tuple[float, Outlook]] = {}
        self._given_up: set[asyncio.Task[None]] = set()
        """Decisions that nobody waits for any more, until they have ended."""

    async def claim(self, request: SomeRequest, claim_id: str, token_id: UUID | None = None) -> SomeDecision:
        """Decide a claim, or a batch of claims. `on_empty` `wait` is for `take_ready`.

        Args:
            token_id: The token that the request came with; the claim's events name it.
        Returns:
            What it has won, now or by an earlier request. It has committed: from then on the id has no other answer.
        Raises:
            NoClaimablePrebuiltWorkspaces: Nothing is ready. This denies this one request; the next one may win.
            PrebuildsError: Another refusal, as of `Claims.decide`.
            StoreUnavailable: The database is away. Whether the claim has won is known to its next request.
        """
        run = ClaimRun(id=str(uuid4()), began_at=self._clock.now(), token_id=token_id)
        try:
            if isinstance(request, ClaimsRequest):
                return await self._in_time(self._claims.decide_all(request, claim_id, run, now=run.began_at))
            decided = await self._in_time(
                self._claims.decide(request, claim_id, run, workflow_id=None, now=run.began_at)
            )
        except ClaimIdReused:
            later = await self._answer_of_later_run(request, claim_id)
            if later is None:
                raise
            return later
        assert isinstance(decided.answer, ClaimResult)  # noqa: S101 - nobody joins the queue without a workflow
        return Decided(decided.answer, decided.decided_now)

    async def take_ready(
        self, request: ClaimRequest, claim_id: str, token_id: UUID | None = None
    ) -> Decided[ClaimResult] | None:
        """Take a prebuild that is ready, for a claim that waits when there is none. Arguments are those of `claim`.

        Returns:
            What it has won, now or by an earlier request. None when a workflow has to go on with the claim.
        Raises:
            ClaimIdReused: The id has won, or waits, with another request.
            PrebuildsError: The claim can never be served; this is its answer.
        """
        run = ClaimRun(id=str(uuid4()), began_at=BEFORE_ALL, token_id=token_id)
        taken = await self._in_time(self._claims.take_ready(request, claim_id, run, now=self._clock.now()))
        if taken is not None:
            return taken
        found = await self.find(claim_id)
        if found is not None:
            found.check_request(self.hash_request(request))
        return None if found is None or found.won is None else Decided(found.won, decided_now=False)

    def hash_request(self, request: SomeRequest) -> bytes:
        """Return the hash that tells a request from another one under the same id."""
        return self._store.hash_request(request)

    async def find(self, claim_id: str) -> ClaimFound | None:
        """What is recorded of a claim; None when nothing is."""
        return (await self.find_all([claim_id])).get(claim_id)

    async def find_all(self, claim_ids: Collection[str]) -> Mapping[str, ClaimFound]:
        """What is recorded of each of these claims; without those of which nothing is."""
        with store_answers():
            return await read_claims(self._engine, claim_ids)

    async def find_batch(self, claim_id: str, members: int) -> ClaimsResult | None:
        """What a batch of claims has won; None when it has won nothing."""
        with store_answers():
            claimed = await read_batch(self._engine, member_ids(claim_id, members))
        return ClaimsResult(claim_id=claim_id, claims=claimed) if claimed else None

    async def outlook(self, request: SomeRequest) -> Outlook:
        """What the next request of a claim that found nothing ready can expect.

        Raises:
            PrebuildsError: The preset is not there any more.
        """
        one = first_of(request) if isinstance(request, ClaimsRequest) else request
        target = (await find_target(self._store.pool, one))[1]
        return await self.outlook_of("/".join(target.path) if target.path else str(target.preset_id))

    async def outlook_of(self, preset: str, position: int | None = None) -> Outlook:
        """What a claim of a preset can expect.

        Args:
            preset: An id or a path.
            position: Its place in the queue, from 1; None for a claim that does not stand there.
        """
        now = asyncio.get_running_loop().time()
        known = self._outlooks.get((preset, position))
        if known is not None and now - known[0] < OUTLOOK_LIFE_S:
            return known[1]
        if len(self._outlooks) >= OUTLOOKS_MAX:
            self._outlooks.clear()
        with store_answers():
            found = await read_outlook(self._engine, preset, self._rules, position)
        self._outlooks[preset, position] = now, found
        return found

    async def path_of(self, preset: str) -> str:
        """The path `organization/template/preset` of a preset, of a deleted template too. *preset* is its id or path.

        Raises:
            PresetNotFound: There never was such a preset.
        """
        with store_answers():
            async with self._engine.connect() as connection:
                return (await find_presets_ever(connection, preset))[0].path

    async def answers(self) -> bool:
        """Whether the database answers, within a second."""
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                await self._store.pool.fetchval("SELECT 1")
        except CONNECTION_LOST:
            return False
        return True

    async def _in_time(self, deciding: Coroutine[Any, Any, T]) -> T:
        """Wait for a decision, and no longer than it may take. It is not waited for once it is too late: a connection
        to a frozen database takes time to be given up.

        Raises:
            StoreUnavailable: The database does not answer. What it still gets takes nothing.
        """
        loop = asyncio.get_running_loop()
        decision: asyncio.Future[T] = loop.create_future()
        task = loop.create_task(_pass_on(deciding, decision))
        too_late = loop.call_later(WITHIN.total_seconds(), _give_up, decision)
        try:
            return await decision
        finally:
            too_late.cancel()
            if not task.done():
                task.cancel()
                self._given_up.add(task)
                task.add_done_callback(self._given_up.discard)

    async def _answer_of_later_run(self, request: SomeRequest, claim_id: str) -> SomeDecision | None:
        """Return the answer of the later request that overtook this one.

        Callers who send a claim twice at the same time get equal answers by this.

        Returns:
            None when the claim's id is in use for another request.
        Raises:
            StoreUnavailable: The later request has no answer: its process has died, or the database is slow.
            PrebuildsError: The later request was refused, or has missed.
        """
        row_ids = member_ids(claim_id, len(request.names)) if isinstance(request, ClaimsRequest) else [claim_id]
        request_hash = self._store.hash_request(request)
        for _ in range(LATER_RUN_LOOKS):
            if results := await self._store.read_won(row_ids, request_hash):
                if isinstance(request, ClaimsRequest):
                    return Decided(ClaimsResult(claim_id=claim_id, claims=results), decided_now=False)
                return Decided(results[0], decided_now=False)
            if denial := await run_transaction(partial(read_denial, self._store.pool, row_ids[0], request_hash)):
                label = request.preset or request.template or ""
                reason = denial.get("miss_reason")
                raise recorded_refusal(denial) or nothing_ready(label, MissReason(reason) if reason else None)
            if await self._store.last_request(row_ids[0]) != request_hash:
                return None
            await asyncio.sleep(LATER_RUN_PAUSE_S)
        raise StoreUnavailable(
            f"claim {claim_id} was asked for again by a later request, which has no answer yet",
            {"claim_id": claim_id},
            remedy="ask again with the same id",
        )


async def _pass_on(deciding: Coroutine[Any, Any, T], decision: asyncio.Future[T]) -> None:
    """Make the outcome of *deciding* that of *decision*, unless nobody waits for it any more.

    Waiting for a future costs a claim one turn of the event loop less than waiting for a task's end by `asyncio.wait`.
    """
    try:
        outcome = await deciding
    except asyncio.CancelledError:
        decision.cancel()
        raise
    except Exception as error:
        if not decision.done():
            decision.set_exception(error)
    else:
        if not decision.done():
            decision.set_result(outcome)


def _give_up(decision: asyncio.Future[Any]) -> None:
    if not decision.done():
        decision.set_exception(store_unavailable(TimeoutError()))
