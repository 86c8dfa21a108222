"""What one run of a claim was answered: recorded before it is told, and the same for every later attempt at that run.

A run is one request for a claim, with all attempts of Temporal at it. Two workers may work for one run, when the first
was frozen; `claim_workspace` and `answer_claim_run` keep a late one from taking what its run was told it does not get.
"""

from __future__ import annotations

import json
from typing import Any

import asyncpg

from prebuilds.api import ERRORS, PrebuildsError
from prebuilds.payloads import ClaimRun

ANSWER_RUN = "SELECT answer_claim_run($1, $2, $3, $4, $5)"


async def record_answer(
    connection: asyncpg.Pool[Any] | asyncpg.pool.PoolConnectionProxy[Any],
    claim_id: str,
    asked: bytes,
    run: ClaimRun,
    error: PrebuildsError | None,
) -> dict[str, Any]:
    """Answer *run* with *error*, unless it has another answer already. None only takes the claim over for the run.

    Returns:
        What the run is answered: a claim's answer whose `source` is set, when the claim is won; a miss; or
        `{"error": ...}`. Empty when *error* is None and nothing was answered yet.
    """
    record = None
    if error is not None:
        record = json.dumps({"error": error.type, "message": str(error), "details": error.details}, default=str)
    answer: str | None = await connection.fetchval(ANSWER_RUN, claim_id, asked, run.id, run.began_at, record)
    return json.loads(answer) if answer is not None else {}


def recorded_refusal(answer: dict[str, Any]) -> PrebuildsError | None:
    """The error that an answer stands for; None for any other answer, and for one of another release."""
    error = ERRORS.get(answer.get("error", ""))
    return None if error is None else error(answer.get("message", ""), answer.get("details"))
