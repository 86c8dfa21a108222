"""Checks who may claim, and who may see or end a claim."""

from __future__ import annotations

from fastapi import Request

from prebuilds.api import ClaimNotFound, Forbidden, InvalidInput, PresetNotFound
from prebuilds.http.authentication import check_allowed
from prebuilds.http.service import Service
from prebuilds.operations.direct_claims import ClaimFound, SomeRequest
from prebuilds.payloads import CLAIMS_MAX, ClaimsResult
from prebuilds.planning.policy import Action, Resource, may
from prebuilds.vocabulary.actors import Actor
from prebuilds.vocabulary.owners import same_owner


def with_initiator(body: SomeRequest, actor: Actor) -> SomeRequest:
    """Name the token's user as the initiator of a claim for somebody else that names none."""
    if body.initiator is not None or actor.user is None or same_owner(actor.user, body.owner):
        return body
    return body.model_copy(update={"initiator": actor.user})


async def check_may_claim(request: Request, service: Service, actor: Actor, body: SomeRequest) -> None:
    """Refuse a claim for people whom the actor may not claim for.

    Raises:
        Forbidden: Names the scope that would be enough.
    """
    people = (body.owner,) if body.initiator is None else (body.owner, body.initiator)
    resource = await _resource_of(service, actor, people, body.preset or body.template or "")
    check_allowed(request, actor, Action.CLAIM, resource)
    if body.create_owner:  # the claim may add a member of the organization
        check_allowed(request, actor, Action.CHANGE_MEMBERS, Resource(resource.organization))


async def find_claim(
    request: Request, service: Service, actor: Actor, claim_id: str, action: Action
) -> ClaimFound | ClaimsResult:
    """Return what is recorded of a claim, or of a batch that has won, if the actor may see or end it.

    Raises:
        ClaimNotFound: Nothing is, or the actor may not see it. Who may not see a claim does not learn that it exists.
        Forbidden: The actor may see it, but not do *action*. Names the scope that would be enough.
    """
    unknown = ClaimNotFound(f"no claim {claim_id} is recorded", {"claim_id": claim_id})
    found = await _find(service, claim_id)
    if found is None:
        raise unknown
    resources = [
        await _resource_of(service, actor, tuple(name for name in people if name), target or "")
        for *people, target in _parties(found)
    ]
    try:
        for resource in resources:
            check_allowed(request, actor, action, resource)
    except Forbidden:
        if all(may(actor, Action.SEE_CLAIM, resource) for resource in resources):
            raise
        raise unknown from None
    return found


def _parties(found: ClaimFound | ClaimsResult) -> set[tuple[str | None, str | None, str | None]]:
    """Return the owner, the initiator and the target of each claim."""
    if isinstance(found, ClaimFound):
        return {(found.owner, found.initiator, found.target)}
    return {(claim.owner, claim.initiator, str(claim.preset_id or "")) for claim in found.claims}


async def _find(service: Service, claim_id: str) -> ClaimFound | ClaimsResult | None:
    """Return what is recorded of a claim, or of a batch if no single claim of this id has won or goes on."""
    found = await service.direct.find(claim_id)
    if found is not None and (found.won is not None or not found.ended):
        return found
    return await service.direct.find_batch(claim_id, CLAIMS_MAX) or found


async def _resource_of(service: Service, actor: Actor, people: tuple[str, ...], target: str) -> Resource:
    """What the policy is asked about. Which organization a preset's id belongs to is looked up only where that matters.

    Args:
        target: The preset's path or id, or its template's path; empty when it is not known.
    """
    organization = target.split("/", 1)[0] if "/" in target else None
    if organization is None and target and not all(scope.organization is None for scope in actor.scopes):
        try:
            organization = (await service.direct.path_of(target)).split("/", 1)[0]
        except (PresetNotFound, InvalidInput):
            organization = None
        if not any(scope.organization in (None, organization) for scope in actor.scopes):
            organization = None  # a preset of others is refused in the same words as one that never was
    return Resource(organization, people)
