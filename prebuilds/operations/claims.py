"""The one code that decides a claim, for every caller: an activity, a worker inside a service, a server.

A claim that finds a prebuild ready costs one statement, or two when it names a template. Its caller may answer as soon
as `decide` returns: the transaction has committed, and from then on the claim id has no other answer. The build that
hands the workspace over and the refill start in the background afterwards; should this process die, the relay starts
them. `claim_attempts.py` says what a repeated or late attempt may do.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import InvalidInput, NoClaimablePrebuiltWorkspaces, PrebuildsError, RequestCanceled
from prebuilds.background.dispatch import Dispatcher
from prebuilds.operations.claim_attempts import ClaimAttempt, ClaimAttempts, Decided, retry_on_new_version
from prebuilds.operations.claim_requests import (
    UNSERVED,
    UnservedOutcome,
    first_of,
    nothing_ready,
    requests_by_name,
    with_next_start,
)
from prebuilds.operations.claim_targets import find_target
from prebuilds.operations.drill_claims import DrillClaims
from prebuilds.payloads import (
    ClaimPlace,
    ClaimQueued,
    ClaimRequest,
    ClaimResult,
    ClaimRun,
    ClaimsRequest,
    ClaimsResult,
)
from prebuilds.planning.rules import Rules
from prebuilds.store.claim_batches import ClaimBatches
from prebuilds.store.claim_queue import ClaimQueue
from prebuilds.store.claim_refusals import ClaimTarget, Superseded
from prebuilds.store.claims import ClaimOutcome, ClaimStore
from prebuilds.store.status import creation_is_held
from prebuilds.telemetry import tracing
from prebuilds.telemetry.metrics import METRICS
from prebuilds.vocabulary import MissReason, OnEmpty

WITHIN = timedelta(seconds=10)
"""How long an attempt may take, unless its caller has less time."""


class _NothingReady(Exception):
    """An attempt that takes only what is ready has found nothing. Nobody is refused anything."""


class Claims:
    """Decides claims. Safe to call from several tasks at once, and again for the same claim."""

    def __init__(self, engine: AsyncEngine, store: ClaimStore, dispatcher: Dispatcher, rules: Rules) -> None:
        """Make the operations that claims' workflows call.

        Args:
            engine: Reads why creation is held, which only a claim that finds an empty pool asks.
            store: Runs the claims' statements on connections of their own.
            dispatcher: Starts builds and nudges the loop after a claim has committed.
        """
        self._engine = engine
        self._store = store
        self._attempts = ClaimAttempts(store)
        self._queue = ClaimQueue(store)
        self._batches = ClaimBatches(store)
        self._dispatcher = dispatcher
        self._rules = rules
        self.drills = DrillClaims(store, dispatcher)
        """Takes prebuilds for drills."""

    async def decide(
        self,
        request: ClaimRequest,
        claim_id: str,
        run: ClaimRun,
        *,
        workflow_id: str | None,
        now: datetime,
        within: timedelta = WITHIN,
    ) -> Decided[ClaimResult] | Decided[ClaimQueued]:
        """Decide one claim, and start what follows from it.

        Args:
            request: As it came from the caller; it is checked here.
            run: The request for the claim that this is an attempt at. Later runs of a claim have a later `began_at`.
            workflow_id: The workflow that waits when the request says `on_empty` `wait`. None for a claim without a
                workflow: nobody could be woken, so it never waits, and misses instead. A workflow may then wait under
                the same claim id, in a run of its own.
            now: When this attempt begins; the first automatic start is computed from it.
            within: How long this attempt may take from now. What reaches the database later takes nothing.
        Returns:
            What the claim has won, now or by an earlier attempt; or its place in the queue.
        Raises:
            InvalidInput: Naming the wrong field. When the request itself is malformed, nothing was written. When it
                fits no preset, that is recorded like any other refusal.
            NoClaimablePrebuiltWorkspaces: Nothing is ready; with the miss reason in its details.
            PrebuildsError: Another of the contract's refusals. It is recorded as the answer of *run*, unless it is an
                error that Temporal retries (`repeated`).
            StoreUnavailable: The database is away. Whether the claim has won is known to its next attempt.
        """
        attempt = self._attempts.begin(request, claim_id, self._store.ending(run, within), workflow_id)
        return await self._decide(with_next_start(request, now), attempt)

    async def create_instead(
        self, request: ClaimRequest, claim_id: str, run: ClaimRun, *, now: datetime, within: timedelta = WITHIN
    ) -> ClaimResult:
        """Decide a claim that has waited in vain and asks for `on_timeout` `create`: an ordinary workspace is created
        unless a prebuild is ready after all. Arguments and errors are those of `decide`."""
        attempt = self._attempts.begin(request, claim_id, self._store.ending(run, within))
        create = with_next_start(request.model_copy(update={"on_empty": OnEmpty.CREATE}), now)
        decided = await self._decide(create, attempt)
        assert isinstance(decided.answer, ClaimResult)  # noqa: S101 - only `wait` joins the queue
        return decided.answer

    async def take_ready(
        self, request: ClaimRequest, claim_id: str, run: ClaimRun, *, now: datetime, within: timedelta = WITHIN
    ) -> Decided[ClaimResult] | None:
        """Take a prebuild if one is ready. Arguments and other errors are those of `decide`.

        Args:
            run: One that began before every other run of the claim, so that it takes nothing from one that has begun.
        Returns:
            None when nothing is ready, or another run has the claim. This denies the run nothing: a workflow is to go
            on with the claim.
        """
        # A refusal counts from now, so that no attempt of an earlier request takes anything once this caller is told.
        refused_run = run.model_copy(update={"began_at": now})
        attempt = self._attempts.begin(request, claim_id, self._store.ending(run, within), refused_run=refused_run)
        try:
            decided = await self._decide(with_next_start(request, now), attempt)
        except (_NothingReady, Superseded):
            return None
        assert isinstance(decided.answer, ClaimResult)  # noqa: S101 - nobody joins the queue without a workflow
        return Decided(decided.answer, decided.decided_now)

    async def decide_all(
        self, request: ClaimsRequest, claim_id: str, run: ClaimRun, *, now: datetime, within: timedelta = WITHIN
    ) -> Decided[ClaimsResult]:
        """Decide many claims in one transaction, all or nothing. Arguments and errors are those of `decide`."""
        attempt = self._attempts.begin(request, claim_id, self._store.ending(run, within))
        if request.on_empty is OnEmpty.WAIT:
            raise InvalidInput.field(
                "on_empty", "wait is for single claims", remedy="use fail or create for many at once"
            )
        first = with_next_start(first_of(request), now)
        try:
            decided = await retry_on_new_version(request, lambda: self._decide_all_once(first, request.names, attempt))
        except PrebuildsError as error:
            decided = Decided(await self._attempts.record_refusal(error, attempt), decided_now=False)
        return Decided(ClaimsResult(claim_id=claim_id, claims=decided.answer), decided.decided_now)

    async def take_answer_or_place(self, claim_id: str, run: ClaimRun) -> ClaimPlace:
        """Take a waiting claim's answer, which gives up its place; without an answer, look up where the claim stands.

        Raises:
            PrebuildsError: The claim can no longer be served; this is the answer of *run* from then on.
        """
        return await self._queue.take_answer_or_place(claim_id, run)

    async def leave_queue(
        self,
        request: ClaimRequest,
        claim_id: str,
        run: ClaimRun,
        *,
        workflow_id: str,
        outcome: UnservedOutcome | None,
    ) -> ClaimPlace:
        """Give up the place of a claim, if it has one. A prebuild that was handed over before is taken all the same.

        Args:
            workflow_id: Which workflow leaves; a place that another workflow took over since stays.
            outcome: Why, which is the answer of *run* from then on, whatever attempts at it are still under way. None
                when the run goes on without its place.
        Raises:
            PrebuildsError: The claim was refused while it waited, such as by `NameTaken`.
        """
        attempt = self._attempts.begin(request, claim_id, run, workflow_id)
        answer = None if outcome is None else UNSERVED[outcome](claim_id)
        return await self._queue.leave(claim_id, workflow_id, attempt.request_hash, run, answer, request)

    async def cancel_all(self, request: ClaimsRequest, claim_id: str, run: ClaimRun) -> ClaimsResult | None:
        """Make the cancellation of a batch the answer of *run*.

        Returns:
            What an attempt has won before the cancellation; None when nothing was won, and nothing will be.
        """
        attempt = self._attempts.begin(request, claim_id, run)
        try:
            results = await self._attempts.record_refusal(UNSERVED["canceled"](claim_id), attempt)
        except RequestCanceled:
            return None
        return ClaimsResult(claim_id=claim_id, claims=results)

    # --- One claim ---------------------------------------------------------------------------------------------------

    async def _decide(
        self, request: ClaimRequest, attempt: ClaimAttempt
    ) -> Decided[ClaimResult] | Decided[ClaimQueued]:
        try:
            return await retry_on_new_version(request, lambda: self._decide_once(request, attempt))
        except PrebuildsError as error:
            if isinstance(error, NoClaimablePrebuiltWorkspaces) and request.on_empty is OnEmpty.FAIL:
                raise  # the statement that found the miss has recorded it
            return Decided((await self._attempts.record_refusal(error, attempt))[0], decided_now=False)

    async def _decide_once(
        self, request: ClaimRequest, attempt: ClaimAttempt
    ) -> Decided[ClaimResult] | Decided[ClaimQueued]:
        with METRICS.time_claim() as timed:
            checked, target = await find_target(self._store.pool, request, attempt.claim_id)
            timed.end_phase("target")
            claimed = await self._run_statement(checked, target, attempt)
            timed.end_phase("statement")
            if tracing.is_on():
                _annotate(attempt.claim_id, claimed)
            if claimed.result is None and _waits(request, attempt):
                joined = await self._join_queue(checked, target, attempt, claimed)
                timed.end_phase("queue")
                if isinstance(joined, ClaimQueued):
                    return Decided(joined, decided_now=True)
                claimed = joined
            timed.source = claimed.result.source if claimed.result else None
        missed = claimed.result is None
        if missed and attempt.refused_run is not None and claimed.miss_reason is not MissReason.NO_POOL:
            raise _NothingReady
        if missed and claimed.miss_reason is MissReason.NO_POOL and request.on_timeout == "create":
            # It would wait in vain, as there is no pool.
            return await self._decide_once(request.model_copy(update={"on_empty": OnEmpty.CREATE}), attempt)
        self._start_what_follows(claimed)
        if claimed.result is None:
            raise nothing_ready(target.label, claimed.miss_reason)
        return Decided(claimed.result, claimed.decided_now)

    async def _run_statement(self, request: ClaimRequest, target: ClaimTarget, attempt: ClaimAttempt) -> ClaimOutcome:
        """Run the claim's statement. When the pool is empty, run it again with whether creation is held there, for the
        miss reason. A claim that joins the queue next needs no reason."""
        claim = (attempt.claim_id, request, target, attempt.request_hash, attempt.run)
        claimed = await self._store.claim(*claim)
        if _is_empty(claimed) and attempt.refused_run is None and not _waits(request, attempt):
            held = await creation_is_held(self._engine, claimed.preset_id, self._rules)
            claimed = await self._store.claim(*claim, held=held)
        return claimed

    async def _join_queue(
        self, request: ClaimRequest, target: ClaimTarget, attempt: ClaimAttempt, missed: ClaimOutcome
    ) -> ClaimOutcome | ClaimQueued:
        """Join the queue; if a prebuild became ready meanwhile, take it instead; without a pool, miss again."""
        assert attempt.workflow_id is not None  # noqa: S101 - `_waits` says so
        joined = await self._queue.join(
            attempt.claim_id, attempt.workflow_id, request, target, missed, attempt.request_hash, attempt.run
        )
        if isinstance(joined, ClaimQueued):
            self._dispatcher.nudge([missed.preset_id], urgent=True)  # its pool's target has one more now
        return joined

    # --- Many claims -------------------------------------------------------------------------------------------------

    async def _decide_all_once(
        self, request: ClaimRequest, names: Sequence[str], attempt: ClaimAttempt
    ) -> Decided[Sequence[ClaimResult]]:
        """Claim one workspace for each of *names*, all of one preset."""
        checked, target = await find_target(self._store.pool, request, attempt.claim_id)
        batch = (attempt.claim_id, requests_by_name(checked, names), target, attempt.request_hash, attempt.run)
        claims = await self._batches.claim(*batch, held=None)
        if _is_empty(claims[-1]):
            held = await creation_is_held(self._engine, claims[-1].preset_id, self._rules)
            claims = await self._batches.claim(*batch, held=held)
        results = [claimed.result for claimed in claims if claimed.result is not None]
        if len(results) < len(names):
            METRICS.count_claim(claims[-1].labels, claims[-1].miss_reason)
            await self._batches.record_miss(attempt.claim_id, batch[1], attempt.run, claims[-1])
            raise nothing_ready(
                target.label, claims[-1].miss_reason, f"; {len(results)} of {len(names)} would have been"
            )
        for claimed in claims:
            self._start_what_follows(claimed)
        return Decided(results, any(claimed.decided_now for claimed in claims))

    # --- Both --------------------------------------------------------------------------------------------------------

    def _start_what_follows(self, claimed: ClaimOutcome) -> None:
        """Count a decision that was made now, start its build, and have the pool refilled: all in the background."""
        if not claimed.decided_now:
            return
        METRICS.count_claim(claimed.labels, claimed.miss_reason)
        if claimed.result is not None:
            if claimed.build_open:
                self._dispatcher.start_builds([claimed.result.build_id])
            self._dispatcher.nudge([claimed.preset_id])


def _annotate(claim_id: str, claimed: ClaimOutcome) -> None:
    """Say in the current span what was claimed, and what was decided."""
    decided = {
        "prebuilds.claim.id": claim_id,
        "prebuilds.preset": "/".join(claimed.labels.values()),
        "prebuilds.claim.outcome": claimed.result.source if claimed.result else "missed",
        "prebuilds.claim.miss_reason": claimed.miss_reason,
        "prebuilds.workspace.id": str(claimed.result.workspace_id) if claimed.result else None,
    }
    tracing.annotate({name: value for name, value in decided.items() if value is not None})


def _waits(request: ClaimRequest, attempt: ClaimAttempt) -> bool:
    return request.on_empty is OnEmpty.WAIT and attempt.workflow_id is not None


def _is_empty(claimed: ClaimOutcome) -> bool:
    """Whether nothing was ready for a reason that is not known yet."""
    return claimed.result is None and claimed.miss_reason is MissReason.EMPTY
