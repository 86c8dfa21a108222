"""The answer of one run of a claim: recorded before anybody hears it, and the same for every later attempt at the run.

A run is one request for a claim, with all attempts at it. Two workers can work for one run, when the first was frozen
for a while. `claim_workspace` and `answer_claim_run` see to it that a late attempt takes nothing once its run was
answered.
"""

from __future__ import annotations

import json
from typing import Any

import asyncpg

from prebuilds.api import PrebuildsError
from prebuilds.failures.crossing import from_record, record_of
from prebuilds.payloads import ClaimRun

ANSWER_RUN = "SELECT answer_claim_run($1, $2, $3, $4, $5)"


async def record_answer(
    connection: asyncpg.Pool[Any] | asyncpg.pool.PoolConnectionProxy[Any],
    claim_id: str,
    request_hash: bytes,
    run: ClaimRun,
    error: PrebuildsError | None,
) -> dict[str, Any]:
    """Answer *run* with *error*, unless it has another answer already.

    Args:
        error: None records no answer, and only makes *run* the one that the claim works for.
    Returns:
        The run's answer: that of a won claim, whose `source` is set; a miss; or `{"error": ...}`. Empty when *error* is
        None and the run has no answer yet.
    """
    record = None
    if error is not None:
        record = json.dumps(record_of(error), default=str)
    answer: str | None = await connection.fetchval(ANSWER_RUN, claim_id, request_hash, run.id, run.began_at, record)
    return json.loads(answer) if answer is not None else {}


def recorded_refusal(answer: dict[str, Any]) -> PrebuildsError | None:
    """The error that an answer stands for; None for any other answer, and for an error that this release does not
    know."""
    return from_record(answer)
