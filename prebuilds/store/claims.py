"""The claim's one statement, on asyncpg itself: SQLAlchemy has a fifth of the throughput here.

The statement calls a database function, `decide_claim`: a claim is several steps that each depend on the one before,
and it can afford one round trip (decision 0004).
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from prebuilds.api import ClaimIdReused, LimitExceeded, NameTaken, PrebuildsError
from prebuilds.failures.database import ANY_FAULT, store_unavailable
from prebuilds.payloads import ClaimRequest, ClaimResult, ClaimRun, ClaimTerms
from prebuilds.settings.sealing import KeyRing
from prebuilds.store.claim_refusals import (
    LATE,
    REFUSED,
    ClaimTarget,
    limit_exceeded,
    refusal,
    transferred,
    unstorable,
)
from prebuilds.store.claim_runs import record_answer, recorded_refusal
from prebuilds.store.claim_statement import ClaimValues, Connection, Decision, decide_alone, decide_spare
from prebuilds.store.claim_transactions import locking_max, run_transaction
from prebuilds.store.clock import DatabaseClock
from prebuilds.store.shared_statements import SharedStatements
from prebuilds.telemetry import tracing
from prebuilds.vocabulary import MissReason, OnEmpty, build_id_of
from prebuilds.vocabulary.owners import owner_key

WON = """
    SELECT c.answer, c.request_hash, c.transferred_at
      FROM unnest($1::text[]) WITH ORDINALITY AS wanted (id, n) JOIN claims c ON c.id = wanted.id
     WHERE c.workspace_id IS NOT NULL ORDER BY wanted.n
"""
NAME_HOLDER = """
    SELECT CASE WHEN w.latest_transition <> 'delete' THEN 'NameTaken'
                WHEN w.latest_status IN ('failed', 'canceled') THEN 'NameNotDeleted'
                ELSE 'NameBeingDeleted' END
      FROM workspaces w JOIN users u ON u.id = w.owner_id
     WHERE u.key = $1 AND w.name = $2 AND w.deleted_at IS NULL
"""
"""The kind of refusal for a claim whose name is taken."""
NAME_KEY = "workspaces_live_name_key"
"""The constraint that keeps a name unique among its owner's live workspaces."""

_SORTED = json.JSONEncoder(sort_keys=True)


@dataclass(frozen=True, slots=True)
class ClaimOutcome:
    """What the claim's statement decided: a workspace that was won, or a miss."""

    result: ClaimResult | None
    """None when nothing was ready."""
    miss_reason: MissReason | None
    """Why nothing was ready; None when a prebuild was. A created workspace has a result and a reason."""
    preset_id: UUID
    """The preset that was claimed, also by a claim that missed."""
    decided_now: bool
    """False when an earlier attempt had decided, and this is its answer again."""
    build_open: bool
    """Whether the workspace's build has to be started. A hand-over that needs no build has recorded it as ended."""
    labels: dict[str, str]
    """The preset's names, for the metrics."""


def hash_request(request: ClaimTerms, key: bytes = b"") -> bytes:
    """Hash a request, so that a different one under a used claim id is noticed. Every release computes the same hash.

    Args:
        key: The deployment's own (`load_request_key`). Nobody who reads a hash but lacks this key can test guesses of
            the request's secrets against it.
    """
    return hmac.digest(key, _text_to_hash(request), "sha256")


def _text_to_hash(request: ClaimTerms) -> bytes:
    return _SORTED.encode(request.same_for_all_spellings().model_dump(mode="json", exclude_defaults=True)).encode()


