"""Claims over HTTP: decided in this process and answered at the commit (decision 0023)."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import unquote
from uuid import uuid4

from fastapi import APIRouter, Body, Depends, Header, Request
from fastapi.responses import Response, StreamingResponse

from prebuilds.api import ClaimNotFound, InvalidInput, PresetNotFound
from prebuilds.http.answering import answer_claim
from prebuilds.http.authentication import Caller, Claimant, check_allowed
from prebuilds.http.documents import ALWAYS, problem_responses, whole
from prebuilds.http.models import CLAIM_EXAMPLES, RESULT_EXAMPLE, ClaimBody, ClaimState, WaitingClaim
from prebuilds.http.service import Served, Service
from prebuilds.http.waiting import check_turn, state_of, stream_claim, wait_for_answer, wait_of
from prebuilds.operations.direct_claims import ClaimFound, SomeRequest
from prebuilds.payloads import CLAIMS_MAX, ClaimResult, ClaimsResult, parse_claim_id
from prebuilds.planning.policy import Action, Resource
from prebuilds.vocabulary.actors import Actor

router = APIRouter(tags=["claims"])

DECIDED: dict[int | str, dict[str, Any]] = {
    201: {
        "description": "Won now",
        "model": ClaimResult | ClaimsResult,
        "content": {"application/json": {"example": whole(RESULT_EXAMPLE)}},
    },
    200: {
        "description": "Won before: the same answer, for ever",
        "model": ClaimResult | ClaimsResult,
        "content": {"application/json": {"example": whole(RESULT_EXAMPLE)}},
    },
    202: {"description": "It waits for a prebuild", "model": WaitingClaim},
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


async def claim_id_of(request: Request) -> str:
    """The claim's id in the address, where a slash is written `%2F`.

    Raises:
        InvalidInput: It is none.
    """
    try:
        return parse_claim_id(unquote(request.path_params["claim_id"], errors="strict"))
    except UnicodeDecodeError as error:
        raise InvalidInput.field("claim_id", "must be UTF-8, percent-encoded") from error


AddressedClaim = Annotated[str, Depends(claim_id_of)]
IN_PATH: dict[str, Any] = {
    "parameters": [
        {
            "name": "claim_id",
            "in": "path",
            "required": True,
            "description": "1 to 200 bytes of text, percent-encoded. The same id always gets the same workspace.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 200},
            "example": "ticket-17",
        }
    ]
}
GivenBody = Annotated[ClaimBody, Body(openapi_examples=CLAIM_EXAMPLES)]


@router.put(
    "/v1/claims/{claim_id}",
    summary="Claim a workspace under an id of one's own",
    operation_id="put_claim",
    status_code=201,
    response_model=None,
    responses=DECIDED,
    openapi_extra=IN_PATH,
)
async def put_claim(
    request: Request, service: Served, actor: Claimant, claim_id: AddressedClaim, body: GivenBody, prefer: Prefer = None
) -> Response:
    """Safe to repeat for ever: an id that has won gets the same answer; one that has missed is tried again."""
    await check_may_claim(request, service, actor, body)
    return await answer_claim(service, body, claim_id, wait_of(prefer))


@router.post(
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
    await check_may_claim(request, service, actor, body)
    return await answer_claim(service, body, claim_id, wait_of(prefer))


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
    return await state_of(service, await wait_for_answer(service, found, wait_of(prefer)))


@router.get(
    "/v1/claims/{claim_id}/events",
    summary="What becomes of a claim, as server-sent events",
    operation_id="stream_claim",
    response_class=StreamingResponse,
    responses={
        200: {"description": "Events `claim` with a `ClaimState` each", "content": {"text/event-stream": {}}},
        **problem_responses(*ALWAYS, 404),
    },
    openapi_extra=IN_PATH,
)
async def claim_events(
    request: Request,
    service: Served,
    actor: Caller,
    claim_id: AddressedClaim,
    last_event_id: Annotated[str | None, Header(description="The id of the last event that was read")] = None,
) -> StreamingResponse:
    """The stream ends with the claim's answer. With `Last-Event-ID` that event does not come again."""
    found = await find_claim(request, service, actor, claim_id, Action.SEE_CLAIM)
    if isinstance(found, ClaimsResult):
        raise InvalidInput.field("claim_id", "names many claims, which do not wait", remedy="read it without /events")
    check_turn(service)  # before the stream's status is sent
    events = stream_claim(service, found, last_event_id)
    return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


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
    """A header's text. The server reads bytes as Latin-1; callers send UTF-8.

    Raises:
        InvalidInput: It is not UTF-8.
    """
    try:
        return value.encode("latin-1").decode()
    except UnicodeDecodeError as error:
        raise InvalidInput.field("Idempotency-Key", "must be UTF-8") from error


# --- Who may -------------------------------------------------------------------------------------------------------


async def check_may_claim(request: Request, service: Service, actor: Actor, body: SomeRequest) -> None:
    """Refuse a claim for people whom the actor may not claim for.

    Raises:
        Forbidden: Names the scope that would be enough.
    """
    people = (body.owner,) if body.initiator is None else (body.owner, body.initiator)
    target = body.preset or body.template or ""
    await _check(request, service, actor, Action.CLAIM, people, target)
    if body.create_owner:  # the claim may add a member of the organization
        await _check(request, service, actor, Action.CHANGE_MEMBERS, (), target)


async def find_claim(
    request: Request, service: Service, actor: Actor, claim_id: str, action: Action
) -> ClaimFound | ClaimsResult:
    """What is recorded of a claim, or of a batch that has won, which the actor may see or end.

    Raises:
        ClaimNotFound: Nothing is.
        Forbidden: Names the scope that would be enough.
    """
    found = await _find(service, claim_id)
    if found is None:
        raise ClaimNotFound(f"no claim {claim_id} is recorded", {"claim_id": claim_id})
    if isinstance(found, ClaimsResult):
        asked = {(claim.owner, claim.initiator, str(claim.preset_id or "")) for claim in found.claims}
    else:
        asked = {(found.owner or "", found.initiator or "", found.target or "")}
    for owner, initiator, target in asked:
        people = tuple(name for name in (owner, initiator) if name)
        await _check(request, service, actor, action, people, target)
    return found


async def _find(service: Service, claim_id: str) -> ClaimFound | ClaimsResult | None:
    """What is recorded of a claim; of a batch, where no single claim of this id has won or goes on."""
    found = await service.direct.find(claim_id)
    if found is not None and (found.won is not None or not found.ended):
        return found
    return await service.direct.find_batch(claim_id, CLAIMS_MAX) or found


async def _check(
    request: Request, service: Service, actor: Actor, action: Action, people: tuple[str, ...], target: str
) -> None:
    """Ask the policy. Which organization a preset's id belongs to is looked up only where that matters.

    Args:
        target: The preset's path or id, or its template's path; empty when it is not known.
    """
    organization = target.split("/", 1)[0] if "/" in target else None
    if organization is None and target and not all(scope.organization is None for scope in actor.scopes):
        try:
            organization = (await service.direct.path_of(target)).split("/", 1)[0]
        except (PresetNotFound, InvalidInput):
            organization = None
    check_allowed(request, actor, action, Resource(organization, people))
