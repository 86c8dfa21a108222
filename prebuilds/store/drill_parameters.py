"""Reads which claim parameters a drill needs, and which environment variable has their values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from prebuilds.failures.database import ANY_FAULT, store_unavailable
from prebuilds.planning.drills import DrillPolicy

READ = """
    SELECT t.drill, p.claim_parameters
      FROM drills d JOIN templates t ON t.id = d.template_id JOIN presets p ON p.id = $2 WHERE d.id = $1
"""


@dataclass(frozen=True, slots=True)
class WantedParameters:
    """The claim parameters of a drill's claim."""

    variable: str
    """The environment variable that has their values."""
    names: Sequence[str]
    """The claim parameters that the preset lists."""


async def read_wanted(pool: asyncpg.Pool[Any], drill_id: UUID, preset_id: UUID) -> WantedParameters | None:
    """Read the claim parameters that a drill of a preset needs; None for none.

    Raises:
        StoreUnavailable: The database is away.
    """
    try:
        row = await pool.fetchrow(READ, drill_id, preset_id)
    except ANY_FAULT as error:
        raise store_unavailable(error) from error
    if row is None or not row["claim_parameters"]:
        return None
    variable = DrillPolicy.of_json(None if row["drill"] is None else json.loads(row["drill"])).parameters
    return None if variable is None else WantedParameters(variable, row["claim_parameters"])
