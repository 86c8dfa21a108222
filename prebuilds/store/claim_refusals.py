"""The typed error of each refusal of a claim. The database says only which kind of refusal it is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prebuilds.api import (
    ClaimIdReused,
    DatabaseRestored,
    InitiatorNotFound,
    InvalidInput,
    LimitExceeded,
    NameTaken,
    NotAMember,
    OwnerNotFound,
    PrebuildsError,
    PrebuiltWorkspacesNotSupported,
    PresetNotFound,
    StoreUnavailable,
    TemplateNotFound,
    TemplateUnavailable,
    WorkspaceNotFound,
)
from prebuilds.payloads import ClaimRequest

REFUSED = "PB001"
"""The SQLSTATE by which the database's functions refuse; the message is the kind of refusal."""
LATE = "Late"
"""The kind of refusal for a statement that reaches the database after its attempt has ended."""
CLAIM_LIMITS = ("claims_per_minute", "workspaces", "workspaces_per_member")
"""The limits of an organization on claims."""
SUPERSEDED = "Superseded"
"""The kind of refusal for an attempt after a later run of the same claim has begun."""


class Superseded(ClaimIdReused):
    """A later run of the same claim has begun. To callers it is a `ClaimIdReused`."""

    @property
    def type(self) -> str:
        return ClaimIdReused.__name__


@dataclass(frozen=True, slots=True)
class ClaimTarget:
    """Which preset is claimed: by its id, or by its path, which names a preset of the template's active version."""

    label: str
    """The preset's name in messages."""
    preset_id: UUID | None = None
    path: Sequence[str] | None = None
    """Organization, template and preset. Either this or the id is None."""


def refusal(kind: str, request: ClaimRequest, target: ClaimTarget, claim_id: str) -> PrebuildsError:
    """The typed error of a refusal.

    Args:
        kind: What the database raised; an unknown kind, of another release, is an InvalidInput.
    """
    refusals: dict[str, PrebuildsError] = {
        "ClaimIdReused": reused(claim_id),
        SUPERSEDED: Superseded(
            f"claim id {claim_id} was asked for again by a later request, which has the answer",
            {"claim_id": claim_id},
            remedy="ask with the same id",
        ),
        LATE: StoreUnavailable("the database did not answer in time, and was reached too late"),
        "NameTaken": NameTaken(
            f"{request.owner} has a live workspace named {request.name}",
            {"name": "is taken"},
            remedy="choose another name or release it",
        ),
        "NameBeingDeleted": NameTaken(
            f"{request.owner}'s workspace {request.name} is being deleted, and has the name until it is gone",
            {"name": "is being deleted"},
            remedy="claim again in a moment, or choose another name",
        ),
        "NameNotDeleted": NameTaken(
            f"{request.owner}'s workspace {request.name} was released, but its deletion failed",
            {"name": "could not be deleted"},
            remedy=f"retry it with `prebuilds workspaces retry {request.owner}/{request.name}`, or choose another name",
        ),
        "OwnerNotFound": OwnerNotFound(
            f"owner {request.owner} is not known",
            {"owner": "is not known"},
            remedy="correct the name, or make them a member, with `prebuilds members add` or in the claim itself",
            inputs={"create_owner": ""},
        ),
        "InitiatorNotFound": InitiatorNotFound(
            f"initiator {request.initiator_or_owner} is not known",
            {"initiator": "is not known"},
            remedy="correct the name, or make them a member with `prebuilds members add`",
        ),
        "OwnerDisabled": OwnerNotFound(
            f"owner {request.owner} is disabled",
            {"owner": "is disabled"},
            remedy="let them claim again with `prebuilds users enable`",
        ),
        "InitiatorDisabled": InitiatorNotFound(
            f"initiator {request.initiator_or_owner} is disabled",
            {"initiator": "is disabled"},
            remedy="let them claim again with `prebuilds users enable`",
        ),
        "Transferred": transferred(claim_id),
        "PresetNotFound": PresetNotFound(
            f"no preset {target.label} on an active template version",
            {"preset": "does not exist"},
            remedy="correct it; `prebuilds presets list` has them all",
        ),
        "TemplateNotFound": TemplateNotFound(
            f"the template of preset {target.label} was deleted", {"template": "was deleted"}, remedy="apply it again"
        ),
        "TemplateUnavailable": TemplateUnavailable(
            f"the template of preset {target.label} is deprecated, or the preset is not of its active version",
            {"preset": "is not available"},
            remedy="claim organization/template/preset to get the active one",
        ),
        "NotAMember": NotAMember(
            f"owner {request.owner} is not a member of the organization of {target.label}",
            {"owner": "is not a member of the organization"},
            remedy="make them a member, with `prebuilds members add` or in the claim itself",
            inputs={"create_owner": ""},
        ),
        "DatabaseRestored": DatabaseRestored(
            "the database was restored and may not know who has which workspace, so nothing is given out",
            {"claim_id": claim_id},
            remedy="have an operator run `prebuilds restored`, then claim again with the same id",
        ),
        "PrebuiltWorkspacesNotSupported": PrebuiltWorkspacesNotSupported(
            f"prebuilds are switched off for {target.label}",
            remedy="have an ordinary workspace created",
            inputs={"on_empty": "create"},
        ),
    }
    return refusals.get(kind) or InvalidInput(f"the claim was refused: {kind}")


