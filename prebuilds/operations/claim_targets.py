"""Which preset a claim means, and whether the preset lets the claim set what it sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg

from prebuilds.api import PresetNotFound, TemplateNotFound
from prebuilds.operations.claim_requests import preset_target, template_path
from prebuilds.payloads import ClaimRequest
from prebuilds.planning.choose import PresetOffer, check_parameters, choose_preset, find_near_miss
from prebuilds.store.claim_offers import offer_of_preset, offers_of_template, template_exists
from prebuilds.store.claim_refusals import ClaimTarget
from prebuilds.store.near_misses import record_near_miss


async def find_target(
    pool: asyncpg.Pool[Any], request: ClaimRequest, claim_id: str | None = None
) -> tuple[ClaimRequest, ClaimTarget]:
    """Find the preset of a claim. A claim that names its preset and sets no parameters needs no statement here.

    Args:
        claim_id: A near miss is recorded under this id; None to record none.
    Returns:
        The request, with all its parameters among `claim_parameters`, and the preset. A preset that the request names
        may not exist; the claim's own statement refuses it then.
    Raises:
        TemplateNotFound, PresetNotFound: The claim names a template that does not exist, or none of its presets fits.
        InvalidInput: Naming each parameter that the preset does not let a claim set.
        StoreUnavailable: The database is away.
    """
    if request.template is not None:
        path = template_path(request.template)
        offers = await offers_of_template(pool, *path)
        if not offers and not await template_exists(pool, *path):
            raise TemplateNotFound(f"no template {request.template}", {"template": "does not exist"})
        near = find_near_miss(offers, request.parameters, choose_preset(offers, request.parameters))
        if near is not None and claim_id is not None:  # such a claim gets no prebuild, so this slows no hit
            await record_near_miss(pool, near, claim_id, request)
        offer = choose_offer(request, offers)
        target = ClaimTarget(f"{request.template}/{offer.name}", preset_id=offer.id)
        return with_claim_parameters(request, offer), target
    target = preset_target(request.preset or "")
    if not (request.parameters or request.claim_parameters):
        return request, target
    named = await offer_of_preset(pool, target)
    if named is None:
        return request, target
    if request.parameters.keys() - named.claim_parameters:  # an older version may have other parameters
        target = ClaimTarget(target.label, preset_id=named.id)
    return with_claim_parameters(request, named), target


def choose_offer(request: ClaimRequest, offers: Sequence[PresetOffer]) -> PresetOffer:
    """Choose the preset that a claim by template means.

    Raises:
        PresetNotFound: None of *offers* fits the request's parameters.
    """
    offer = choose_preset(offers, request.parameters)
    if offer is None:
        raise PresetNotFound(
            f"no preset of {request.template} fits these parameters",
            {"parameters": "fit no preset"},
            remedy="give all parameters of one, or have a default preset without parameters made",
        )
    return offer


def with_claim_parameters(request: ClaimRequest, offer: PresetOffer) -> ClaimRequest:
    """*request* with every value that its preset lets a claim set among its `claim_parameters`.

    Raises:
        InvalidInput: Naming each parameter that the preset does not let a claim set.
    """
    given = check_parameters(offer, request.parameters, request.claim_parameters, chosen=request.template is not None)
    return request.model_copy(update={"claim_parameters": given})
