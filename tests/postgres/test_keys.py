"""Keys: rotation during concurrent changes of the same rows, also twice at once; and the use of each key."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from cryptography.fernet import Fernet
from sqlalchemy.ext.asyncio import AsyncEngine
from typer.testing import CliRunner

from prebuilds.api import InvalidInput
from prebuilds.cli.app import command_tree
from prebuilds.operations.keys import rotate_keys, show_keys
from prebuilds.provisioners.terraform.state import Saved, pack, unpack
from prebuilds.settings.sealing import parse_key_ring
from prebuilds.settings.state_key import StateKeyUnusable
from prebuilds.store import resealing
from prebuilds.store.build_begin import save_state
from prebuilds.store.claim_secrets import load_request_key
from prebuilds.store.engine import create_claim_pool
from prebuilds.views import KeysReport
from prebuilds.vocabulary import build_id_of
from prebuilds.vocabulary.actors import OPERATOR
from tests.builders import make_preset
from tests.postgres.lifecycle_steps import secrets_of
from tests.postgres.pool_steps import begin_prebuilds, claim, make_ready
from tests.postgres.test_claim_secrets import SECRET, TOKEN, dump, store_of, wait_for
from tests.rows import do, events, one

OLD, NEW, LOST = (Fernet.generate_key().decode() for _ in range(3))
OLD_ID, NEW_ID, LOST_ID = (str(parse_key_ring(key).current) for key in (OLD, NEW, LOST))
SAVED = Saved(made_by=1, build=1, text=json.dumps({"password": SECRET}))


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, database_url: str) -> None:
    monkeypatch.setenv("PREBUILDS_DATABASE_URL", database_url)
    monkeypatch.setattr("prebuilds.store.resealing.BATCH", 1)
    monkeypatch.setattr("prebuilds.store.resealing.WINDOW", 2)


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool[asyncpg.Record]]:
    async with await create_claim_pool(database_url, size=4) as pool:
        yield pool


READ = "SELECT provisioner_state AS s FROM workspace_builds WHERE id = :id"


async def unname(engine: AsyncEngine, workspace_id: UUID) -> None:
    """Leave a state as the previous release saved it: without the id of its key."""
    statement = "UPDATE workspace_builds SET provisioner_state = provisioner_state - 'key' WHERE id = :id"
    await do(engine, statement, id=build_id_of(workspace_id, 1))


async def save(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, keys: str, workspace_id: UUID) -> dict[str, Any]:
    """Save a state for a workspace's first build, which runs, as a worker with these keys does."""
    monkeypatch.setenv("PREBUILDS_STATE_KEY", keys)
    state = pack(SAVED)
    await save_state(engine, build_id_of(workspace_id, 1), state, 1)
    return state


async def fill(
    engine: AsyncEngine, pool: asyncpg.Pool[asyncpg.Record], monkeypatch: pytest.MonkeyPatch, keys: str
) -> tuple[UUID, list[UUID]]:
    """A claimed workspace, a claim that waits, and four states, all sealed by *keys*; the ids of the workspaces."""
    preset = await make_preset(engine, instances=0)
    [mine] = await make_ready(engine, preset, 1)
    await load_request_key(engine, parse_key_ring(keys))
    await claim(store_of(pool, keys), preset, **TOKEN)
    await wait_for(store_of(pool, keys), await make_preset(engine, template="waits", instances=0), "w1")
    begun = await begin_prebuilds(engine, await make_preset(engine, template="vm"), 4)
    for workspace_id in begun:
        await save(engine, monkeypatch, keys, workspace_id)
    return mine, begun


def counted(report: KeysReport) -> dict[tuple[str | None, str], tuple[int, int, int, bool]]:
    return {(u.key, u.standing): (u.claims, u.waiting, u.states, u.request_key) for u in report.keys}


