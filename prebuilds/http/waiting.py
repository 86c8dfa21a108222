"""Claims that wait: 202, held answers (`Prefer: wait=N`), and the stream of what becomes of a claim."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from urllib.parse import quote

from fastapi.responses import Response
from starlette.exceptions import HTTPException

from prebuilds.api import PrebuildsError
from prebuilds.http.models import ClaimState, WaitingClaim
from prebuilds.http.problems import describe
from prebuilds.http.service import Service
from prebuilds.operations.claim_requests import nothing_ready
from prebuilds.operations.direct_claims import ClaimFound

WAIT_MAX_S = 60.0
"""The longest that an answer is held. Proxies on the way end what takes longer."""
WAITERS_MAX = 500
"""Answers that are held, and streams, at a time."""
HEARTBEAT_S = 15.0
"""Without a word for so long, proxies on the way take a stream for dead."""
RECONNECT_MS = 1000
_WAIT = re.compile(r"(?:^|[,;\s])wait=(\d{1,6})(?:$|[,;\s])")


def wait_of(prefer: str | None) -> float:
    """How long a caller wants the answer to be held, in seconds: the `wait` of its `Prefer` header, bounded; 0 unless
    it says."""
    found = _WAIT.search(prefer or "")
    return min(float(found[1]), WAIT_MAX_S) if found else 0.0


def location_of(claim_id: str) -> str:
    """Where a claim is found."""
    return f"/v1/claims/{quote(claim_id, safe='')}"


def check_turn(service: Service) -> None:
    """Refuse to hold one more answer when too many are held.

    Raises:
        HTTPException: Too many are.
    """
    if service.held >= WAITERS_MAX:
        raise HTTPException(503, f"{WAITERS_MAX} answers are held; ask without waiting", {"Retry-After": "1"})


@contextmanager
def waiting_turn(service: Service) -> Iterator[None]:
    """Count a held answer or a stream while the block runs.

    Raises:
        HTTPException: Too many are held.
    """
    check_turn(service)
    service.held += 1
    try:
        yield
    finally:
        service.held -= 1


async def until_change(service: Service, claim_id: str, seen: ClaimFound | None, within_s: float) -> ClaimFound | None:
    """Wait until something else is recorded of a claim than was seen. None: the time is over, or the server ends."""
    changing = asyncio.create_task(service.waiting.next_change(claim_id, seen, within_s))
    draining = asyncio.create_task(service.draining.wait())
    try:
        await asyncio.wait({changing, draining}, return_when=asyncio.FIRST_COMPLETED)
        return changing.result() if changing.done() else None
    finally:
        changing.cancel()
        draining.cancel()


async def wait_for_answer(service: Service, seen: ClaimFound, within_s: float, *, run: str | None = None) -> ClaimFound:
    """Wait until a claim has its answer, as long as the caller wants. Returns what is recorded then.

    Args:
        run: The run whose answer it is to be, or a win; None for the answer of any.
    """

    def has_ended(found: ClaimFound) -> bool:
        return found.ended and (found.won is not None or run in {None, found.run})

    clock = asyncio.get_running_loop().time
    deadline = clock() + within_s
    if has_ended(seen) or within_s <= 0:
        return seen
    with waiting_turn(service):
        while not has_ended(seen) and not service.draining.is_set() and (left_s := deadline - clock()) > 0:
            seen = await until_change(service, seen.claim_id, seen, left_s) or seen
    return seen


async def estimate(service: Service, found: ClaimFound) -> float | None:
    """How long a claim has to wait yet, in seconds; None where nothing is known."""
    if found.preset is None or found.position is None:
        return None
    try:
        outlook = await service.direct.outlook_of(found.preset, found.position)
    except PrebuildsError:  # such as of a template that was deleted meanwhile
        return None
    return None if outlook.wait is None else outlook.wait.total_seconds()


async def waiting_response(service: Service, found: ClaimFound) -> Response:
    """202: the claim goes on."""
    body = WaitingClaim(
        claim_id=found.claim_id,
        state="waiting" if found.position is not None else "deciding",
        position=found.position,
        deadline=found.deadline,
        estimated_seconds=await estimate(service, found),
    )
    headers = {"Location": location_of(found.claim_id)}
    return Response(body.model_dump_json(), 202, headers, "application/json")


def error_of(found: ClaimFound) -> PrebuildsError | None:
    """Why a claim got nothing; None unless its last request has ended so."""
    if found.missed is not None:
        return nothing_ready(f"preset {found.preset_id}", found.missed)
    return found.failed


async def state_of(service: Service, found: ClaimFound) -> ClaimState:
    """Return the state of a claim in the form that its caller gets."""
    error = error_of(found)
    if found.won is not None:
        return ClaimState(claim_id=found.claim_id, state="claimed", claim=found.won)
    if error is not None:
        return ClaimState(claim_id=found.claim_id, state="failed", error=describe(error, claim_id=found.claim_id))
    return ClaimState(
        claim_id=found.claim_id,
        state="waiting" if found.position is not None else "deciding",
        position=found.position,
        deadline=found.deadline,
        estimated_seconds=await estimate(service, found),
    )


def event_id(state: ClaimState) -> str:
    """What a reader of the stream sends as `Last-Event-ID` when it comes back."""
    return state.state if state.position is None else f"{state.state}.{state.position}"


async def stream_claim(service: Service, found: ClaimFound, last_event_id: str | None) -> AsyncIterator[str]:
    """What becomes of a claim, as server-sent events, until it has its answer or the server is about to end.

    Args:
        found: What is recorded now.
        last_event_id: What the reader has heard last; it does not hear it again.
    """
    with waiting_turn(service):
        yield f"retry: {RECONNECT_MS}\n\n"
        while True:
            state = await state_of(service, found)
            if event_id(state) != last_event_id:
                last_event_id = event_id(state)
                yield f"id: {last_event_id}\nevent: claim\ndata: {state.model_dump_json()}\n\n"
            if found.ended or service.draining.is_set():
                return
            changed = await until_change(service, found.claim_id, found, HEARTBEAT_S)
            if changed is None and not service.draining.is_set():
                yield ": still there\n\n"
            found = changed or found
