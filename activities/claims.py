"""A claim's activities: check, decide in one transaction, answer, or wait. What follows an answer goes on behind it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity

from prebuilds.api import (
    ClaimTimedOut,
    InvalidInput,
    NoClaimablePrebuiltWorkspaces,
    PrebuildsError,
    PresetNotFound,
    RequestCanceled,
    TemplateNotFound,
    TemplateUnavailable,
)
from prebuilds.background.dispatch import Dispatcher
from prebuilds.payloads import (
    ClaimPlace,
    ClaimQueued,
    ClaimRequest,
    ClaimResult,
    ClaimRun,
    ClaimsRequest,
    ClaimsResult,
    ClaimTerms,
    parse_claim_id,
    parse_input,
    parse_path,
)
from prebuilds.planning.autostart import next_start
from prebuilds.planning.choose import check_parameters, choose_preset
from prebuilds.planning.rules import Rules
from prebuilds.store.claim_queue import ClaimQueue
from prebuilds.store.claim_refusals import ClaimTarget
from prebuilds.store.claims import Claimed, ClaimStore, batch_fence
from prebuilds.store.status import creation_is_held
from prebuilds.telemetry.metrics import METRICS
from prebuilds.vocabulary import MissReason, OnEmpty
from prebuilds.vocabulary.owners import RESERVED_RULE, is_system

Terms = TypeVar("Terms", bound=ClaimTerms)
T = TypeVar("T")
UNTARGETED = (PresetNotFound, TemplateNotFound, InvalidInput)
"""What finding a claim's preset is refused with, before the statement that knows the answers already given."""
TARGET_TRIES_MAX = 3
"""Of a claim by template; each further one is for a version that became active in between."""
Told: TypeAlias = Literal["canceled", "timed_out"]
TOLD: dict[Told, Callable[[str], PrebuildsError]] = {
    "canceled": lambda claim_id: RequestCanceled("the claim was cancelled", {"claim_id": claim_id}),
    "timed_out": lambda claim_id: ClaimTimedOut("the claim's deadline came first", {"claim_id": claim_id}),
}
"""What the database keeps as a run's answer when its claim leaves with nothing."""
Won: TypeAlias = Callable[[str, ClaimResult | ClaimsResult], None]
"""Told a claim's workflow id and its answer, which the database keeps from now on."""


