"""What may be claimed, and what a claim is answered with when it gets nothing. Pure functions: no database, no
clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Literal, TypeAlias, TypeVar
from uuid import UUID

from prebuilds.api import (
    ClaimTimedOut,
    InvalidInput,
    NoClaimablePrebuiltWorkspaces,
    PrebuildsError,
    RequestCanceled,
)
from prebuilds.payloads import ClaimRequest, ClaimsRequest, ClaimTerms, parse_claim_id, parse_path, waits_not
from prebuilds.planning.autostart import next_start
from prebuilds.store.claim_refusals import ClaimTarget
from prebuilds.vocabulary import MissReason, OnEmpty
from prebuilds.vocabulary.drills import is_drill_claim_id
from prebuilds.vocabulary.owners import RESERVED_RULE, is_system

Terms = TypeVar("Terms", bound=ClaimTerms)

UnservedOutcome: TypeAlias = Literal["canceled", "timed_out"]
"""How a claim ends that leaves the queue with nothing. These words stand in the histories of workflows."""
UNSERVED: dict[UnservedOutcome, Callable[[str], PrebuildsError]] = {
    "canceled": lambda claim_id: RequestCanceled("the claim was cancelled", {"claim_id": claim_id}),
    "timed_out": lambda claim_id: ClaimTimedOut("the claim's deadline came first", {"claim_id": claim_id}),
}
"""Makes the answer that the database keeps for such a claim's run, from the claim's id."""


def check_request(request: Terms) -> Terms:
    """Validate what came from outside, as far as that needs no database.

    Raises:
        InvalidInput: Naming each wrong field.
    """
    for field, user in (("owner", request.owner), ("initiator", request.initiator_or_owner)):
        if is_system(user):
            raise InvalidInput.field(field, RESERVED_RULE)
    if request.template is not None:
        template_path(request.template)
    else:
        preset_target(request.preset or "")
    if request.next_start_at is not None and request.autostart_schedule is None:
        raise InvalidInput.field(
            "next_start_at",
            "is for workspaces with a schedule",
            "give the schedule, too",
            inputs={"autostart_schedule": ""},
        )
    if request.on_empty is not OnEmpty.WAIT:
        for field in ("wait_timeout_seconds", "on_timeout"):
            if getattr(request, field) != type(request).model_fields[field].default:
                raise waits_not(field)
    return request


def check_claim_id(claim_id: str, *, members: int = 0) -> str:
    """Return *claim_id* if somebody may claim with it. Arguments are those of `parse_claim_id`.

    Raises:
        InvalidInput: It is no claim id, or it belongs to a drill: somebody who knows the drill's id could otherwise
            claim first.
    """
    parse_claim_id(claim_id, members=members)
    if is_drill_claim_id(claim_id):
        raise InvalidInput.field("claim_id", "drill/ before a UUID is the claim id of a drill", "choose another id")
    return claim_id


def template_path(template: str) -> Sequence[str]:
    """The names in `organization/template`.

    Raises:
        InvalidInput: *template* is not such a path.
    """
    return parse_path(template, 2, "template", "acme/python")


def preset_target(preset: str) -> ClaimTarget:
    """The preset that an id or a path `organization/template/preset` names.

    Raises:
        InvalidInput: *preset* is neither.
    """
    if "/" not in preset:  # trying to read a path as an id would cost more than reading the path
        with suppress(ValueError):
            return ClaimTarget(preset, preset_id=UUID(preset))
    return _target_at(preset)


@lru_cache(maxsize=1000)
def _target_at(path: str) -> ClaimTarget:
    """Parse a preset's path. The result is cached, since each claim needs it twice and most claims are of a few
    presets. An invalid path is not cached."""
    return ClaimTarget(path, path=tuple(parse_path(path, 3, "preset", "acme/python/small")))


def with_next_start(request: ClaimRequest, now: datetime) -> ClaimRequest:
    """*request* with the first automatic start after *now*, unless it names one or has no schedule.

    Raises:
        InvalidInput: The schedule cannot be read, also when a first start is named.
    """
    if request.autostart_schedule is None:
        return request
    start = next_start(request.autostart_schedule, now)
    return request if request.next_start_at else request.model_copy(update={"next_start_at": start})


def requests_by_name(request: ClaimRequest, names: Sequence[str]) -> list[ClaimRequest]:
    """One request for each of *names*, otherwise like *request*."""
    return [request.model_copy(update={"name": name}) for name in names]


def first_of(request: ClaimsRequest) -> ClaimRequest:
    """The request for the first name of a batch. The others differ from it by their names alone."""
    return ClaimRequest(name=request.names[0], **request.model_dump(exclude={"names"}))


def nothing_ready(label: str, miss_reason: MissReason | None, more: str = "") -> NoClaimablePrebuiltWorkspaces:
    """The error of a claim that finds nothing ready.

    Args:
        label: What the message calls the preset.
        more: What the message says beside the reason.
    """
    no_pool = miss_reason is MissReason.NO_POOL
    return NoClaimablePrebuiltWorkspaces(
        f"no prebuild of {label} is ready ({miss_reason}){more}",
        {"miss_reason": miss_reason},
        remedy="give the preset instances, or have a workspace created" if no_pool else None,
        inputs={"on_empty": "create" if no_pool else "create or wait"},
    )
