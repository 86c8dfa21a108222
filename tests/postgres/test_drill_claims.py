"""Claims of drills: never of the last ready prebuild, and nobody's demand."""

from __future__ import annotations

import asyncio
import json
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import ClaimIdReused, InvalidInput, NoClaimablePrebuiltWorkspaces
from prebuilds.background.demand import DemandCounter
from prebuilds.operations.drill_claims import DrillClaims
from prebuilds.store.claims import ClaimStore
from prebuilds.store.limits import list_limits
from prebuilds.store.people import members_except
from prebuilds.store.pools import read_hour
from prebuilds.vocabulary import DRILL_USER, DRILL_USER_ID
from prebuilds.vocabulary.drills import drill_claim_id
from tests.builders import apply_file
from tests.postgres.drill_steps import DRILL, SMALL, Recorded, begun, drilled_preset, ready
from tests.postgres.http_steps import serving
from tests.postgres.pool_steps import Desk, claim, make_ready, new_run
from tests.rows import do, one


@pytest.fixture
def taking(engine: AsyncEngine, store: ClaimStore) -> DrillClaims:
    return DrillClaims(store, Recorded(engine))


async def test_a_drill_takes_a_prebuild_as_the_system_user(engine: AsyncEngine, taking: DrillClaims) -> None:
    preset = await drilled_preset(engine)
    ids = await make_ready(engine, preset, 2)
    drill_id = await begun(engine, preset)
    run = new_run()
    claimed = await taking.take(drill_id, preset.id, run)
    assert (claimed.workspace_id, claimed.owner, claimed.initiator, claimed.source) == (
        ids[0],
        DRILL_USER,
        DRILL_USER,
        "prebuilt",
    )
    assert await taking.take(drill_id, preset.id, run) == claimed, "an attempt whose answer was lost"
    assert await taking.take(drill_id, preset.id, new_run()) == claimed, "the drill's workflow was started again"
    assert await ready(engine) == 1
    row = await one(
        engine,
        "SELECT u.name, b.stage FROM workspace_builds b JOIN users u ON u.id = b.initiator_id WHERE b.number = 2",
    )
    assert (row.name, row.stage) == (DRILL_USER, "claim")


async def test_a_drill_never_takes_the_last_prebuild(
    engine: AsyncEngine, taking: DrillClaims, store: ClaimStore
) -> None:
    preset = await drilled_preset(engine)
    await make_ready(engine, preset, 2)
    drill_id, run = await begun(engine, preset), new_run()
    await claim(store, preset)
    with pytest.raises(NoClaimablePrebuiltWorkspaces, match="can be spared"):
        await taking.take(drill_id, preset.id, run)
    await make_ready(engine, preset, 1)
    with pytest.raises(NoClaimablePrebuiltWorkspaces, match="can be spared"):
        await taking.take(drill_id, preset.id, run)  # a late attempt of a run that has this answer
    assert await ready(engine) == 2


async def test_an_expired_prebuild_does_not_count_as_spare(engine: AsyncEngine, taking: DrillClaims) -> None:
    preset = await drilled_preset(engine)
    ids = await make_ready(engine, preset, 2)
    drill_id = await begun(engine, preset)
    await do(engine, "UPDATE workspaces SET expires_at = now() - interval '1 second' WHERE id = :id", id=ids[0])
    with pytest.raises(NoClaimablePrebuiltWorkspaces):
        await taking.take(drill_id, preset.id, new_run())


async def test_drills_leave_one_however_many_want_it(
    engine: AsyncEngine, taking: DrillClaims, store: ClaimStore
) -> None:
    """Six drills and a person at the same time, over four prebuilds."""
    preset = await drilled_preset(engine)
    for _ in range(10):
        await do(engine, "UPDATE workspaces SET claimable_preset_id = NULL, claim_build_id = NULL, expires_at = NULL")
        await make_ready(engine, preset, 4)
        ids = [await begun(engine, preset) for _ in range(6)]

        async def drill(drill_id: UUID) -> UUID | None:
            try:
                return (await taking.take(drill_id, preset.id, new_run())).workspace_id
            except NoClaimablePrebuiltWorkspaces:
                return None

        person, *drilled = await asyncio.gather(claim(store, preset), *[drill(drill_id) for drill_id in ids])
        taken = [workspace_id for workspace_id in drilled if workspace_id is not None]
        assert person.result is not None, "a person never misses for a drill"
        assert person.result.workspace_id not in taken
        assert len(set(taken)) == len(taken) <= 3
        assert await ready(engine) == 4 - len(taken) - 1