class ClaimActivities:
    def __init__(
        self,
        engine: AsyncEngine,
        store: ClaimStore,
        dispatcher: Dispatcher,
        rules: Rules,
        won: Won | None = None,
    ) -> None:
        """*engine* is for what a claim asks only when nothing is ready; *won* is told of each win."""
        self._engine = engine
        self._store = store
        self._queue = ClaimQueue(store)
        self._dispatcher = dispatcher
        self._rules = rules
        self._won = won

    @activity.defn
    async def claim(self, raw: Any, claim_id: str, run: ClaimRun) -> ClaimResult | ClaimQueued:
        """Decide one claim. What it has won is its answer for good; a miss or a refusal is the answer of *run*, also
        when two attempts race.

        Raises:
            PrebuildsError: One of the contract's claim errors, by its type.
        """
        asked = _parse_claim(raw, claim_id)
        decide = self._claim_or_wait if asked.on_empty is OnEmpty.WAIT else self._claim
        decided = partial(decide, _with_next_start(asked), asked, claim_id, run)
        answer = await self._decided(asked, claim_id, run, decided)
        if self._won is not None and isinstance(answer, ClaimResult):
            self._won(activity.info().workflow_id or "", answer)
        return answer

    @activity.defn
    async def claim_all(self, raw: Any, claim_id: str, run: ClaimRun) -> ClaimsResult:
        """Decide many claims in one transaction, all or nothing.

        Raises:
            PrebuildsError: As for one claim; nothing was written for any but this answer of *run*.
        """
        asked = _parse_claims(raw, claim_id)
        if asked.on_empty is OnEmpty.WAIT:
            raise InvalidInput.field("on_empty", "wait is for single claims; use fail or create for many at once")
        terms = asked.model_dump(exclude={"names"})
        first = _with_next_start(ClaimRequest(name=asked.names[0], **terms))
        try:
            answer = await _of_active_version(asked, partial(self._claim_all, first, asked, claim_id, run))
        except PrebuildsError as error:
            answer = await self._refuse_all(asked, claim_id, run, error)
        if self._won is not None:
            self._won(activity.info().workflow_id or "", answer)
        return answer

    @activity.defn
    async def look_in_queue(self, claim_id: str, run: ClaimRun) -> ClaimPlace:
        """Where a waiting claim stands; an answer, once there is one, is taken."""
        return await self._queue.look(claim_id, run)

    @activity.defn
    async def leave_queue(self, raw: Any, claim_id: str, run: ClaimRun, told: Told | None) -> ClaimPlace:
        """Give a claim's place up, if it has one; a hand-over that has won is taken all the same. *told* is the answer
        of *run* from then on, whatever attempts at it are still under way; None when the run goes on."""
        asked = _parse_claim(raw, claim_id)
        told_error = None if told is None else TOLD[told](claim_id)
        workflow_id = activity.info().workflow_id or ""
        return await self._queue.leave(claim_id, workflow_id, self._store.request_hash(asked), run, told_error)

    @activity.defn
    async def cancel_all(self, raw: Any, claim_id: str, run: ClaimRun) -> ClaimsResult | None:
        """Make the cancellation of many claims the answer of *run*. Returns what an attempt has won before it."""
        try:
            return await self._refuse_all(_parse_claims(raw, claim_id), claim_id, run, TOLD["canceled"](claim_id))
        except RequestCanceled:
            return None

    @activity.defn
    async def create_instead(self, raw: Any, claim_id: str, run: ClaimRun) -> ClaimResult:
        """What a claim that waited in vain gets when it had asked for that."""
        asked = _parse_claim(raw, claim_id)
        create = _with_next_start(asked.model_copy(update={"on_empty": OnEmpty.CREATE}))
        return await self._decided(asked, claim_id, run, partial(self._claim, create, asked, claim_id, run))

    async def _decided(
        self, asked: ClaimRequest, claim_id: str, run: ClaimRun, decide: Callable[[], Awaitable[T]]
    ) -> T | ClaimResult:
        """What *decide* says. A refusal is recorded before it is told; what the claim has won, also in a preset that
        can no longer be told, is its answer all the same."""
        try:
            return await _of_active_version(asked, decide)
        except PrebuildsError as error:
            missed = isinstance(error, NoClaimablePrebuiltWorkspaces) and asked.on_empty is OnEmpty.FAIL
            if error.repeated or missed:  # the miss was recorded by the statement that found it
                raise
            hashed = self._store.request_hash(asked)
            if isinstance(error, UNTARGETED) and (before := await self._store.won([claim_id], hashed)):
                return before[0]
            answer = await self._store.answer_run(claim_id, hashed, run, error)
            if isinstance(answer, PrebuildsError):
                raise answer from error
            return answer

    async def _refuse_all(
        self, asked: ClaimsRequest, claim_id: str, run: ClaimRun, error: PrebuildsError
    ) -> ClaimsResult:
        """Make *error* the answer of a batch's run, and raise it; or return what the batch has won."""
        if error.repeated:
            raise error
        members, hashed = [f"{claim_id}/{n}" for n in range(len(asked.names))], self._store.request_hash(asked)
        if isinstance(error, UNTARGETED) and (before := await self._store.won(members, hashed)):
            return ClaimsResult(claim_id=claim_id, claims=before)
        answer = await self._store.answer_run(batch_fence(claim_id), hashed, run, error)
        if isinstance(answer, PrebuildsError):
            raise answer from error
        return ClaimsResult(claim_id=claim_id, claims=await self._store.won(members, hashed))

    async def _claim(self, wanted: ClaimRequest, asked: ClaimRequest, claim_id: str, run: ClaimRun) -> ClaimResult:
        """Claim what is *wanted*, for a request that came as *asked*."""
        with METRICS.time_claim() as measured:
            request, target = await self._target(wanted)
            hashed = self._store.request_hash(asked)
            claimed = await self._store.claim(claim_id, request, target, hashed, run)
            if claimed.result is None and claimed.miss_reason is MissReason.EMPTY:
                held = await creation_is_held(self._engine, claimed.preset_id, self._rules)
                claimed = await self._store.claim(claim_id, request, target, hashed, run, held=held)
            measured.source = claimed.result.source if claimed.result else None
        self._follow_up(claimed)
        if claimed.result is None:
            raise _nothing_ready(target, claimed)
        return claimed.result

    async def _claim_or_wait(
        self, wanted: ClaimRequest, asked: ClaimRequest, claim_id: str, run: ClaimRun
    ) -> ClaimResult | ClaimQueued:
        with METRICS.time_claim() as measured:
            request, target = await self._target(wanted)
            hashed = self._store.request_hash(asked)
            claimed = await self._store.claim(claim_id, request, target, hashed, run)
            if claimed.result is None:
                workflow_id = activity.info().workflow_id or ""
                waiting = await self._queue.enqueue(claim_id, workflow_id, request, target, claimed, hashed, run)
                if isinstance(waiting, ClaimQueued):
                    self._dispatcher.nudge([claimed.preset_id], urgent=True)  # its pool's target has one more now
                    return waiting
                claimed = waiting
            measured.source = claimed.result.source if claimed.result else None
        if claimed.result is None and asked.on_timeout == "create":  # there is no pool to wait for
            return await self._claim(wanted.model_copy(update={"on_empty": OnEmpty.CREATE}), asked, claim_id, run)
        self._follow_up(claimed)
        if claimed.result is None:
            raise _nothing_ready(target, claimed)
        return claimed.result

    async def _claim_all(
        self, wanted: ClaimRequest, asked: ClaimsRequest, claim_id: str, run: ClaimRun
    ) -> ClaimsResult:
        """Claim what is *wanted* by each of the names *asked* for."""
        request, target = await self._target(wanted)
        requests = [request.model_copy(update={"name": name}) for name in asked.names]
        hashed = self._store.request_hash(asked)
        claims = await self._store.claim_all(claim_id, requests, target, hashed, run, held=None)
        if claims[-1].result is None and claims[-1].miss_reason is MissReason.EMPTY:
            held = await creation_is_held(self._engine, claims[-1].preset_id, self._rules)
            claims = await self._store.claim_all(claim_id, requests, target, hashed, run, held=held)
        won = [c.result for c in claims if c.result is not None]
        if len(won) < len(asked.names):
            METRICS.claim_decided(claims[-1].labels, claims[-1].miss_reason)
            raise _nothing_ready(target, claims[-1], f"; {len(won)} of {len(asked.names)} would have been")
        for claim in claims:
            self._follow_up(claim)
        return ClaimsResult(claim_id=claim_id, claims=won)

    def _follow_up(self, claimed: Claimed) -> None:
        if not claimed.fresh:
            return
        METRICS.claim_decided(claimed.labels, claimed.miss_reason)
        if claimed.result is not None:
            if claimed.build_open:
                self._dispatcher.start_builds([claimed.result.build_id])
            self._dispatcher.nudge([claimed.preset_id])

    async def _target(self, request: ClaimRequest) -> tuple[ClaimRequest, ClaimTarget]:
        """Which preset is meant, and the request with its claim parameters sorted out."""
        path: Sequence[str] | None = None
        if request.template is not None:
            path = _template_path(request.template)
            offers = await self._store.offers(None, path)
            if not offers and not await self._store.template_exists(*path):
                raise TemplateNotFound(f"no template {request.template}", {"template": "does not exist"})
            offer = choose_preset(offers, request.parameters)
            if offer is None:
                raise PresetNotFound(
                    f"no preset of {request.template} fits these parameters; one fits when the claim gives all of its "
                    "parameters, and any claim fits a default preset that has none",
                    {"parameters": "fit no preset"},
                )
            target = ClaimTarget(f"{request.template}/{offer.name}", preset_id=offer.id)
        else:
            target = _preset_target(request.preset or "")
            if not (request.parameters or request.claim_parameters):
                return request, target  # the usual claim: one round trip in all
            offers = await self._store.offers(target, None)
            if not offers:
                return request, target  # the claim itself says what is missing
            offer = offers[0]
        given = check_parameters(
            offer, request.parameters, request.claim_parameters, chosen=request.template is not None
        )
        return request.model_copy(update={"claim_parameters": given}), target


