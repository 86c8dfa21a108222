"""Answers to runs of a claim. Each is recorded before it is sent, so that every later attempt at the run repeats it.

A run is one run of the claim's workflow, with all its activity attempts. Two workers may work on one run when the first
one was frozen. The SQL functions `decide_claim` and `answer_claim_run` keep the late one from taking a workspace
after its run was told that it gets none.
"""

from __future__ import annotations

import json
from typing import Any

import asyncpg

from prebuilds.api import PrebuildsError
from prebuilds.failures.crossing import from_record, record_of
from prebuilds.payloads import ClaimRun, ClaimTerms
from prebuilds.vocabulary.owners import owner_key

ANSWER_RUN = "SELECT answer_claim_run($1, $2, $3, $4, $5, $6, $7, $8)"
READ_DENIAL = """
    SELECT answer FROM claims WHERE id = $1 AND request_hash = $2 AND run_answered AND workspace_id IS NULL
"""


async def record_answer(
    connection: asyncpg.Pool[Any] | asyncpg.pool.PoolConnectionProxy[Any],
    claim_id: str,
    request_hash: bytes,
    run: ClaimRun,
    error: PrebuildsError | None,
    request: ClaimTerms | None = None,
) -> dict[str, Any]:
    """Record *error* as the answer to *run*, unless it has an answer already.

    Args:
        request_hash: The hash of the claim's request.
        error: The refusal; None to take the claim over for the run without an answer.
        request: Whose it is and for what is recorded, too; None: the request that the claim was decided for before.
    Returns:
        The run's answer: with `source` when the claim is won, a miss, or `{"error": ...}`. It is empty when *error* is
        None and the run has no answer yet.
    """
    record = None
    if error is not None:
        record = json.dumps(record_of(error), default=str)
    parties: tuple[str | None, ...] = (None, None, None)
    if request is not None:
        parties = owner_key(request.owner), owner_key(request.initiator_or_owner), request.preset or request.template
    answer: str | None = await connection.fetchval(
        ANSWER_RUN, claim_id, request_hash, run.id, run.began_at, record, *parties
    )
    return json.loads(answer) if answer is not None else {}


async def read_denial(connection: asyncpg.Pool[Any], claim_id: str, request_hash: bytes) -> dict[str, Any] | None:
    """The recorded answer of a claim whose last run, of this same request, was given nothing; None when it has none."""
    answer: str | None = await connection.fetchval(READ_DENIAL, claim_id, request_hash)
    return None if answer is None else json.loads(answer)


def recorded_refusal(answer: dict[str, Any]) -> PrebuildsError | None:
    """Return the error of a recorded answer; None without one, or for one that this release lacks."""
    return from_record(answer)
