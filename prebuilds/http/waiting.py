"""Claims that wait: 202, held answers (`Prefer: wait=N`), and the state of a claim."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote
from uuid import UUID

from fastapi.responses import Response
from starlette.exceptions import HTTPException

from prebuilds.api import PrebuildsError
from prebuilds.http.models import ClaimState, WaitingClaim
from prebuilds.http.problems import describe
from prebuilds.http.service import Service
from prebuilds.operations.claim_requests import nothing_ready
from prebuilds.operations.direct_claims import ClaimFound

WAIT_MAX_S = 60.0
"""Maximum time for which an answer is held. Proxies on the way end longer requests."""
WAITERS_MAX = 500
"""Maximum number of held answers and streams at a time."""
OF_TOKEN_MAX = 100
"""Maximum number of held answers and streams of one token, so that none takes the places of all others."""
HEARTBEAT_S = 15.0
"""Interval of a stream's heartbeats, in seconds: proxies on the way end a stream that is silent for longer."""
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


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a caller wants its answer to be held, and whose place it takes meanwhile."""

    seconds: float
    token_id: UUID | None = None
    """None: the caller came without a token."""


@contextmanager
def waiting_turn(service: Service, token_id: UUID | None) -> Iterator[None]:
    """Count a held answer or a stream while the block runs.

    Raises:
        HTTPException: Too many are held, of this token or of all.
    """
    held = service.held_of
    for number, most, whose in ((held[token_id], OF_TOKEN_MAX, " of this token"), (held.total(), WAITERS_MAX, "")):
        if number >= most:
            message = f"{most} answers and streams{whose} are held; ask without waiting, or close some"
            raise HTTPException(503, message, {"Retry-After": "1"})
    held[token_id] += 1
    try:
        yield
    finally:
        held[token_id] -= 1
        if not held[token_id]:
            del held[token_id]


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


async def wait_for_answer(
    service: Service, seen: ClaimFound, patience: Patience, *, run: str | None = None
) -> ClaimFound:
    """Wait until a claim has its answer, as long as the caller wants. Returns what is recorded then.

    Args:
        run: The run whose answer it is to be, or a win; None for the answer of any.
    """

    def has_ended(found: ClaimFound) -> bool:
        return found.ended and (found.won is not None or run in {None, found.run})

    clock = asyncio.get_running_loop().time
    deadline = clock() + patience.seconds
    if has_ended(seen) or patience.seconds <= 0:
        return seen
    with waiting_turn(service, patience.token_id):
        while not has_ended(seen) and not service.draining.is_set() and (left_s := deadline - clock()) > 0:
            seen = await until_change(service, seen.claim_id, seen, left_s) or seen
    return seen


async def estimate(service: Service, found: ClaimFound) -> float | None:
    """How long a claim has to wait yet, in seconds; None where nothing is known."""
    if found.preset is None or found.position is None:
        return None
    try:
        outlook = await service.direct.outlook_of(found.preset, found.position)
    except PrebuildsError:  # for example: the template was deleted meanwhile
        return None
    return None if outlook.wait is None else outlook.wait.total_seconds()


async def waiting_response(service: Service, found: ClaimFound) -> Response:
    """Answer 202: the claim is not decided yet."""
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
