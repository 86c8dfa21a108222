"""Claims that wait for a prebuild, for callers who have no workflow of their own: started, watched and left.

The claim's workflow waits, as for everybody else. What becomes of it is read from the database, where
it is decided: also while Temporal is away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from uuid import UUID

from prebuilds.api import StackUnreachable, StoreUnavailable
from prebuilds.client import PrebuildsClient
from prebuilds.operations.claim_attempts import Decided
from prebuilds.operations.claim_requests import UNSERVED
from prebuilds.operations.direct_claims import DirectClaims
from prebuilds.payloads import ClaimRequest, ClaimResult
from prebuilds.store.claim_states import ClaimFound
from prebuilds.vocabulary import claim_workflow_id

logger = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.1
"""Seconds between two reads of the watched claims. One statement reads all of them."""
FAULT_PAUSE_S = 1.0
PLACE_TIMEOUT_S = 5.0
"""How long a claims worker may take until the claim has its place or its answer, in seconds. It takes milliseconds."""

FindAll = Callable[[Collection[str]], Awaitable[Mapping[str, ClaimFound]]]


class ClaimWatch:
    """Tells many watchers of what becomes of claims, by one statement for all of them."""

    def __init__(self, find_all: FindAll) -> None:
        self._find_all = find_all
        self._watched: dict[asyncio.Future[ClaimFound], tuple[str, ClaimFound | None]] = {}
        self._polling: asyncio.Task[None] | None = None

    async def next_change(self, claim_id: str, seen: ClaimFound | None, within_s: float) -> ClaimFound | None:
        """Wait until something else is recorded of a claim than was seen.

        Args:
            seen: What was recorded when the caller looked last; None when nothing was.
            within_s: How long to wait, in seconds.
        Returns:
            What is recorded now; None when nothing has changed in this time.
        """
        changed: asyncio.Future[ClaimFound] = asyncio.get_running_loop().create_future()
        self._watched[changed] = (claim_id, seen)
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll_claims())
        try:
            async with asyncio.timeout(within_s):
                return await changed
        except TimeoutError:
            return None
        finally:
            del self._watched[changed]

    async def _poll_claims(self) -> None:
        """Read the watched claims again and again while anybody watches.

        It goes on after an outage of the database, and after any fault: the watchers have their own bounds.
        """
        while self._watched:
            try:
                found = await self._find_all({claim_id for claim_id, _ in self._watched.values()})
            except StoreUnavailable as error:
                logger.debug("Watched claims could not be read", extra={"error": repr(error)})
                found = {}
            except Exception:
                logger.exception("Watched claims could not be read")
                found = {}
                await asyncio.sleep(FAULT_PAUSE_S)
            for changed, (claim_id, seen) in list(self._watched.items()):
                now = found.get(claim_id)
                if now is not None and not changed.done() and not now.same_as(seen):
                    changed.set_result(now)
            await asyncio.sleep(POLL_INTERVAL_S)


class WaitingClaims:
    """Joins and leaves the queue on behalf of callers, and watches their claims."""

    def __init__(self, direct: DirectClaims, client: PrebuildsClient) -> None:
        self._direct = direct
        self._client = client
        self._watch = ClaimWatch(direct.find_all)

    async def claim(
        self, request: ClaimRequest, claim_id: str, token_id: UUID | None = None
    ) -> Decided[ClaimResult] | ClaimFound:
        """Take a prebuild that is ready, or have a workflow wait for one.

        Args:
            token_id: As of `DirectClaims.claim`.
        Returns:
            What the claim has won; or what is recorded of it once its workflow has decided: its place, or its answer.
            A claim without either has no worker yet.
        Raises:
            ClaimIdReused: The id has won, or waits, with another request.
            PrebuildsError: The claim can never be served.
            StackUnreachable: Nothing is ready, and Temporal is away. The same id may be used again.
        """
        if (decided := await self._direct.take_ready(request, claim_id, token_id)) is not None:
            return decided
        run = await self._client.start_claim(request, claim_id)
        request_hash = self._direct.hash_request(request)
        place = await self._direct.find(claim_id)
        deadline = asyncio.get_running_loop().time() + PLACE_TIMEOUT_S
        while place is None or not _has_decided(place, run):
            if place is not None:
                place.check_request(request_hash)
            left_s = deadline - asyncio.get_running_loop().time()
            changed = await self._watch.next_change(claim_id, place, left_s) if left_s > 0 else None
            if changed is None:
                return ClaimFound(
                    claim_id,
                    run,
                    owner=request.owner,
                    initiator=request.initiator_or_owner,
                    request_hash=request_hash,
                )
            place = changed
        place.check_request(request_hash)
        return place if place.won is None else Decided(place.won, decided_now=place.run == run)

    async def next_change(self, claim_id: str, seen: ClaimFound | None, within_s: float) -> ClaimFound | None:
        """As `ClaimWatch.next_change`."""
        return await self._watch.next_change(claim_id, seen, within_s)

    async def leave(self, claim_id: str, by: str) -> ClaimFound | None:
        """Leave the queue.

        Args:
            by: Who asks for it.
        Returns:
            What is recorded of the claim then: it may have won before. None when nothing is.
        Raises:
            StackUnreachable: Temporal or the claims workers do not answer, or the claim goes on all the same.
        """
        found = await self._direct.find(claim_id)
        if found is None or found.won is not None:
            return found
        workflow_id = found.workflow_id or claim_workflow_id(claim_id)
        await self._direct.queue.note_who_leaves(claim_id, by)
        if not await self._client.leave_queue(claim_id, workflow_id):
            await self._direct.queue.withdraw(claim_id, workflow_id, UNSERVED["canceled"](claim_id))
        found = await self._direct.find(claim_id)
        if found is not None and not found.ended:
            raise StackUnreachable(
                f"claim {claim_id} goes on: it was asked for again meanwhile, or the database was away",
                {"claim_id": claim_id},
                remedy="ask again that it leaves",
            )
        return found


def _has_decided(found: ClaimFound, run: str) -> bool:
    """Whether a claim's workflow has taken a first decision. *run* is the workflow's; a win is every run's answer."""
    return found.won is not None or (found.run == run and (found.ended or found.position is not None))
