"""Attempts to answer a claim: what identifies an attempt, and how a refusal becomes the answer of its run.

An attempt may run twice, at the same time as another attempt, or long after its caller has gone. So each attempt names
its run: one request for the claim. A miss or a refusal of the run is recorded before the caller gets it. From then on a
late attempt of that run takes nothing (decision 0015).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from prebuilds.api import (
    ClaimIdReused,
    InvalidInput,
    PrebuildsError,
    PresetNotFound,
    TemplateNotFound,
    TemplateUnavailable,
)
from prebuilds.operations.claim_requests import check_claim_id, check_request
from prebuilds.payloads import ClaimResult, ClaimRun, ClaimsRequest, ClaimTerms
from prebuilds.store.claim_batches import member_ids
from prebuilds.store.claims import ClaimStore

T = TypeVar("T")
Answer = TypeVar("Answer")

VERSION_TRIES_MAX = 3
"""Tries of a claim by template. A claim is tried again when a version became active after its preset was chosen."""
RAISED_BEFORE_THE_STATEMENT = (PresetNotFound, TemplateNotFound, InvalidInput)
"""Refusals raised before the claim's statement runs. The claim may already have won, so look before recording one."""


@dataclass(frozen=True, slots=True)
class Decided(Generic[Answer]):
    """The answer of a claim, or of a batch of claims."""

    answer: Answer
    decided_now: bool
    """Whether it was decided now. False means that an earlier attempt decided, and this is the same answer again."""


@dataclass(frozen=True, slots=True)
class ClaimAttempt:
    """One attempt to answer one claim, or one batch of claims."""

    claim_id: str
    row_ids: Sequence[str]
    """Ids of the claim's rows in the database: the claim's own id, or one id for each member of a batch. The first row
    keeps the run's answer."""
    run: ClaimRun
    request: ClaimTerms
    """The request as it came from the caller."""
    request_hash: bytes
    """The hash of the request, which shows that another request uses the same claim id."""
    workflow_id: str | None = None
    """The workflow to wake when the claim has waited. None when no workflow waits."""
    refused_run: ClaimRun | None = None
    """The run whose answer a refusal becomes. Set for an attempt that takes only a ready prebuild and leaves everything
    else to a workflow. None for any other attempt: a refusal becomes the answer of `run`."""


class ClaimAttempts:
    """Begins attempts, and records refusals as the answers of their runs."""

    def __init__(self, store: ClaimStore) -> None:
        """Make the records of claims' attempts.

        Args:
            store: Keeps the answers.
        """
        self._store = store

    def begin(
        self,
        request: ClaimTerms,
        claim_id: str,
        run: ClaimRun,
        workflow_id: str | None = None,
        *,
        refused_run: ClaimRun | None = None,
    ) -> ClaimAttempt:
        """Check a request from outside, and begin an attempt for it.

        Raises:
            InvalidInput: The request or the claim id is malformed. Nothing was written.
        """
        check_request(request)
        members = len(request.names) if isinstance(request, ClaimsRequest) else 0
        check_claim_id(claim_id, members=members)
        row_ids = member_ids(claim_id, members) if members else [claim_id]
        return ClaimAttempt(
            claim_id, row_ids, run, request, self._store.hash_request(request), workflow_id, refused_run
        )

    async def record_refusal(self, error: PrebuildsError, attempt: ClaimAttempt) -> Sequence[ClaimResult]:
        """Record *error* as the answer of the attempt's run, and raise it.

        Returns:
            The results of the claims if they have already won. A won claim keeps its answer for ever.
        Raises:
            PrebuildsError: *error*, or the answer that the run got before.
        """
        if error.repeated:  # such an error decides nothing, and the next attempt may succeed
            raise error
        if attempt.refused_run is not None and isinstance(error, ClaimIdReused):
            raise error  # another run has the claim, and continues
        if isinstance(error, RAISED_BEFORE_THE_STATEMENT):
            results = await self._store.read_won(attempt.row_ids, attempt.request_hash)
            if results:
                return results
        run = attempt.refused_run or attempt.run
        answer = await self._store.answer_run(attempt.row_ids[0], attempt.request_hash, run, error, attempt.request)
        if isinstance(answer, PrebuildsError):
            raise answer from error
        return await self._store.read_won(attempt.row_ids, attempt.request_hash)


async def retry_on_new_version(request: ClaimTerms, decide: Callable[[], Awaitable[T]]) -> T:
    """Return the result of *decide*. Call it again when another version became active between the choice of the preset
    and the claim's statement. This happens only to a claim by template."""
    for tries_left in reversed(range(VERSION_TRIES_MAX)):
        try:
            return await decide()
        except TemplateUnavailable:
            if request.template is None or not tries_left:
                raise
    raise AssertionError("the last try returns or raises")
