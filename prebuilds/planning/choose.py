"""Which preset a claim means, when it names a template and parameters; and whether its parameters fit."""

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
    """The preset with the most parameters that all occur in the request; None when none fits.

    A preset without parameters fits only when it is the template's default. Ties: one with a pool, then by name.
    """
    fitting = [
        offer
        for offer in offers
        if (offer.parameters or offer.is_default)
        and all(parameters.get(name) == value for name, value in offer.parameters.items())
    ]
    return min(fitting, key=lambda o: (-len(o.parameters), not o.has_pool, o.name), default=None)


def check_parameters(
    offer: PresetOffer, parameters: Mapping[str, str], claim_parameters: Mapping[str, str], *, chosen: bool
) -> dict[str, str]:
    """Check what a claim sets against what its preset allows.

    Args:
        parameters: May repeat the preset's values, and set those that are listed as claim parameters.
        claim_parameters: Only those listed.
        chosen: Whether the preset was chosen by these parameters; then others may be of other presets.
    Returns:
        The claim parameters for the provisioner.
    Raises:
        InvalidInput: Naming each parameter that is wrong.
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
        text = "; ".join(f"{field}: {message}" for field, message in wrong.items())
        raise InvalidInput(f"claim is not valid: {text}", wrong)
    return given
