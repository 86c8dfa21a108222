"""The claim's one activity: check, decide in one transaction, answer; what follows goes on behind the answer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from temporalio import activity

from prebuilds.api import InvalidInput, NoClaimablePrebuiltWorkspaces, PresetNotFound, TemplateNotFound
from prebuilds.dispatch import Dispatcher
from prebuilds.metrics import METRICS
from prebuilds.payloads import PREBUILDS_USER, ClaimRequest, ClaimResult, OnEmpty, parse_input, parse_path
from prebuilds.planning.autostart import next_start
from prebuilds.planning.choose import check_parameters, choose_preset
from prebuilds.store.claims import Claimed, ClaimStore, ClaimTarget, request_hash


class ClaimActivities:
    def __init__(self, store: ClaimStore, dispatcher: Dispatcher) -> None:
        self._store = store
        self._dispatcher = dispatcher

    @activity.defn
    async def claim(self, raw: Any, claim_id: str) -> ClaimResult:
        """Decide one claim. The same claim id again gets the same answer, also when two attempts race.

        Raises:
            PrebuildsError: One of the contract's claim errors, by its type.
        """
        with METRICS.time_claim() as measured:
            asked = check_request(raw)
            request, target = await self._target(_with_next_start(asked, activity.info().started_time))
            claimed = await self._store.claim(claim_id, request, target, request_hash(asked))
            measured.source = claimed.result.source if claimed.result else None
        if claimed.fresh:
            self._follow_up(claimed)
        if claimed.result is None:
            raise NoClaimablePrebuiltWorkspaces(
                f"no prebuild of {target.label} is ready ({claimed.miss_reason}); "
                "try again, or claim with on_empty create",
                {"miss_reason": claimed.miss_reason},
            )
        return claimed.result

    def _follow_up(self, claimed: Claimed) -> None:
        METRICS.claim_decided(claimed.labels, claimed.miss_reason)
        if claimed.result is not None:
            self._dispatcher.start_builds([claimed.result.build_id])
            self._dispatcher.nudge([claimed.preset_id])

    async def _target(self, request: ClaimRequest) -> tuple[ClaimRequest, ClaimTarget]:
        """Which preset is meant, and the request with its claim parameters sorted out."""
        path: Sequence[str] | None = None
        if request.template is not None:
            path = parse_path(request.template, 2, "template", "acme/python")
            offers = await self._store.offers(None, path)
            if not offers and not await self._store.template_exists(*path):
                raise TemplateNotFound(f"no template {request.template}", {"template": "does not exist"})
            offer = choose_preset(offers, request.parameters)
            if offer is None:
                raise PresetNotFound(
                    f"no preset of {request.template} fits these parameters, and it has no default one",
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


def check_request(raw: Any) -> ClaimRequest:
    """Validate what came from outside, as far as that needs no database.

    Raises:
        InvalidInput: Naming each wrong field.
    """
    request = parse_input(ClaimRequest, raw, "claim")
    for field, user in (("owner", request.owner), ("initiator", request.asked_by)):
        if user == PREBUILDS_USER:
            raise InvalidInput.field(field, "prebuilds is the system's own user; name a person or a service")
    if request.on_empty is OnEmpty.WAIT:
        raise InvalidInput.field("on_empty", "wait is not supported by this release; use fail or create")
    if request.next_start_at is not None and request.autostart_schedule is None:
        raise InvalidInput.field("next_start_at", "needs an autostart_schedule")
    return request


def _with_next_start(request: ClaimRequest, now: datetime) -> ClaimRequest:
    if request.autostart_schedule is None:
        return request
    start = next_start(request.autostart_schedule, now)  # also when one is given: the schedule must be readable
    return request if request.next_start_at else request.model_copy(update={"next_start_at": start})


def _preset_target(preset: str) -> ClaimTarget:
    try:
        return ClaimTarget(preset, preset_id=UUID(preset))
    except ValueError:
        return ClaimTarget(preset, path=parse_path(preset, 3, "preset", "acme/python/small"))
