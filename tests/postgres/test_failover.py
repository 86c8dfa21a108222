"""A promoted standby is noticed by a process that has seen data that it lacks, and only then.

Claims go on at the other host of their URL, and a synchronous standby loses no reported answer.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from prebuilds.api import StoreUnavailable
from prebuilds.background.witness import HostWitness
from prebuilds.stack.postgres import DATABASE, USER, EmbeddedPostgres
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import create_claim_pool, create_engine
from prebuilds.store.events import record_event
from prebuilds.store.loop import read_control
from prebuilds.store.migrate import migrate
from tests.builders import make_preset
from tests.conftest import execute
from tests.postgres.pool_steps import claim, make_ready
from tests.standby import Standby

CATCH_UP_S = 30.0
CLAIMS, CLAIMERS = 80, 8


@pytest.fixture
def start() -> Iterator[Callable[[EmbeddedPostgres], EmbeddedPostgres]]:
    with ExitStack() as started:

        def start(server: EmbeddedPostgres) -> EmbeddedPostgres:
            started.callback(server.stop)
            server.start()
            return server

        yield start


async def ask(server: EmbeddedPostgres, question: str) -> Any:
    engine = create_engine(server.url)
    async with engine.connect() as connection:
        answer = await connection.scalar(text(question))
    await engine.dispose()
    return answer


async def what_is_found(server: EmbeddedPostgres, state_dir: Path) -> str | None:
    """Return the loss that a worker finds when it continues with *server*."""
    engine = create_engine(server.url)
    await HostWitness(engine, state_dir, "h1").contact()
    found = (await read_control(engine)).restore_found
    await engine.dispose()
    return found


async def test_a_promoted_standby_is_noticed_only_where_it_lost_something(
    tmp_path: Path, start: Callable[[EmbeddedPostgres], EmbeddedPostgres]
) -> None:
    primary = start(EmbeddedPostgres(tmp_path / "primary", durable=False))
    engine = create_engine(primary.url)
    await migrate(engine)
    behind = start(Standby(tmp_path / "behind", primary, follows=False))
    whole = start(Standby(tmp_path / "whole", primary, follows=True))
    async with engine.begin() as connection:
        await record_event(connection, "claim_prebuilt", "alice")
    assert await what_is_found(primary, tmp_path) is None
    last = await ask(primary, "SELECT pg_current_wal_insert_lsn()::text")
    await engine.dispose()
    deadline = time.monotonic() + CATCH_UP_S
    while not await ask(whole, f"SELECT pg_last_wal_replay_lsn() >= '{last}'"):
        assert time.monotonic() < deadline
    primary.stop()

    assert await ask(whole, "SELECT pg_promote()")
    assert await what_is_found(whole, tmp_path) is None, "its timeline is another one, and nothing is lost"
    assert await ask(behind, "SELECT pg_promote()")
    found = await what_is_found(behind, tmp_path)
    assert found is not None
    assert found.startswith("host h1: event ")


async def test_claims_go_on_at_the_other_host_and_keep_reported_answers(
    tmp_path: Path, start: Callable[[EmbeddedPostgres], EmbeddedPostgres]
) -> None:
    primary = start(EmbeddedPostgres(tmp_path / "primary", durable=False))
    engine = create_engine(primary.url)
    await migrate(engine)
    preset = await make_preset(engine)
    await make_ready(engine, preset, CLAIMS)
    await engine.dispose()
    standby = start(Standby(tmp_path / "standby", primary, follows=True))
    for setting in ("synchronous_standby_names = '*'", "synchronous_commit = on"):
        await execute(primary.url, f"ALTER SYSTEM SET {setting}")
    await execute(primary.url, "SELECT pg_reload_conf()")
    hosts = ",".join(str(server._socket_dir) for server in (primary, standby))
    url = f"postgresql://{USER}@/{DATABASE}?host={hosts}&target_session_attrs=read-write"
    answered, refused, half = {}, Counter[type[BaseException]](), asyncio.Event()

    async def claimer(store: ClaimStore, ids: list[str]) -> None:
        for claim_id in ids:
            while claim_id not in answered:
                try:
                    answered[claim_id] = (await claim(store, preset, claim_id, name=claim_id)).result
                except StoreUnavailable as error:  # asked again under its id, as Temporal does
                    refused[type(error.__cause__)] += 1
                    await asyncio.sleep(0.02)
            if len(answered) >= CLAIMS / 2:
                half.set()

    async def fail_over() -> None:
        await half.wait()
        os.kill(primary.pid or 0, signal.SIGKILL)
        assert await ask(standby, "SELECT pg_promote()")

    async with asyncio.timeout(CATCH_UP_S), await create_claim_pool(url, size=4) as pool:
        store, ids = ClaimStore(pool, enabled=True), [f"c{n}" for n in range(CLAIMS)]
        await asyncio.gather(fail_over(), *[claimer(store, ids[n::CLAIMERS]) for n in range(CLAIMERS)])
        found = {row["id"]: row["workspace_id"] for row in await pool.fetch("SELECT id, workspace_id FROM claims")}
    claimed = {claim_id: result.workspace_id for claim_id, result in answered.items() if result is not None}
    assert refused, "it happened under load"
    assert len(set(claimed.values())) == CLAIMS
    assert found == claimed
