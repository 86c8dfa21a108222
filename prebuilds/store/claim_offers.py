"""The presets that a claim may choose from, with the parameters that decide it."""

from __future__ import annotations

import json
from typing import Any

import asyncpg

from prebuilds.failures.database import ANY_FAULT, store_unavailable
from prebuilds.planning.choose import PresetOffer
from prebuilds.store.claim_refusals import ClaimTarget

_OFFER = """
    SELECT p.id, p.name, p.is_default, p.desired_instances IS NOT NULL AS has_pool, p.claim_parameters,
           coalesce((SELECT jsonb_object_agg(x.name, x.value) FROM preset_parameters x WHERE x.preset_id = p.id), '{}')
               AS parameters
"""
OFFERS = f"""
    {_OFFER}
      FROM organizations o
      JOIN templates t ON t.organization_id = o.id AND t.name = $2 AND t.deleted_at IS NULL
      JOIN presets p ON p.template_version_id = t.active_version_id
     WHERE o.name = $1
"""
OFFER_BY_ID = f"{_OFFER} FROM presets p WHERE p.id = $1"
TEMPLATE_EXISTS = """
    SELECT EXISTS (SELECT FROM templates t JOIN organizations o ON o.id = t.organization_id
                    WHERE o.name = $1 AND t.name = $2 AND t.deleted_at IS NULL) AS found
"""


async def offers_of_template(pool: asyncpg.Pool[Any], organization: str, template: str) -> list[PresetOffer]:
    """The presets of a template's active version; empty when there is no such live template.

    Raises:
        StoreUnavailable: The database is away.
    """
    return [_offer(row) for row in await _fetch(pool, OFFERS, organization, template)]


async def offer_of_preset(pool: asyncpg.Pool[Any], target: ClaimTarget) -> PresetOffer | None:
    """The preset that *target* names, of whatever version when by id; None when there is none.

    Raises:
        StoreUnavailable: The database is away.
    """
    if target.preset_id is not None:
        return next((_offer(row) for row in await _fetch(pool, OFFER_BY_ID, target.preset_id)), None)
    if target.path is None:
        return None
    organization, template, preset = target.path
    offers = await offers_of_template(pool, organization, template)
    return next((offer for offer in offers if offer.name == preset), None)


async def template_exists(pool: asyncpg.Pool[Any], organization: str, template: str) -> bool:
    """Whether a live template has this path.

    Raises:
        StoreUnavailable: The database is away.
    """
    [row] = await _fetch(pool, TEMPLATE_EXISTS, organization, template)
    return bool(row["found"])


async def _fetch(pool: asyncpg.Pool[Any], statement: str, *values: Any) -> list[asyncpg.Record]:
    try:
        return await pool.fetch(statement, *values)
    except ANY_FAULT as error:
        raise store_unavailable(error) from error


def _offer(row: asyncpg.Record) -> PresetOffer:
    return PresetOffer(
        id=row["id"],
        name=row["name"],
        is_default=row["is_default"],
        has_pool=row["has_pool"],
        parameters=json.loads(row["parameters"]),
        claim_parameters=frozenset(row["claim_parameters"]),
    )
