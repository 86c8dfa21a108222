"""Claims over HTTP: asked under one id until they have their answer, and given up when their caller leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import httpx

from prebuilds.api import (
    ClaimNotFound,
    PrebuildsError,
    RequestCanceled,
    RequestFailed,
    StackUnreachable,
    StoreUnavailable,
    WorkspaceBuildFailed,
)
from prebuilds.failures.claims import advise_retry, name_claim, name_unanswered_claim
from prebuilds.payloads import (
    ClaimRequest,
    ClaimResult,
    ClaimsRequest,
    ClaimsResult,
    ClaimTerms,
    Payload,
    ReleaseResult,
    WorkspaceBuildResult,
    parse_claim_id,
)
from prebuilds.remote import routes
from prebuilds.remote.problems import error_of_problem
from prebuilds.remote.transport import Transport
from prebuilds.vocabulary import BuildStatus, OnEmpty

logger = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 60.0
"""Limit of a claim's answer, in addition to the claim's own wait timeout, as over Temporal."""
HELD_S = 50
"""How long the server is asked to hold an answer, in seconds: below the minute after which proxies end a request."""
GIVE_UP_TIMEOUT_S = 5.0
"""Limit of a caller's wait until its claim is given up. Afterwards giving up goes on in the background."""
GIVE_UP_FOR_S = 60.0
"""Limit of giving up altogether."""
ACCEPTED = 202
HOLD = {"Prefer": f"wait={HELD_S}"}

Won = TypeVar("Won", ClaimResult, ClaimsResult)
_GIVING_UP: set[asyncio.Task[bool]] = set()
"""Keeps the background tasks alive: the event loop has only weak references to them."""


class ClaimNews(Payload):
    """What has become of a claim, as the server tells it."""

    state: str
    claim: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