def _parse_claim(raw: Any, claim_id: str) -> ClaimRequest:
    asked = check_request(parse_input(ClaimRequest, raw, "claim"))
    parse_claim_id(claim_id)
    return asked


def _parse_claims(raw: Any, claim_id: str) -> ClaimsRequest:
    asked = check_request(parse_input(ClaimsRequest, raw, "claims"))
    parse_claim_id(claim_id, members=len(asked.names))
    return asked


def check_request(request: Terms) -> Terms:
    """Validate what came from outside, as far as that needs no database.

    Raises:
        InvalidInput: Naming each wrong field.
    """
    for field, user in (("owner", request.owner), ("initiator", request.asked_by)):
        if is_system(user):
            raise InvalidInput.field(field, RESERVED_RULE)
    if request.template is not None:
        _template_path(request.template)
    else:
        _preset_target(request.preset or "")
    if request.next_start_at is not None and request.autostart_schedule is None:
        raise InvalidInput.field("next_start_at", "needs an autostart_schedule")
    if request.on_empty is not OnEmpty.WAIT:
        for field in ("wait_timeout_seconds", "on_timeout"):
            if getattr(request, field) != type(request).model_fields[field].default:
                raise InvalidInput.field(field, "needs on_empty wait")
    return request


async def _of_active_version(asked: ClaimTerms, decide: Callable[[], Awaitable[T]]) -> T:
    """What *decide* says; asked again when a version became active between its choice of a preset and its claim."""
    for tries_left in reversed(range(TARGET_TRIES_MAX)):
        try:
            return await decide()
        except TemplateUnavailable:
            if asked.template is None or not tries_left:
                raise
    raise AssertionError("the last try returns or raises")


def _with_next_start(request: ClaimRequest) -> ClaimRequest:
    if request.autostart_schedule is None:
        return request
    now: datetime = activity.info().started_time
    start = next_start(request.autostart_schedule, now)  # also when one is given: the schedule must be readable
    return request if request.next_start_at else request.model_copy(update={"next_start_at": start})


def _template_path(template: str) -> Sequence[str]:
    return parse_path(template, 2, "template", "acme/python")


def _preset_target(preset: str) -> ClaimTarget:
    try:
        return ClaimTarget(preset, preset_id=UUID(preset))
    except ValueError:
        return ClaimTarget(preset, path=parse_path(preset, 3, "preset", "acme/python/small"))


def _nothing_ready(target: ClaimTarget, claimed: Claimed, more: str = "") -> NoClaimablePrebuiltWorkspaces:
    remedy = "try again, or claim with on_empty create or wait"
    if claimed.miss_reason is MissReason.NO_POOL:
        remedy = "claim with on_empty create, or give the preset instances"
    return NoClaimablePrebuiltWorkspaces(
        f"no prebuild of {target.label} is ready ({claimed.miss_reason}){more}; {remedy}",
        {"miss_reason": claimed.miss_reason},
    )
