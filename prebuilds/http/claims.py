"""Claims over HTTP: decided in this process and answered at the commit (decision 0023)."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Body, Depends, Header, Request
from fastapi.responses import Response, StreamingResponse

from prebuilds.api import InvalidInput
from prebuilds.http.answering import answer_claim
from prebuilds.http.authentication import Caller, Claimant
from prebuilds.http.claim_access import check_may_claim, find_claim, with_initiator
from prebuilds.http.claim_route import ClaimRoute, claim_id_of
from prebuilds.http.claim_stream import event_id_of, follow_claim
from prebuilds.http.documents import ALWAYS, LOCATION, problem_responses, whole
from prebuilds.http.guard import Guarded
from prebuilds.http.models import CLAIM_EXAMPLES, RESULT_EXAMPLE, ClaimBody, ClaimState, WaitingClaim
from prebuilds.http.service import Served
from prebuilds.http.streams import open_stream
from prebuilds.http.waiting import Patience, state_of, wait_for_answer, wait_of
from prebuilds.payloads import ClaimResult, ClaimsResult, parse_claim_id
from prebuilds.planning.policy import Action

router = APIRouter(tags=["claims"])
deciding = APIRouter(tags=["claims"], route_class=ClaimRoute)
"""The routes that decide claims."""

DECIDED: dict[int | str, dict[str, Any]] = {
    201: {
        "description": "Won now",
        "model": ClaimResult | ClaimsResult,
        "content": {"application/json": {"example": whole(RESULT_EXAMPLE)}},
        "headers": LOCATION,
    },
    200: {
        "description": "Won before: the same answer, for ever",
        "model": ClaimResult | ClaimsResult,
        "content": {"application/json": {"example": whole(RESULT_EXAMPLE)}},
        "headers": LOCATION,
    },
    202: {"description": "It waits for a prebuild", "model": WaitingClaim, "headers": LOCATION},
    **problem_responses(
        *(401, 403, 404, 409, 413, 422, 429, 503),
        on_404="No such preset or template",
        on_409="Nothing is ready, and waiting cannot help; or the request contradicts what is there",
        on_422="The request is not valid, or its claim id is in use for another request",
        on_429="Nothing is ready, or the token asks too often; `Retry-After` says when to ask again",
        on_503="The database or Temporal is away; ask again with the same claim id",
    ),
}
Prefer = Annotated[str | None, Header(description="`wait=N` holds the answer for up to N seconds, at most 60")]


async def _claim_id_of(request: Request) -> str:  # a function that is no coroutine would run in a thread
    return claim_id_of(request)


AddressedClaim = Annotated[str, Depends(_claim_id_of)]
IN_PATH: dict[str, Any] = {
    "parameters": [
        {
            "name": "claim_id",
            "in": "path",
            "required": True,
            "description": "1 to 200 bytes of text, percent-encoded. The same id always gets the same workspace.",
            "schema": {"type": "string", "minLength": 1},
            "example": "ticket-17",
        }
    ]
}
GivenBody = Annotated[ClaimBody, Body(openapi_examples=CLAIM_EXAMPLES)]


@deciding.put(
    "/v1/claims/{claim_id}",
    summary="Claim a workspace under an id of one's own",
    operation_id="put_claim",
    status_code=201,
    response_model=None,
    responses=DECIDED,
    openapi_extra=IN_PATH,
)
async def put_claim(
    request: Request, service: Served, actor: Claimant, body: GivenBody, claim_id: AddressedClaim, prefer: Prefer = None
) -> Response:
    """Safe to repeat for ever: an id that has won gets the same answer; one that has missed is tried again."""
    body = with_initiator(body, actor)
    await check_may_claim(request, service, actor, body)
    return await answer_claim(service, body, claim_id, Patience(wait_of(prefer), actor.token_id))


@deciding.post(
    "/v1/claims",
    summary="Claim a workspace",
    operation_id="post_claim",
    status_code=201,
    response_model=None,
    responses=DECIDED,
)
async def post_claim(
    request: Request,
    service: Served,
    actor: Claimant,
    body: GivenBody,
    idempotency_key: Annotated[
        str | None, Header(description="The claim's id; without it one is made and returned", examples=["ticket-17"])
    ] = None,
    prefer: Prefer = None,
) -> Response:
    """The same with the id in a header. A repetition without the header is another claim."""
    claim_id = str(uuid4()) if idempotency_key is None else parse_claim_id(_decode_header(idempotency_key))
    body = with_initiator(body, actor)
    await check_may_claim(request, service, actor, body)
    return await answer_claim(service, body, claim_id, Patience(wait_of(prefer), actor.token_id))


@router.get(
    "/v1/claims/{claim_id}",
    summary="What has become of a claim",
    operation_id="get_claim",
    response_model=ClaimState,
    responses=problem_responses(*ALWAYS, 404),
    openapi_extra=IN_PATH,
)
async def get_claim(
    request: Request, service: Served, actor: Caller, claim_id: AddressedClaim, prefer: Prefer = None
) -> ClaimState:
    """With `Prefer: wait=N` the answer is held until the claim has its own, or N seconds are over."""
    found = await find_claim(request, service, actor, claim_id, Action.SEE_CLAIM)
    if isinstance(found, ClaimsResult):
        return ClaimState(claim_id=claim_id, state="claimed", claim=found)
    answered = await wait_for_answer(service, found, Patience(wait_of(prefer), actor.token_id))
    if answered.request_hash != found.request_hash:  # somebody else's request has the id now
        return await get_claim(request, service, actor, claim_id)
    return await state_of(service, answered)


@router.get(
    "/v1/claims/{claim_id}/events",
    summary="What becomes of a claim, as server-sent events",
    operation_id="stream_claim",
    response_class=StreamingResponse,
    responses={
        200: {"description": "Events `claim` with a `ClaimState` each", "content": {"text/event-stream": {}}},
        204: {"description": "The claim has ended, and the reader has heard so: nothing more will come"},
        **problem_responses(*ALWAYS, 404),
    },
    openapi_extra=IN_PATH,
)
async def claim_events(
    request: Request,
    guard: Guarded,
    claim_id: AddressedClaim,
    last_event_id: Annotated[str | None, Header(description="The id of the last event that was read")] = None,
) -> Response:
    """The stream ends with the claim's answer. With `Last-Event-ID` that event does not come again."""
    found = await find_claim(request, guard.service, guard.actor, claim_id, Action.SEE_CLAIM)
    if isinstance(found, ClaimsResult):
        raise InvalidInput.field("claim_id", "names many claims, which do not wait", remedy="read it without /events")
    if found.ended and event_id_of(found) == last_event_id:
        return Response(status_code=204)  # a browser does not connect again after this
    return await open_stream(guard, follow_claim(guard.service, found, last_event_id))


