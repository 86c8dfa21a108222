"""Chooses the preset for a claim that names a template and parameters, and checks a claim's parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from prebuilds.api import InvalidInput


@dataclass(frozen=True, slots=True)
class PresetOffer:
    """One preset of an active version, as a claim sees it."""

    id: UUID
    name: str
    is_default: bool
    has_pool: bool
    parameters: Mapping[str, str]
    claim_parameters: frozenset[str]


def choose_preset(offers: Sequence[PresetOffer], parameters: Mapping[str, str]) -> PresetOffer | None:
    """Return the preset with the most parameters that all occur in the request; None when no preset fits.

    A preset without parameters fits only when it is the template's default. Among equals, a preset with a pool comes
    first, then the order of names decides.
    """
    fitting = [
        offer
        for offer in offers
        if (offer.parameters or offer.is_default)
        and all(parameters.get(name) == value for name, value in offer.parameters.items())
    ]
    return min(fitting, key=lambda o: (-len(o.parameters), not o.has_pool, o.name), default=None)


@dataclass(frozen=True, slots=True)
class NearMiss:
    """A preset with a pool that a claim would have got if one of its parameters had another value."""

    offer: PresetOffer
    parameter: str


def find_near_miss(
    offers: Sequence[PresetOffer], parameters: Mapping[str, str], chosen: PresetOffer | None
) -> NearMiss | None:
    """Return the preset that a claim has missed by one parameter; None if the claim gets a preset with a pool, or if
    there is no such preset.

    Args:
        chosen: The preset that `choose_preset` has chosen for the claim.
    Returns:
        Among several presets, the one with the most parameters; among equal ones, the first by name.
    """
    if chosen is not None and chosen.has_pool:
        return None
    near = [
        NearMiss(offer, differing[0])
        for offer in offers
        if offer.has_pool
        and len(differing := [name for name, value in offer.parameters.items() if parameters.get(name) != value]) == 1
        and (differing[0] in parameters or len(offer.parameters) > 1)
    ]
    return min(near, key=lambda miss: (-len(miss.offer.parameters), miss.offer.name), default=None)


def check_parameters(
    offer: PresetOffer, parameters: Mapping[str, str], claim_parameters: Mapping[str, str], *, chosen: bool
) -> dict[str, str]:
    """Check a claim's parameters against what its preset allows.

    Args:
        parameters: They may repeat the preset's own values, and set parameters that the preset lists as claim
            parameters.
        claim_parameters: They may set only parameters that the preset lists as claim parameters.
        chosen: Whether the preset was chosen by *parameters*. If so, names that the preset does not know are allowed,
            since other presets of the template may have them.
    Returns:
        The claim parameters for the provisioner.
    Raises:
        InvalidInput: Some parameters are not allowed; the details name each of them.
    """
    wrong: dict[str, str] = {}
    given = dict(claim_parameters)
    for name, value in parameters.items():
        if name in offer.claim_parameters:
            given.setdefault(name, value)
        elif name in offer.parameters and offer.parameters[name] != value:
            wrong[f"parameters.{name}"] = f"is {offer.parameters[name]!r} in preset {offer.name} and cannot be changed"
        elif name not in offer.parameters and not chosen:
            wrong[f"parameters.{name}"] = f"is no parameter of preset {offer.name}"
    for name in claim_parameters:
        if name not in offer.claim_parameters:
            allowed = ", ".join(sorted(offer.claim_parameters)) or "none"
            wrong[f"claim_parameters.{name}"] = f"is not a claim parameter of preset {offer.name} (allowed: {allowed})"
    if wrong:
        raise InvalidInput.fields(wrong, "claim")
    return given