def limit_exceeded(facts: str | None, owner: str) -> LimitExceeded:
    """Return the error for a claim that a limit does not allow.

    Args:
        facts: The JSON object that the database function `admit_claim` adds to its refusal.
        owner: The claim's owner.
    """
    reached: dict[str, Any] = json.loads(facts or "{}")
    limit, maximum = reached.get("limit", ""), reached.get("maximum")
    organization, wait = reached.get("organization", "its organization"), reached.get("retry_after_seconds")
    whose = f"{owner}'s live workspaces in {organization}"
    if limit == "workspaces":
        whose = f"the live workspaces of {organization}"
    elif limit == "claims_per_minute":
        whose = f"the claims of {organization} within a minute"
    message = f"{limit} is {maximum}, and {whose} are {reached.get('used')}"
    details = {"organization": organization, "limit": limit, "maximum": maximum, "used": reached.get("used")}
    remedy = None if wait is None else f"claim again in {wait} s"
    return LimitExceeded(message, details | {"retry_after_seconds": wait}, remedy=remedy)


def beyond_limits(number: int, organization: str, limits: Mapping[str, int]) -> InvalidInput | None:
    """Return the error for a batch that is larger than a limit of its organization, so that waiting cannot help.

    Args:
        number: Number of workspaces in the batch.
    Returns:
        None if no limit is below that number.
    """
    below = [(maximum, limit) for limit in CLAIM_LIMITS if (maximum := limits.get(limit)) and maximum < number]
    if not below:
        return None
    maximum, limit = min(below)
    return InvalidInput.field(
        "names",
        f"{number} workspaces at once are never allowed, since {limit} of {organization} is {maximum}",
        remedy=f"ask for at most {maximum} at once, or have the limit raised",
    )


def reused(claim_id: str) -> ClaimIdReused:
    """The answer to another request under a claim's id."""
    return ClaimIdReused(
        f"claim id {claim_id} has won a workspace, or waits for one, with a different request",
        {"claim_id": claim_id},
        remedy="use a new id",
    )


def transferred(claim_id: str) -> WorkspaceNotFound:
    """The answer to a claim's id once its workspace was handed to another owner."""
    return WorkspaceNotFound(
        f"what claim {claim_id} has won was handed to another owner since",
        {"claim_id": claim_id},
        remedy="claim another with a new claim id",
    )


def unstorable(request: ClaimRequest, claim_id: str, error: Exception) -> InvalidInput:
    """The error of a claim with text that the database cannot store, such as a zero character; it names these
    fields."""
    fields = {"claim_id": claim_id, **request.model_dump(mode="json")}
    details = {name: "has a zero character; leave it out" for name, value in fields.items() if _has_zero(value)}
    faults = "; ".join(f"{field}: {message}" for field, message in details.items()) or str(error)
    return InvalidInput(f"the claim cannot be stored: {faults}", details)


def _has_zero(value: object) -> bool:
    if isinstance(value, dict):
        return any(_has_zero(part) for pair in value.items() for part in pair)
    return isinstance(value, str) and "\0" in value
