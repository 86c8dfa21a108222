"""Drills for tests: recorded and begun, without a Temporal."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from prebuilds.background.dispatch import Dispatcher
from prebuilds.store import drills
from tests.builders import MadePreset, apply_file, find_preset
from tests.postgres.pool_steps import RULES
from tests.rows import do, one

DRILL = {"schedule": "0 3 * * *", "timezone": "Europe/Berlin"}
SMALL = {"name": "small", "instances": 2}


class Recorded(Dispatcher):
    """Records the builds that it is asked to start, and ignores nudges."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine, Client.__new__(Client))
        self.builds: list[UUID] = []

    def start_builds(self, build_ids: Any) -> None:
        self.builds += build_ids

    def nudge(self, preset_ids: Any, *, urgent: bool = False) -> None:
        pass


async def drilled_preset(engine: AsyncEngine, *presets: dict[str, Any], **drill: Any) -> MadePreset:
    await apply_file(engine, *(presets or (SMALL,)), drill=DRILL | drill)
    return await find_preset(engine)


async def new_drill(engine: AsyncEngine, preset: MadePreset, wanted: str | None = None) -> UUID:
    """Make a drill like a scheduled one, of which any number may run."""
    drill_id = uuid4()
    values = {"id": drill_id, "template_id": preset.template_id, "wanted": wanted}
    await do(
        engine,
        "INSERT INTO drills (id, template_id, due_at, next_dispatch_at, wanted_preset)"
        " VALUES (:id, :template_id, now(), now(), :wanted)",
        **values,
    )
    return drill_id


async def begun(engine: AsyncEngine, preset: MadePreset) -> UUID:
    """A drill that has chosen its preset."""
    drill_id = await new_drill(engine, preset)
    found = await drills.begin_drill(engine, drill_id, RULES)
    assert found is not None
    assert found.preset_id == preset.id, found
    return drill_id


async def ready(engine: AsyncEngine) -> int:
    row = await one(engine, "SELECT count(*) AS n FROM workspaces WHERE claimable_preset_id IS NOT NULL")
    return int(row.n)