async def test_a_rotation_leaves_nothing_that_needs_the_old_key(
    engine: AsyncEngine, pool: asyncpg.Pool[asyncpg.Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, begun = await fill(engine, pool, monkeypatch, OLD)
    await unname(engine, begun[0])
    monkeypatch.setenv("PREBUILDS_STATE_KEY", f"{NEW},{OLD}")
    before = await show_keys()
    assert counted(before) == {(NEW_ID, "current"): (0, 0, 0, False), (OLD_ID, "older"): (1, 1, 4, True)}
    assert OLD not in before.model_dump_json()
    progress: list[str] = []
    done = await rotate_keys(OPERATOR, tell=progress.append)
    assert (done.changed_claims, done.changed_waiting, done.changed_states, done.unreadable) == (1, 1, 4, 0)
    assert done.complete
    assert progress[:2] == [
        "secrets of claims that wait: 1 encrypted anew",
        "secrets of claimed workspaces: 1 encrypted anew",
    ]
    assert progress[-1] == "saved states: 4 encrypted anew"
    assert counted(done) == {(NEW_ID, "current"): (1, 1, 4, True), (OLD_ID, "older"): (0, 0, 0, False)}
    assert [data for _, data in await events(engine, "keys_rotated")] == [
        {"key": NEW_ID, "claims": 1, "waiting": 1, "states": 4}
    ]

    monkeypatch.setenv("PREBUILDS_STATE_KEY", NEW)
    assert await secrets_of(engine, mine) == {"token": SECRET}
    for workspace_id in begun:
        row = await one(engine, READ, id=build_id_of(workspace_id, 1))
        assert unpack(row.s) == SAVED
    again = await rotate_keys(OPERATOR)
    assert (again.changed_claims, again.changed_waiting, again.changed_states) == (0, 0, 0)
    assert len(await events(engine, "keys_rotated")) == 1, "nothing was changed"


async def test_a_rotation_encrypts_plain_states_and_reports_unopenable_ones(
    engine: AsyncEngine, pool: asyncpg.Pool[asyncpg.Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, begun = await fill(engine, pool, monkeypatch, "")
    await save(engine, monkeypatch, LOST, begun[0])
    await save(engine, monkeypatch, LOST, begun[1])
    await unname(engine, begun[1])
    await save_state(engine, build_id_of(begun[2], 1), {"of": "another driver"}, 1)
    monkeypatch.setenv("PREBUILDS_STATE_KEY", NEW)
    done = await rotate_keys(OPERATOR)
    assert (done.changed_claims, done.changed_waiting, done.changed_states, done.unreadable) == (1, 1, 1, 2)
    assert counted(done) == {
        (NEW_ID, "current"): (1, 1, 1, True),
        (LOST_ID, "missing"): (0, 0, 1, False),
        (None, "missing"): (0, 0, 1, False),
    }
    assert not done.complete
    assert SECRET not in await dump(engine)


async def test_concurrent_rotations_change_each_value_once_and_keep_new_states(
    engine: AsyncEngine, pool: asyncpg.Pool[asyncpg.Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, begun = await fill(engine, pool, monkeypatch, OLD)
    monkeypatch.setenv("PREBUILDS_STATE_KEY", f"{NEW},{OLD}")
    later = Saved(made_by=1, build=1, text='{"serial": 9}')
    first, second = await asyncio.gather(rotate_keys(OPERATOR), rotate_keys(OPERATOR))
    assert first.changed_states + second.changed_states == 4, "each value is changed once"
    assert first.changed_claims + second.changed_claims == 1

    # A value that is saved between its reading and its writing is not overwritten.
    build_id = build_id_of(begun[0], 1)
    monkeypatch.setenv("PREBUILDS_STATE_KEY", OLD)
    await save_state(engine, build_id, pack(SAVED), 1)
    stale = (await one(engine, READ, id=build_id)).s
    await save_state(engine, build_id, pack(later), 1)
    async with engine.begin() as connection:
        change = {"id": build_id, "new": "{}", "before": stale["data"]}
        assert (await connection.execute(resealing.RESEAL_STATE, change)).rowcount == 0
    monkeypatch.setenv("PREBUILDS_STATE_KEY", f"{NEW},{OLD}")
    assert (await rotate_keys(OPERATOR)).changed_states == 1, "a worker that encrypts by the old key is met again"
    monkeypatch.setenv("PREBUILDS_STATE_KEY", NEW)
    assert await secrets_of(engine, mine) == {"token": SECRET}


async def test_a_rotation_goes_on_where_a_killed_one_was(
    engine: AsyncEngine, pool: asyncpg.Pool[asyncpg.Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(engine, pool, monkeypatch, OLD)
    monkeypatch.setenv("PREBUILDS_STATE_KEY", f"{NEW},{OLD}")

    class Killed(BaseException):
        pass

    progress: list[str] = []

    def die(line: str) -> None:
        progress.append(line)
        if line.startswith("saved states"):
            raise Killed

    with pytest.raises(Killed):
        await rotate_keys(OPERATOR, tell=die)
    done = int(progress[-1].split()[2])
    left = counted(await show_keys())
    assert left == {(NEW_ID, "current"): (1, 1, done, True), (OLD_ID, "older"): (0, 0, 4 - done, False)}
    assert 0 < done < 4
    assert (await rotate_keys(OPERATOR)).changed_states == 4 - done


async def test_a_rotation_without_the_keys_is_refused(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREBUILDS_STATE_KEY", raising=False)
    with pytest.raises(InvalidInput, match="PREBUILDS_STATE_KEY: is not set"):
        await rotate_keys(OPERATOR)
    await load_request_key(engine, parse_key_ring(OLD))
    monkeypatch.setenv("PREBUILDS_STATE_KEY", NEW)
    with pytest.raises(StateKeyUnusable, match=OLD_ID):
        await rotate_keys(OPERATOR)
    assert counted(await show_keys())[OLD_ID, "missing"] == (0, 0, 0, True)


def test_the_commands_name_keys_by_their_ids_alone(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(_load(database_url, OLD))
    monkeypatch.setenv("PREBUILDS_STATE_KEY", f"{NEW},{OLD}")
    monkeypatch.setattr(
        "prebuilds.cli.output.AS_JSON", False
    )  # a command before, in this process, may have asked for it
    tree, run = command_tree(["keys"]), CliRunner()
    shown = run.invoke(tree, ["keys", "show"])
    assert shown.exit_code == 0, shown
    assert OLD_ID in shown.output
    assert "`prebuilds keys rotate` encrypts anew" in shown.output
    rotated = run.invoke(tree, ["keys", "rotate"])
    assert rotated.exit_code == 0, rotated
    assert f"{OLD_ID} may be removed from PREBUILDS_STATE_KEY" in rotated.output
    assert not {key for key in (OLD, NEW) if key in shown.output + rotated.output}


async def _load(database_url: str, keys: str) -> None:
    from prebuilds.store.engine import create_engine

    engine = create_engine(database_url, application="tests", connections=2)
    await load_request_key(engine, parse_key_ring(keys))
    await engine.dispose()