@router.delete(
    "/v1/claims/{claim_id}",
    summary="Leave the queue",
    operation_id="delete_claim",
    response_model=ClaimState,
    responses=problem_responses(*ALWAYS, 404, 409),
    openapi_extra=IN_PATH,
)
async def delete_claim(request: Request, service: Served, actor: Caller, claim_id: AddressedClaim) -> ClaimState:
    """The claim waits no longer. One that has won before stays as it is, which the answer says: release its workspace
    where nobody wants it."""
    found = await find_claim(request, service, actor, claim_id, Action.LEAVE_QUEUE)
    if isinstance(found, ClaimsResult):
        return ClaimState(claim_id=claim_id, state="claimed", claim=found)
    return await state_of(service, await service.waiting.leave(claim_id, actor.name) or found)


def _decode_header(value: str) -> str:
    """A header's text, without the quotes of the draft's form. The server reads bytes as Latin-1; callers send UTF-8.

    Raises:
        InvalidInput: It is not UTF-8.
    """
    try:
        text = value.encode("latin-1").decode()
    except UnicodeDecodeError as error:
        raise InvalidInput.field("Idempotency-Key", "must be UTF-8") from error
    is_quoted = len(text) > 1 and text[0] == text[-1] == '"'
    return text[1:-1] if is_quoted else text
