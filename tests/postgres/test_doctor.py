"""The doctor's findings from the database: presets whose creations are held until an operator acts."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.doctor import Check, examine
from prebuilds.operations.tokens import TokenOperations
from prebuilds.settings import Settings
from prebuilds.store.loop import pause
from prebuilds.store.presets import lift_holds
from prebuilds.store.rollout_list import read_rollout
from prebuilds.store.snapshots import snapshot_transaction
from prebuilds.store.status import read_status_on
from prebuilds.vocabulary.actors import Actor
from tests.builders import apply_file, find_preset, make_preset
from tests.postgres.pool_steps import RULES, fail, make_ready
from tests.postgres.rollout_steps import roll, run_pass
from tests.rows import do

PATH = "acme/python/small"
TARGET = {"hit_rate": 0.99, "wait_p95_seconds": None, "min": 0, "max": 40, "max_idle": None, "mode": "act"}


@pytest.fixture(autouse=True)
def _no_temporal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Temporal's address is a port at which nothing listens and nothing else can."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("TEMPORAL_ADDRESS", f"127.0.0.1:{taken.getsockname()[1]}")
        yield


async def check_of(database_url: str, name: str) -> Check:
    checks = (await examine(Settings(database_url=database_url))).checks
    return next(check for check in checks if check.name == name)


async def presets_check(database_url: str) -> Check:
    return await check_of(database_url, "presets")


@pytest.mark.parametrize(
    ("reason", "failures", "error_type"),
    [("hard_limited", 3, "ProvisionFailed"), ("validation_failed", 1, "InvalidSource")],
)
async def test_a_preset_that_is_held_until_somebody_acts_is_found(
    engine: AsyncEngine, database_url: str, reason: str, failures: int, error_type: str
) -> None:
    preset = await make_preset(engine)
    assert (await presets_check(database_url)).ok
    await fail(engine, preset, failures, error_type)
    found = await presets_check(database_url)
    assert (found.ok, found.detail) == (False, f"creations are held until somebody acts: {PATH} ({reason})")
    assert (found.remedy or "").endswith(f"run `prebuilds presets resume {PATH}`")
    await pause(engine, "ops", "a pause hides nothing")
    assert await presets_check(database_url) == found
    await lift_holds(engine, PATH, RULES, "ops")
    assert (await presets_check(database_url)).ok


async def test_temporary_holds_and_empty_presets_pass_the_check(engine: AsyncEngine, database_url: str) -> None:
    await fail(engine, await make_preset(engine, template="backs-off"), 1)
    await fail(engine, await make_preset(engine, template="wants-none", instances=0), 3)
    assert (await presets_check(database_url)).ok
    nightly = {"timezone": "UTC", "schedule": [{"cron": "* 3 1 1 *", "instances": 1}]}
    await fail(engine, await make_preset(engine, template="new-year", instances=0, **nightly), 3)
    assert "acme/new-year/small (hard_limited)" in ((await presets_check(database_url)).detail or "")


async def test_a_pool_without_instances_that_follows_its_target_wants_prebuilds(
    engine: AsyncEngine, database_url: str
) -> None:
    await fail(engine, await make_preset(engine, instances=0), 3)
    await do(engine, f"UPDATE presets SET target = '{json.dumps(TARGET)}'")
    assert f"{PATH} (hard_limited)" in ((await presets_check(database_url)).detail or "")


async def test_the_doctor_reports_unclaimed_presets(engine: AsyncEngine, database_url: str) -> None:
    preset = await make_preset(engine)
    await make_preset(engine, template="without-prebuilds")
    await make_ready(engine, preset, 1)
    assert (await presets_check(database_url)).detail == "none is held until somebody acts", "it is too young"
    await do(engine, "UPDATE presets SET created_at = created_at - interval '15 days'")
    found = await presets_check(database_url)
    assert (found.ok, (found.detail or "").partition("; ")[2]) == (
        True,
        f"with prebuilds that nobody claimed for 14 days: {PATH}",
    )
    await do(
        engine,
        "INSERT INTO preset_demand SELECT template_id, name, now() - interval '1 day', ARRAY[1, 0, 0, 0, 0, 0], 0"
        " FROM presets",
    )
    assert (await presets_check(database_url)).detail == "none is held until somebody acts"


async def test_the_doctor_reports_near_misses_by_preset(engine: AsyncEngine, database_url: str) -> None:
    await make_preset(engine)
    await do(
        engine,
        "INSERT INTO events (kind, actor, preset_id, claim_id, data) SELECT 'claim_near_miss', 'alice', id, 'c' || n,"
        """ '{"preset": "small", "parameter": "region"}' FROM presets, generate_series(1, 38) AS n""",
    )
    await do(
        engine, "INSERT INTO preset_demand SELECT template_id, name, now(), ARRAY[62, 0, 0, 0, 0, 0], 60 FROM presets"
    )
    assert ((await presets_check(database_url)).detail or "").partition("; ")[2] == (
        f"claims in 14 days: 38 of 100 missed {PATH} by region alone"
    )


async def test_the_doctor_names_the_first_of_many_presets(engine: AsyncEngine, database_url: str) -> None:
    for template in "abcdefg":
        await fail(engine, await make_preset(engine, template=template), 3)
    found = await presets_check(database_url)
    assert (found.detail or "").endswith("acme/e/small (hard_limited), 2 more")
    assert "`prebuilds presets resume P`" in (found.remedy or "")


async def test_the_doctor_reports_a_rollout_without_room_for_its_surge(engine: AsyncEngine, database_url: str) -> None:
    """The rollout stalls, as beside a full quota, and continues when it may delete one prebuild first."""
    small = {"name": "small", "instances": 4}
    await apply_file(engine, small | {"parameters": {"n": "1"}}, limits={"pool_members": 4})
    await make_ready(engine, await find_preset(engine), 4)
    assert (await check_of(database_url, "limits")).ok
    new = small | {"parameters": {"n": "2"}}
    await apply_file(engine, new)
    assert await run_pass(engine) == 0
    [pool] = (await read_rollout(engine, "acme/python", RULES)).pools
    assert (pool.old_ready, pool.held, pool.lacks_room) == (4, "pool_members", True)
    async with snapshot_transaction(engine) as connection:
        found = await read_status_on(connection, RULES)
    [warning] = [warning for row in found.presets for warning in row.warnings]
    assert warning.startswith(
        "rollout_lacks_room:the organization's pool_members leaves no room for the surge: raise it"
    )
    check = await check_of(database_url, "limits")
    assert not check.ok
    assert (check.detail or "").endswith("leaves no room for the surge: " + PATH)
    await apply_file(engine, new, rollout={"max_unavailable": 1})
    await roll(engine)
    assert (await read_rollout(engine, "acme/python", RULES)).state == "succeeded"
    assert (await check_of(database_url, "limits")).ok


async def test_the_doctor_reports_tokens_unconfirmed_since_a_restore(engine: AsyncEngine, database_url: str) -> None:
    tokens = TokenOperations(engine)
    for name in ("kept", "leaked", "late"):
        await tokens.create(Actor("ops"), name, ["read"])
    assert (await check_of(database_url, "tokens")).ok
    await do(engine, "UPDATE settings SET epoch = gen_random_uuid()")
    await do(engine, "UPDATE tokens SET expires_at = now(), created_at = now() - interval '1 day' WHERE name = 'late'")
    found = await check_of(database_url, "tokens")
    assert (found.ok, (found.detail or "").partition(",")[0]) == (False, "2 are refused until somebody confirms them")
    assert "prebuilds tokens confirm NAME" in (found.remedy or "")
    await tokens.confirm(Actor("ops"), None)
    assert (await check_of(database_url, "tokens")).ok


async def test_a_repeated_examination_omits_the_trials(database_url: str) -> None:
    settings = Settings(database_url=database_url)
    every, without = await examine(settings), await examine(settings, trials=False)
    assert {check.name for check in every.checks} - {check.name for check in without.checks} == {"fairness"}