async def test_a_claim_under_a_drills_id_is_not_the_drills(
    engine: AsyncEngine, taking: DrillClaims, store: ClaimStore
) -> None:
    preset = await drilled_preset(engine)
    await make_ready(engine, preset, 3)
    drill_id = await begun(engine, preset)
    await claim(store, preset, drill_claim_id(drill_id))
    with pytest.raises(ClaimIdReused):
        await taking.take(drill_id, preset.id, new_run())


async def test_a_drills_claim_id_is_refused_to_others(
    engine: AsyncEngine, database_url: str, taking: DrillClaims, store: ClaimStore
) -> None:
    """A caller who reads a drill's id could otherwise claim with the drill's claim id first."""
    preset = await drilled_preset(engine)
    await make_ready(engine, preset, 3)
    drill_id = await begun(engine, preset)
    claim_id, desk = drill_claim_id(drill_id), Desk(engine, store)
    for claiming in (
        desk.ask(claim_id),
        desk.ask(claim_id, on_empty="wait"),
        desk.ask_all(claim_id, ["a", "b"]),
    ):
        with pytest.raises(InvalidInput) as refused:
            await claiming
        assert list(refused.value.details) == ["claim_id"]
    async with serving(engine, database_url) as server:
        answer = await server.put(claim_id.replace("/", "%2F"))
        assert (answer.status_code, list(answer.json()["errors"])) == (422, ["claim_id"])
    assert (await one(engine, "SELECT count(*) AS n FROM claims")).n == 0
    assert (await desk.ask("drill/bits")).source == "prebuilt", "any other id is free"  # type: ignore[union-attr]
    assert (await taking.take(drill_id, preset.id, new_run())).source == "prebuilt"


async def test_a_drill_sends_its_workers_claim_parameters(engine: AsyncEngine, store: ClaimStore) -> None:
    small = SMALL | {"claim_parameters": ["token"]}
    preset = await drilled_preset(engine, small, parameters="DRILL_PARAMETERS")
    await make_ready(engine, preset, 3)
    drill_id, run = await begun(engine, preset), new_run()
    lacking = DrillClaims(store, Recorded(engine), {})
    with pytest.raises(InvalidInput, match="DRILL_PARAMETERS is not set"):
        await lacking.take(drill_id, preset.id, run)
    value = json.dumps({"token": "hunter2", "of_another_preset": "x"})
    taking = DrillClaims(store, Recorded(engine), {"DRILL_PARAMETERS": value})
    claimed = await taking.take(drill_id, preset.id, new_run())
    kept = await one(
        engine, "SELECT sealed ->> 'data' AS data FROM claim_secrets WHERE workspace_id = :id", id=claimed.workspace_id
    )
    assert json.loads(kept.data) == {"token": "hunter2"}
    assert await lacking.take(drill_id, preset.id, new_run()) == claimed, "it has won, whatever became of the variable"
    events = await one(engine, "SELECT string_agg(data::text, '') AS data FROM events")
    assert "hunter2" not in events.data


async def test_a_drill_counts_in_no_demand_figure_or_person(
    engine: AsyncEngine, taking: DrillClaims, store: ClaimStore
) -> None:
    preset = await drilled_preset(engine)
    await make_ready(engine, preset, 3)
    await taking.take(await begun(engine, preset), preset.id, new_run())
    await claim(store, preset)
    counter = DemandCounter(engine)
    for _ in range(3):
        await counter.step()
    assert (await one(engine, "SELECT sum((SELECT sum(n) FROM unnest(claims) n)) AS n FROM preset_demand")).n == 1
    assert (await read_hour(engine, [preset.id]))[preset.id].claims == 1
    async with engine.connect() as connection:
        assert await members_except(connection, preset.organization_id, ["alice", "bob"]) == []
    await apply_file(engine, SMALL, drill=DRILL, members=["alice"])
    found = await one(engine, f"SELECT count(*) AS n FROM organization_members WHERE user_id = '{DRILL_USER_ID}'")
    assert found.n == 1


async def test_the_limits_of_an_organization_are_the_peoples(
    engine: AsyncEngine, taking: DrillClaims, store: ClaimStore
) -> None:
    preset = await drilled_preset(engine)
    await make_ready(engine, preset, 5)
    limits = {"workspaces": 1, "workspaces_per_member": 1, "claims_per_minute": 1}
    await do(engine, "UPDATE organizations SET limits = CAST(:limits AS jsonb)", limits=json.dumps(limits))
    for _ in range(2):
        await taking.take(await begun(engine, preset), preset.id, new_run())
    assert (await claim(store, preset)).result is not None, "drills count in none of them"
    await taking.take(await begun(engine, preset), preset.id, new_run())
    async with engine.connect() as connection:
        assert {row.limit: row.used for row in await list_limits(connection)} == limits