class ClaimStore:
    """Runs the claim's statement, and keeps what a claim's runs were answered."""

    def __init__(
        self,
        pool: asyncpg.Pool[Any],
        *,
        enabled: bool,
        create_owners: bool = True,
        ring: KeyRing | None = None,
        request_key: bytes = b"",
        clock: DatabaseClock | None = None,
    ) -> None:
        """Make a store on one pool of connections.

        Args:
            enabled: Whether the deployment hands out prebuilds at all.
            create_owners: Whether a claim may create its owner as a user (`create_owner`).
            ring: Seals what claims bring; None stores it readable.
            request_key: Keys the hashes of requests; the same for all claims workers of a deployment.
            clock: Tells when an attempt ends; None for attempts without an end, as tests and benchmarks make them.
        """
        self.pool = pool
        self.locking = asyncio.Semaphore(locking_max(pool.get_max_size()))
        """Acquire it before a connection for a transaction that locks a preset's row."""
        self._statements = SharedStatements(pool)
        self._ring = ring or KeyRing()
        self._keyed = hmac.new(request_key, digestmod="sha256")
        """The keyed hash. It is copied for each request, which takes a third of the time of creating it."""
        self._clock = clock
        self._enabled = enabled
        self._create_owners = create_owners

    def hash_request(self, request: ClaimTerms) -> bytes:
        """`hash_request` with the deployment's key."""
        keyed = self._keyed.copy()
        keyed.update(_text_to_hash(request))
        return keyed.digest()

    def ending(self, run: ClaimRun, within: timedelta) -> ClaimRun:
        """Return *run* for an attempt that begins now and ends *within* this time. Nothing that reaches the database
        after that takes anything."""
        if self._clock is None:
            return run
        return run.model_copy(update={"ends_at": self._clock.now() + within})

    def seal(self, request: ClaimRequest) -> str | None:
        """Return the request's claim parameters as they are stored, JSON; None when it has none."""
        if not request.claim_parameters:
            return None
        return json.dumps(self._ring.seal(request.claim_parameters))

    async def read_won(self, claim_ids: Sequence[str], request_hash: bytes) -> list[ClaimResult]:
        """Read what claims have won before, in their order, whatever has become of their preset since.

        Returns:
            Only those that have won.
        Raises:
            ClaimIdReused: One of them has won with another request.
            WorkspaceNotFound: One of the workspaces has another owner since.
            StoreUnavailable: The database is away.
        """
        try:
            rows = await self.pool.fetch(WON, claim_ids)
        except ANY_FAULT as error:
            raise store_unavailable(error) from error
        if any(row["request_hash"] != request_hash for row in rows):
            used = "has won a workspace with a different request; use a new id"
            raise ClaimIdReused(f"claim id {claim_ids[0]} {used}", {"claim_id": claim_ids[0]})
        if any(row["transferred_at"] is not None for row in rows):
            raise transferred(claim_ids[0])
        return [ClaimResult.model_validate(json.loads(row["answer"])) for row in rows]

    async def last_request(self, claim_id: str) -> bytes | None:
        """The hash of the request that the claim was last decided for; None when no claim has this id.

        Raises:
            StoreUnavailable: The database is away.
        """
        try:
            found: bytes | None = await self.pool.fetchval("SELECT request_hash FROM claims WHERE id = $1", claim_id)
        except ANY_FAULT as error:
            raise store_unavailable(error) from error
        return found

    async def claim(
        self,
        claim_id: str,
        request: ClaimRequest,
        target: ClaimTarget,
        request_hash: bytes,
        run: ClaimRun,
        *,
        held: bool | None = None,
    ) -> ClaimOutcome:
        """Decide a claim in one transaction and one round trip. What a claim has won is its answer for good; a miss is
        the answer of its run.

        Args:
            request_hash: Of the request as it came, before anything was computed for it.
            run: The request that this is an attempt at. An attempt takes nothing once its run was answered, or a later
                run has begun.
            held: Whether creation is held, for the reason of a miss. None when that is not known: then a pool that is
                just empty decides nothing, nor is a workspace created, until the same is asked again with the answer.
        Raises:
            PrebuildsError: One of the contract's refusals; nothing was written. `answer_run` makes it final.
            StoreUnavailable: The database is away; whether the claim was decided is known to its next attempt.
        """
        values = self._values_of(claim_id, request, target, request_hash, run, held)
        lease = _lease_of(request)
        shares = held is None and lease is None
        decide = self._statements.decide if shares else partial(decide_alone, self.pool, lease=lease)
        return await run_transaction(lambda: self._read(decide(values), claim_id, request, target))

    async def claim_spare(
        self, claim_id: str, request: ClaimRequest, target: ClaimTarget, request_hash: bytes, run: ClaimRun
    ) -> ClaimOutcome:
        """Decide a claim as `claim` does, but never take the last ready prebuild.

        Args:
            target: A preset's id.
        Raises:
            NoClaimablePrebuiltWorkspaces: No prebuild can be spared; nothing was written.
            PrebuildsError: The same as of `claim`.
        """
        values = self._values_of(claim_id, request, target, request_hash, run, None)
        return await run_transaction(lambda: self._read(decide_spare(self.pool, values), claim_id, request, target))

    async def answer_run(
        self,
        claim_id: str,
        request_hash: bytes,
        run: ClaimRun,
        error: PrebuildsError,
        request: ClaimTerms | None = None,
    ) -> ClaimResult | PrebuildsError:
        """Make *error* the answer of a run, so that no attempt at it takes anything any more.

        Args:
            request: As of `record_answer`.
        Returns:
            The run's answer: what an attempt has won meanwhile, or what the run was answered before, or *error*.
        Raises:
            StoreUnavailable: The database is away. Nothing is recorded, so nobody may be told *error*.
        """
        answer = await run_transaction(partial(record_answer, self.pool, claim_id, request_hash, run, error, request))
        if answer.get("source") is not None:
            return ClaimResult.model_validate(answer)
        return recorded_refusal(answer) or error

    async def claim_on(
        self,
        connection: asyncpg.Pool[Any] | Connection,
        claim_id: str,
        request: ClaimRequest,
        target: ClaimTarget,
        request_hash: bytes,
        run: ClaimRun,
        *,
        held: bool | None,
    ) -> ClaimOutcome:
        """Decide a claim as `claim` does, on a connection of the caller's and inside its transaction.

        Calls the database function `decide_claim`. Arguments are those of `claim`.

        Args:
            connection: In a transaction; or the pool, for a transaction of its own.
        Raises:
            PrebuildsError: One of the contract's refusals. The caller's transaction must be rolled back.
            asyncpg.PostgresError: Anything else; `run_transaction` retries a deadlock and turns a lost connection into
                `StoreUnavailable`.
        """
        values = self._values_of(claim_id, request, target, request_hash, run, held)
        deciding = decide_alone(connection, values, lease=_lease_of(request))
        return await self._read(deciding, claim_id, request, target)

    def _values_of(
        self,
        claim_id: str,
        request: ClaimRequest,
        target: ClaimTarget,
        request_hash: bytes,
        run: ClaimRun,
        held: bool | None,
    ) -> ClaimValues:
        # The id of a workspace that this attempt may create. A random one will do: the claim's row keeps the answer, so
        # that no other attempt creates a second workspace.
        workspace_id = uuid4() if request.on_empty is OnEmpty.CREATE else None
        organization, template, preset = target.path or (None, None, None)
        return ClaimValues(
            claim_id,
            request_hash,
            target.preset_id,
            organization,
            template,
            preset,
            owner_key(request.owner),
            owner_key(request.initiator_or_owner),
            request.name,
            request.autostart_schedule,
            request.next_start_at,
            None if request.ttl_seconds is None else timedelta(seconds=request.ttl_seconds),
            self.seal(request),
            request.on_empty.value,
            self._enabled,
            held,
            workspace_id,
            None if workspace_id is None else build_id_of(workspace_id, 1),
            request.owner if request.create_owner and self._create_owners else None,
            run.id,
            run.began_at,
            run.ends_at,
            run.token_id,
            tracing.traceparent(),
        )

    async def _read(
        self, deciding: Awaitable[Decision], claim_id: str, request: ClaimRequest, target: ClaimTarget
    ) -> ClaimOutcome:
        """Return the statement's decision, or raise its refusal."""
        try:
            decision = await deciding
        except asyncpg.UniqueViolationError as error:
            if error.constraint_name == NAME_KEY:
                raise await self._describe_taken(request, target, claim_id) from error
            raise
        except asyncpg.DataError as error:
            raise unstorable(request, claim_id, error) from error
        except asyncpg.PostgresError as error:
            if error.sqlstate == REFUSED:
                if str(error) == NameTaken.__name__:
                    raise await self._describe_taken(request, target, claim_id) from error
                if str(error).partition("\n")[0] == LimitExceeded.__name__:  # the facts follow on the next line
                    raise limit_exceeded(error.detail, request.owner) from error
                if self._clock is not None and str(error) == LATE:
                    self._clock.doubt()
                raise refusal(str(error), request, target, claim_id) from error
            raise
        assert decision.answer is not None  # noqa: S101 - `decide_claim` decides each claim that goes alone
        answer: dict[str, Any] = json.loads(decision.answer)
        if refused := recorded_refusal(answer):
            raise refused
        is_won = answer["source"] is not None
        return ClaimOutcome(
            result=ClaimResult.model_validate(answer) if is_won else None,
            miss_reason=MissReason(answer["miss_reason"]) if answer["miss_reason"] else None,
            preset_id=UUID(answer["preset_id"]),
            decided_now=bool(decision.fresh),
            build_open=bool(decision.build_open),
            labels={
                "organization_name": decision.organization or "",
                "template_name": decision.template or "",
                "preset_name": decision.preset or "",
            },
        )

    async def _describe_taken(self, request: ClaimRequest, target: ClaimTarget, claim_id: str) -> PrebuildsError:
        """Return the refusal of a claim whose name is taken. It says so when that workspace is on its way out."""
        kind = await self.pool.fetchval(NAME_HOLDER, owner_key(request.owner), request.name)
        return refusal(kind or NameTaken.__name__, request, target, claim_id)


def _lease_of(request: ClaimRequest) -> timedelta | None:
    return None if request.lease_seconds is None else timedelta(seconds=request.lease_seconds)
