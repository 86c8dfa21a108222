"""Claims that miss a preset by one parameter are recorded and reported."""

from __future__ import annotations

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import NoClaimablePrebuiltWorkspaces, PresetNotFound
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import create_claim_pool
from prebuilds.store.near_misses import SHOWN_MIN, read_near_misses
from prebuilds.views.pools import NearMissRow
from tests.builders import apply_file, find_preset
from tests.postgres.pool_steps import Desk, make_ready
from tests.rows import do, one

EU = {"size": "small", "region": "eu"}


async def read_rows(engine: AsyncEngine, preset: str | None = None) -> list[NearMissRow]:
    async with engine.connect() as connection:
        return await read_near_misses(connection, preset)


async def recorded(engine: AsyncEngine) -> int:
    return int((await one(engine, "SELECT count(*) AS n FROM events WHERE kind = 'claim_near_miss'")).n)


async def test_near_misses_are_recorded(engine: AsyncEngine, database_url: str) -> None:
    small = {"name": "small", "instances": 5, "parameters": EU}
    await apply_file(engine, small)
    await make_ready(engine, await find_preset(engine), 5)
    async with await create_claim_pool(database_url, size=2) as pool:
        desk = Desk(engine, ClaimStore(pool, enabled=True))

        async def ask(claim_id: str, **parameters: str) -> None:
            await desk.ask(claim_id, preset=None, template="acme/python", parameters=EU | parameters)

        await ask("hit")
        assert await recorded(engine) == 0, "a hit writes nothing more"
        with pytest.raises(PresetNotFound):
            await ask("far", size="large", region="asia")
        assert await recorded(engine) == 0
        for n in range(SHOWN_MIN):
            assert not await read_rows(engine)
            with pytest.raises(PresetNotFound):
                await ask(f"c{n}", region="asia")
        assert await read_rows(engine) == [
            NearMissRow(preset="acme/python/small", parameter="region", missed=SHOWN_MIN, claims=SHOWN_MIN)
        ]
        with pytest.raises(PresetNotFound):
            await ask("c1", region="asia")
        assert await recorded(engine) == SHOWN_MIN, "tried again, it is the same claim"

        await apply_file(engine, small, {"name": "any", "default": True})
        with pytest.raises(NoClaimablePrebuiltWorkspaces):
            await ask("default", region="asia")
        assert (await read_rows(engine))[0].missed == SHOWN_MIN + 1, "a preset without a pool serves nobody"
    await do(
        engine,
        "INSERT INTO preset_demand SELECT template_id, name, now() - interval '1 day', ARRAY[9, 0, 0, 0, 0, 1], 9"
        " FROM presets WHERE name = 'small'",
    )
    assert [near.claims for near in await read_rows(engine, "acme/python/small")] == [SHOWN_MIN + 11]
    assert not await read_rows(engine, "acme/python/any")
    await do(engine, "UPDATE events SET at = at - interval '15 days'")
    assert not await read_rows(engine)
