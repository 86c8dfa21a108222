"""A claim's secrets in the database: sealed by the state key, in one place, gone with the workspace."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest
from cryptography.fernet import Fernet
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import ClaimIdReused
from prebuilds.payloads import ClaimQueued, ClaimRequest
from prebuilds.settings.sealing import parse_key_ring
from prebuilds.settings.state_key import StateKeyUnusable
from prebuilds.store.build_begin import SecretsUnreadable, begin_build
from prebuilds.store.claim_queue import ClaimQueue
from prebuilds.store.claim_refusals import ClaimTarget
from prebuilds.store.claim_secrets import (
    check_request_key,
    forget_request_key,
    load_request_key,
)
from prebuilds.store.claims import ClaimStore, hash_request
from prebuilds.store.engine import create_claim_pool
from prebuilds.store.lifecycle import retry_workspace, stop_workspace
from prebuilds.store.people import refuse_waiting, remove_all_members
from prebuilds.store.resealing import reseal_claims
from prebuilds.store.tables import metadata
from prebuilds.store.workspaces import release_workspace
from prebuilds.vocabulary import build_id_of
from tests.builders import MadePreset, make_preset
from tests.postgres.lifecycle_steps import DEV, FAILED, claimed, row_of, run, secrets_of
from tests.postgres.pool_steps import claim, make_ready, new_run
from tests.rows import one

OLD, NEW = (Fernet.generate_key().decode() for _ in range(2))
SECRET = "hunter2-8c1f"
TOKEN = {"claim_parameters": {"token": SECRET}}


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool[asyncpg.Record]]:
    async with await create_claim_pool(database_url, size=4) as pool:
        yield pool


def store_of(pool: asyncpg.Pool[asyncpg.Record], keys: str) -> ClaimStore:
    return ClaimStore(pool, enabled=True, ring=parse_key_ring(keys))


async def dump(engine: AsyncEngine, but: str = "") -> str:
    """Return every row of every table except *but* as text."""
    async with engine.connect() as connection:
        rows = [
            str(row)
            for table in metadata.tables
            if table != but
            for row in await connection.scalars(text(f"SELECT t::text FROM {table} t"))
        ]
    return "\n".join(rows)


async def wait_for(store: ClaimStore, preset: MadePreset, claim_id: str) -> ClaimQueued:
    """One claim in the queue of an empty pool."""
    fields = {"preset": str(preset.id), "owner": "alice", "name": claim_id, "on_empty": "wait", **TOKEN}
    request = ClaimRequest.model_validate(fields)
    target = ClaimTarget("acme/python/small", preset_id=preset.id)
    hashed = store.hash_request(request)
    run, workflow_id = new_run(), f"claim-workspace/{claim_id}"
    missed = await store.claim(claim_id, request, target, hashed, run, held=False)
    queued = await ClaimQueue(store).join(claim_id, workflow_id, request, target, missed, hashed, run)
    assert isinstance(queued, ClaimQueued)
    return queued


async def test_with_a_key_no_row_has_the_secret(
    engine: AsyncEngine, pool: asyncpg.Pool[asyncpg.Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREBUILDS_STATE_KEY", NEW)
    store = store_of(pool, NEW)
    dev = await claimed(engine, store, **TOKEN)
    await claim(store, await make_preset(engine, template="other", instances=0), on_empty="create", **TOKEN)
    assert SECRET not in await dump(engine)
    assert await secrets_of(engine, dev) == {"token": SECRET}
    await stop_workspace(engine, DEV, "alice")
    await run(engine, dev)
    assert SECRET not in await dump(engine)
    await release_workspace(engine, DEV, "alice")
    assert await secrets_of(engine, dev) == {"token": SECRET}, "the deletion may need it"
    await run(engine, dev, FAILED)
    assert await secrets_of(engine, dev) == {"token": SECRET}, "and so may its repeat"
    await retry_workspace(engine, DEV, "alice")
    await run(engine, dev)
    assert await secrets_of(engine, dev) == {}
    assert (await one(engine, "SELECT count(*) AS n FROM claim_secrets")).n == 1, "another workspace's stays"


async def test_without_a_key_one_row_has_it_until_the_deletion(
    engine: AsyncEngine, pool: asyncpg.Pool[asyncpg.Record]
) -> None:
    dev = await claimed(engine, store_of(pool, ""), **TOKEN)
    await stop_workspace(engine, DEV, "alice")
    await run(engine, dev)
    assert SECRET not in await dump(engine, but="claim_secrets")
    assert (await dump(engine)).count(SECRET) == 1
    await release_workspace(engine, DEV, "alice")
    await run(engine, dev)
    assert SECRET not in await dump(engine)


async def test_a_waiting_claims_secret_is_sealed_and_goes_along(
    engine: AsyncEngine, pool: asyncpg.Pool[asyncpg.Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = await make_preset(engine, instances=0)
    await make_preset(engine, template="waits", instances=0)
    store = store_of(pool, NEW)
    await wait_for(store, preset, "w1")
    assert SECRET not in await dump(engine)
    [workspace_id] = await make_ready(engine, preset, 1)  # by processes that have no key
    assert (await one(engine, "SELECT secrets, decided_at IS NOT NULL AS decided FROM claim_queue"))[:] == (None, True)
    assert (await row_of(engine, workspace_id)).name == "w1"
    assert SECRET not in await dump(engine)
    monkeypatch.setenv("PREBUILDS_STATE_KEY", f"{OLD},{NEW}")
    assert await secrets_of(engine, workspace_id) == {"token": SECRET}


async def test_without_the_key_a_start_fails_and_nothing_is_lost(
    engine: AsyncEngine, pool: asyncpg.Pool[asyncpg.Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    dev = await claimed(engine, store_of(pool, NEW), handed_over=False, **TOKEN)
    with pytest.raises(SecretsUnreadable) as unreadable:
        await begin_build(engine, build_id_of(dev, 2))
    assert "PREBUILDS_STATE_KEY" in str(unreadable.value.error)
    assert unreadable.value.facts.attempt == 1, "it has begun, so that it can be ended as failed"
    monkeypatch.setenv("PREBUILDS_STATE_KEY", OLD)
    with pytest.raises(SecretsUnreadable):
        await begin_build(engine, build_id_of(dev, 2))
    monkeypatch.setenv("PREBUILDS_STATE_KEY", NEW)
    await run(engine, dev)
    assert await secrets_of(engine, dev) == {"token": SECRET}
    monkeypatch.delenv("PREBUILDS_STATE_KEY")
    await stop_workspace(engine, DEV, "alice")
    _, stop = await begin_build(engine, build_id_of(dev, 3))
    assert stop is not None
    assert (stop.claim_parameters, stop.claim_parameters_withheld) == ({}, True), "the driver is told that some exist"
    await run(engine, dev)
    await release_workspace(engine, DEV, "alice")
    await run(engine, dev)  # a lost key keeps nobody from deleting
    assert (await one(engine, "SELECT count(*) AS n FROM claim_secrets")).n == 0


async def test_a_worker_without_the_deployments_key_is_refused(engine: AsyncEngine) -> None:
    clear = await load_request_key(engine, parse_key_ring(""))
    assert await load_request_key(engine, parse_key_ring("")) == clear, "the same for every worker"
    assert await load_request_key(engine, parse_key_ring(OLD)) == clear, "and after a key was set"
    assert clear.hex() not in await dump(engine)
    for keys in ("", NEW):
        with pytest.raises(StateKeyUnusable, match=r"PREBUILDS_STATE_KEY.*--forget-state-key"):
            await load_request_key(engine, parse_key_ring(keys))
        with pytest.raises(StateKeyUnusable):
            await check_request_key(engine, parse_key_ring(keys))
    assert await load_request_key(engine, parse_key_ring(f"{NEW},{OLD}")) == clear, "rotated"
    assert await load_request_key(engine, parse_key_ring(NEW)) == clear
    assert str(parse_key_ring(NEW).current) in await check_request_key(engine, parse_key_ring(NEW))
    await forget_request_key(engine)
    assert await load_request_key(engine, parse_key_ring("")) != clear


async def test_a_requests_hash_is_keyed(pool: asyncpg.Pool[asyncpg.Record], engine: AsyncEngine) -> None:
    preset = await make_preset(engine, instances=0)
    await make_ready(engine, preset, 2)
    target = ClaimTarget("acme/python/small", preset_id=preset.id)
    request = ClaimRequest.model_validate({"preset": str(preset.id), "owner": "alice", "name": "dev", **TOKEN})
    key = await load_request_key(engine, parse_key_ring(""))
    store = ClaimStore(pool, enabled=True, request_key=key)
    first = await store.claim("c1", request, target, store.hash_request(request), new_run(), held=False)
    kept = await one(engine, "SELECT request_hash FROM claims")
    assert kept.request_hash == hash_request(request, key) != hash_request(request)
    again = ClaimStore(pool, enabled=True, request_key=await load_request_key(engine, parse_key_ring(OLD)))
    assert (
        await again.claim("c1", request, target, again.hash_request(request), new_run(), held=False)
    ).result == first.result
    other = request.model_copy(update={"claim_parameters": {"token": "x"}})
    with pytest.raises(ClaimIdReused):
        await again.claim("c1", other, target, again.hash_request(other), new_run(), held=False)


async def test_a_new_key_seals_what_there_is(
    engine: AsyncEngine, pool: asyncpg.Pool[asyncpg.Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prebuilds.store.resealing.BATCH", 1)
    preset = await make_preset(engine, instances=0)
    made: list[UUID] = []
    for keys in ("", OLD, ""):
        made += await make_ready(engine, preset, 1)
        await claim(store_of(pool, keys), preset, **TOKEN)
    await wait_for(store_of(pool, ""), await make_preset(engine, template="waits", instances=0), "w1")

    async def sealed(keys: str) -> int:
        return (await reseal_claims(engine, parse_key_ring(keys))).changed.total()

    assert await sealed("") == 0
    assert await sealed(NEW) == 3, "two of them and the waiting one; not the old key's"
    assert SECRET not in await dump(engine)
    assert await sealed(f"{NEW},{OLD}") == 1
    assert await sealed(NEW) == 0
    monkeypatch.setenv("PREBUILDS_STATE_KEY", NEW)
    for workspace_id in made:
        assert await secrets_of(engine, workspace_id) == {"token": SECRET}


async def test_a_waiting_claim_whose_owner_was_removed_keeps_no_secret(
    engine: AsyncEngine, pool: asyncpg.Pool[asyncpg.Record]
) -> None:
    preset = await make_preset(engine, instances=0, claim_parameters=["token"])
    await wait_for(store_of(pool, ""), preset, "hers")
    assert SECRET in await dump(engine)
    await remove_all_members(engine, "acme", ["alice"], "ops")
    await refuse_waiting(engine)
    assert SECRET not in await dump(engine)
