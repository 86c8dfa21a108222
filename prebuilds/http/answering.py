"""The answers to claims: what was decided, that a claim waits, and when to come back after a miss."""

from __future__ import annotations

import random
from contextlib import suppress

from fastapi.responses import Response
from starlette.exceptions import HTTPException

from prebuilds.api import ClaimTimedOut, NoClaimablePrebuiltWorkspaces, PrebuildsError
from prebuilds.http.problems import WAITING_CANNOT_HELP, describe, respond
from prebuilds.http.service import Service
from prebuilds.http.waiting import Patience, error_of, location_of, wait_for_answer, waiting_response
from prebuilds.operations.claim_attempts import Decided
from prebuilds.operations.direct_claims import ClaimFound, SomeDecision, SomeRequest
from prebuilds.payloads import ClaimRequest
from prebuilds.planning.lead_times import Outlook
from prebuilds.vocabulary import MissReason, OnEmpty

UNKNOWN_AGAIN_S = 10.0
"""`Retry-After` in seconds if it is not known when a prebuild will be ready."""
IDLE_AGAIN_S = 60.0
"""`Retry-After` in seconds if nothing is created until an operator starts the loop."""
AGAIN_MAX_S = 3600.0
SPREAD = 0.1
"""Maximum share by which a caller's time is extended, so that callers do not all come back at once."""


async def answer_claim(service: Service, body: SomeRequest, claim_id: str, patience: Patience) -> Response:
    """Decide a claim, and make its answer a response."""
    try:
        if isinstance(body, ClaimRequest) and body.on_empty is OnEmpty.WAIT:
            decided = await service.waiting.claim(body, claim_id, patience.token_id)
            if isinstance(decided, ClaimFound):
                return await answer_waiting(service, decided, patience)
            return decided_response(decided, claim_id)
        return decided_response(await service.direct.claim(body, claim_id, patience.token_id), claim_id)
    except (NoClaimablePrebuiltWorkspaces, ClaimTimedOut) as miss:
        return await answer_miss(service, body, claim_id, miss)
    except PrebuildsError as error:
        return respond(describe(error, claim_id=claim_id))


async def answer_waiting(service: Service, started: ClaimFound, patience: Patience) -> Response:
    """Answer a claim that its workflow continues.

    Args:
        started: What was recorded of it when its workflow had begun; with that workflow's run.
    Raises:
        ClaimIdReused: The id has won, or waits, with another request since.
        NoClaimablePrebuiltWorkspaces, ClaimTimedOut: It has got nothing; asking again may help.
    """
    found = started
    with suppress(HTTPException):  # too many answers are held; the claim waits all the same, under its id
        found = await wait_for_answer(service, started, patience, run=started.run)
    found.check_request(started.request_hash)
    if found.won is not None:
        return decided_response(Decided(found.won, decided_now=found.run == started.run), found.claim_id)
    error = error_of(found)
    if error is not None and found.run == started.run:
        if isinstance(error, NoClaimablePrebuiltWorkspaces | ClaimTimedOut):
            raise error
        return respond(describe(error, claim_id=found.claim_id))
    return await waiting_response(service, found)


def decided_response(decided: SomeDecision, claim_id: str) -> Response:
    status = 201 if decided.decided_now else 200
    headers = {"Location": location_of(claim_id)}
    return Response(decided.answer.model_dump_json(), status, headers, "application/json")


async def answer_miss(service: Service, body: SomeRequest, claim_id: str, miss: PrebuildsError) -> Response:
    """Say when to come back, from what is known of the pool: 429. Where that cannot help: 409, and until when."""
    try:
        outlook = await service.direct.outlook(body)
    except PrebuildsError:  # the database has gone away, or the preset: the miss is decided all the same
        outlook = Outlook(wait=None)
    reason = miss.details.get("miss_reason")
    if reason in WAITING_CANNOT_HELP:
        # Only a hold has an end that is known; a pause or the lack of a pool has none.
        until = outlook.held_until if reason == MissReason.HELD else None
        return respond(describe(miss, claim_id=claim_id, until=None if until is None else until.isoformat()))
    unknown_s = IDLE_AGAIN_S if outlook.idle else UNKNOWN_AGAIN_S
    again_s = unknown_s if outlook.wait is None else min(outlook.wait.total_seconds(), AGAIN_MAX_S)
    again_s *= random.uniform(1, 1 + SPREAD)  # noqa: S311 - so that a burst does not come back as one
    return respond(describe(miss, claim_id=claim_id, retry_after_s=again_s))