class RemoteClaims:
    """Claims and waits for builds on one server."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    async def claim_request(self, request: ClaimRequest, claim_id: str, *, abandon: bool = False) -> ClaimResult:
        """As `PrebuildsClient.claim_request`."""
        return await self._run(request, parse_claim_id(claim_id), ClaimResult, abandon)

    async def claim_all(self, request: ClaimsRequest, claim_id: str, *, abandon: bool = False) -> ClaimsResult:
        """As `PrebuildsClient.claim_all`, under an id that is given."""
        return await self._run(request, parse_claim_id(claim_id, members=len(request.names)), ClaimsResult, abandon)

    async def start_claim(self, request: ClaimRequest, claim_id: str) -> None:
        """Send a claim once, and do not wait where it waits. A refusal is raised, as by `claim_request`."""
        await _Asking(self.transport, request, parse_claim_id(claim_id), ANSWER_TIMEOUT_S).ask()

    async def leave_queue(self, claim_id: str) -> bool:
        """As `PrebuildsClient.leave_queue`. Returns whether the claim has left the queue."""
        try:
            news = await self.transport.ask(routes.DELETE_CLAIM, ClaimNews, claim_id=parse_claim_id(claim_id))
        except ClaimNotFound:
            return False
        return (news.error or {}).get("code") == RequestCanceled.__name__

    async def wait_until_ready(self, build: ClaimResult | UUID, timeout_s: float | None = None) -> WorkspaceBuildResult:
        """As `PrebuildsClient.wait_until_ready`; *timeout_s* in seconds."""
        build_id = build if isinstance(build, UUID) else build.build_id
        async with asyncio.timeout(timeout_s):
            while True:
                response = await self.transport.send(routes.GET_BUILD, {"build_id": build_id}, headers=HOLD)
                result = self.transport.read(response, WorkspaceBuildResult)
                if result.status.ended:
                    break
        if result.status is not BuildStatus.SUCCEEDED:
            details = {"build_id": str(build_id), "error": result.error}
            canceled = result.status is BuildStatus.CANCELED
            raise WorkspaceBuildFailed(
                f"build {build_id} {'was canceled' if canceled else f'has {result.status}: {result.error}'}", details
            )
        return result

    async def _run(self, request: ClaimTerms, claim_id: str, result_type: type[Won], abandon: bool) -> Won:
        """Claim until there is an answer, and return it. Errors are those of `PrebuildsClient.claim`."""
        waits = request.on_empty is OnEmpty.WAIT
        bound_s = ANSWER_TIMEOUT_S + (request.wait_timeout_seconds if waits else 0)
        asking = _Asking(self.transport, request, claim_id, bound_s)
        leave = partial(self._leave, asking, abandon)
        try:
            async with asyncio.timeout(bound_s) as bound:
                return self.transport.check_answer(await self._await_answer(asking), result_type)
        except TimeoutError as error:
            if not bound.expired():
                raise
            given_up = await leave()
            raise StackUnreachable(
                f"claim {claim_id} was not answered in {bound_s:g} s",
                {"claim_id": claim_id},
                remedy=advise_retry(given_up=given_up),
                inputs={} if given_up else {"claim_id": claim_id},
            ) from error
        except asyncio.CancelledError as error:
            if not await leave():
                error.add_note(f"claim {claim_id} may go on or may have won: claim with this id to get its answer")
            raise
        except (StackUnreachable, RequestFailed) as error:  # the claim may go on: perhaps only the answer was lost
            raise name_unanswered_claim(error, claim_id, given_up=await leave()) from error
        except (StoreUnavailable, RequestCanceled) as error:
            raise name_claim(error, claim_id) from error
        except PrebuildsError:
            if asking.waiting:  # the claim has no answer yet; only looking at it was refused
                await leave()
            raise

    async def _await_answer(self, asking: _Asking) -> Mapping[str, Any]:
        """Ask until the claim has won. One that has its place in the queue is watched, without a new request."""
        while True:
            response = await asking.ask()
            answer: Mapping[str, Any] = _object_of(response)
            if response.status_code != ACCEPTED:
                return answer
            asking.waiting = True
            while answer.get("state") == "waiting":
                try:
                    news = await self._wait_for_news(asking.claim_id, asking.bound_s)
                except ClaimNotFound:
                    break
                if news.claim is not None:
                    return news.claim
                if news.error is not None:
                    asking.waiting = False
                    raise error_of_problem(news.error)

    async def _wait_for_news(self, claim_id: str, within_s: float) -> ClaimNews:
        sent = self.transport.send(routes.GET_CLAIM, {"claim_id": claim_id}, headers=HOLD, within_s=within_s)
        return self.transport.read(await sent, ClaimNews)

    async def _leave(self, asking: _Asking, abandon: bool) -> bool:
        """Stop waiting for a claim, and give it up if *abandon* is set.

        Giving up goes on in the background when it takes long, or when the caller is cancelled once more.

        Returns:
            True if it is certain that nothing is left of the claim.
        """
        asking.last = True
        if not abandon:
            asking.cancel()
            return False
        giving_up = asyncio.create_task(self._give_up(asking))
        _GIVING_UP.add(giving_up)
        giving_up.add_done_callback(_GIVING_UP.discard)
        try:
            await asyncio.wait({giving_up}, timeout=GIVE_UP_TIMEOUT_S)
        finally:
            if not giving_up.done():
                giving_up.add_done_callback(partial(_warn_unless_given_up, asking.claim_id))
        return giving_up.done() and giving_up.result()

    async def _give_up(self, asking: _Asking) -> bool:
        """Leave the queue, and release what the claim has won nevertheless.

        The last request is waited for: a server that has not decided it yet would decide it later. Where its answer was
        lost and nothing is recorded, that may still come.
        """
        try:
            async with asyncio.timeout(GIVE_UP_FOR_S):
                if await asking.refused():
                    return True
                news = await self.transport.ask(routes.DELETE_CLAIM, ClaimNews, claim_id=asking.claim_id)
                claimed = news.claim or {}
                for claim in claimed.get("claims", [claimed] if claimed else []):
                    workspace = str(claim["workspace_id"])
                    await self.transport.ask(routes.RELEASE_WORKSPACE, ReleaseResult, workspace=workspace)
                return True
        except (PrebuildsError, TimeoutError):
            return False


class _Asking:
    """The requests of one claim, all under its id. One that is under way survives the cancellation of its caller."""

    def __init__(self, transport: Transport, request: ClaimTerms, claim_id: str, bound_s: float) -> None:
        self.claim_id = claim_id
        self.bound_s = bound_s
        self.last = False
        """Set when no further attempt may follow the one that is under way."""
        self.waiting = False
        """Whether the server has accepted the claim, and it has no answer yet."""
        self._transport = transport
        self._content = request.model_dump_json(exclude_defaults=True)
        self._task: asyncio.Task[httpx.Response] | None = None

    async def ask(self) -> httpx.Response:
        """Send the claim, and return its answer, which is a success."""
        sent = self._transport.send(
            routes.PUT_CLAIM,
            {"claim_id": self.claim_id},
            content=self._content,
            within_s=self.bound_s,
            going_on=lambda: not self.last,
        )
        self._task = asyncio.create_task(sent)
        return await asyncio.shield(self._task)

    async def refused(self) -> bool:
        """Wait for the request that is under way. Returns whether it was refused, so that nothing is left of it."""
        if self._task is None:
            return True
        try:
            await self._task
        except (StackUnreachable, StoreUnavailable, RequestFailed):
            return False
        except PrebuildsError:
            return True
        return False

    def cancel(self) -> None:
        """Drop the request that is under way; the server may still finish it."""
        if self._task is not None:
            self._task.cancel()


def _object_of(response: httpx.Response) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RequestFailed("the server answers a claim with what is no claim")
    return found


def _warn_unless_given_up(claim_id: str, giving_up: asyncio.Task[bool]) -> None:
    if giving_up.cancelled() or not giving_up.result():
        logger.warning("A claim may have won after its caller gave it up", extra={"claim_ids": [claim_id]})
