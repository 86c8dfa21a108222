"""The schema is brought from the release before to this one, step by step, beside claims of both."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import count
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import create_claim_pool, create_engine, dsn_of
from prebuilds.store.migrate import PREVIOUS_REVISION, check_schema, migrate
from prebuilds.store.migration_lock import LOCK, POLL_S
from prebuilds.store.schema_versions import config, versions_from
from prebuilds.vocabulary import build_id_of
from tests.builders import MadePreset
from tests.postgres.pool_steps import claim, new_run, workspace_ids
from tests.postgres.test_migrations import read_catalog
from tests.rows import add_prebuild, do, one

PREBUILDS = 30
CLAIMERS = 3
CLAIM_MAX_S = 5.0
"""The longest that a claim may take beside a step, with much room for a busy machine: a step's locks last 0.1 s."""
MIGRATION_MAX_S = 60.0
"""It takes two seconds, and for ever when an index waits for the snapshot of a migration's own transaction."""
CLAIM_BEFORE = """
    SELECT answer, build_is_open((answer ->> 'build_id')::uuid) AS build_open
      FROM claim_workspace($1, $2, $3, NULL, NULL, NULL, 'alice', 'alice', $4, NULL, NULL, NULL, NULL, 'create', true,
                           false, $5, $6, NULL, $7, $8, NULL, NULL)
"""
"""A claim as the release before asks for it."""
OTHERS_BEGUN = """
    SELECT count(*) FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
"""
PRESET = MadePreset(id=uuid4(), version_id=uuid4(), template_id=uuid4(), organization_id=uuid4())
ALICE = uuid4()


@pytest.fixture
async def engine(empty_database_url: str) -> AsyncIterator[AsyncEngine]:
    """A database made by the previous release, with a pool, and alice, who may claim from it."""
    from alembic import command

    engine = create_engine(empty_database_url, connections=6, statement_timeout=None)
    async with engine.begin() as connection:
        await connection.run_sync(lambda sync: command.upgrade(config(sync), PREVIOUS_REVISION))
    of = {"o": PRESET.organization_id, "t": PRESET.template_id, "v": PRESET.version_id, "p": PRESET.id, "u": ALICE}
    for statement in (
        "INSERT INTO organizations (id, name) VALUES (:o, 'acme')",
        "INSERT INTO users (id, name, key) VALUES (:u, 'alice', 'alice')",
        "INSERT INTO organization_members (organization_id, user_id) VALUES (:o, :u)",
        "INSERT INTO templates (id, organization_id, name) VALUES (:t, :o, 'python')",
        """
        INSERT INTO template_versions (id, template_id, number, provisioner, queue, source)
        VALUES (:v, :t, 1, 'process', 'q', '{}')
        """,
        """
        INSERT INTO presets (id, template_version_id, template_id, name, desired_instances)
        VALUES (:p, :v, :t, 'small', 0)
        """,
        "UPDATE templates SET active_version_id = :v WHERE id = :t",
    ):
        await do(engine, statement, **{name: value for name, value in of.items() if f":{name}" in statement})
    for n in range(PREBUILDS):
        await add_prebuild(engine, PRESET, timedelta(seconds=n))
    yield engine
    await engine.dispose()


class Before:
    """A claims worker of the release before, which claims until it is stopped."""

    def __init__(self, url: str, name: str) -> None:
        self.claimed: dict[str, UUID] = {}
        self.longest_s = 0.0
        self.stopping = False
        self._url, self._name = url, name

    async def run(self) -> None:
        connection = await asyncpg.connect(dsn_of(self._url))
        try:
            for n in count():
                if self.stopping:
                    return
                run, workspace_id = new_run(), uuid4()
                arguments = (f"{self._name}-{n}", b"x", PRESET.id, f"{self._name}-{n}", workspace_id)
                began = time.monotonic()
                row = await connection.fetchrow(
                    CLAIM_BEFORE, *arguments, build_id_of(workspace_id, 1), run.id, run.began_at
                )
                self.longest_s = max(self.longest_s, time.monotonic() - began)
                assert row is not None
                assert row["build_open"]
                self.claimed[arguments[0]] = UUID(json.loads(row["answer"])["workspace_id"])
        finally:
            await connection.close()


async def test_claims_of_both_releases_go_on_beside_the_steps(
    engine: AsyncEngine, empty_database_url: str, database_url: str
) -> None:
    before = [Before(empty_database_url, f"b{n}") for n in range(CLAIMERS)]
    async with asyncio.TaskGroup() as group, await create_claim_pool(empty_database_url, size=4) as pool:
        for worker in before:
            group.create_task(worker.run())
        async with asyncio.timeout(MIGRATION_MAX_S):
            both = await asyncio.gather(migrate(engine), migrate(engine))  # one waits for the other
        done = max(both, key=lambda one: len(one.steps))
        await check_schema(engine)
        store = ClaimStore(pool, enabled=True)
        first = await add_prebuild(engine, PRESET, timedelta(days=1))
        after = [await claim(store, PRESET, f"after-{n}", on_empty="create") for n in range(10)]
        for worker in before:
            worker.stopping = True
    [version] = [version for version in versions_from(PREVIOUS_REVISION) if version.revision == done.now]
    assert sorted(len(one.steps) for one in both) == [0, len(version.expand)]
    assert done.steps == [step.name for step in version.expand]
    assert not done.finished
    claimed_ids = [*workspace_ids(after), *(id for worker in before for id in worker.claimed.values())]
    assert len(claimed_ids) == len(set(claimed_ids))
    assert first in claimed_ids
    counted = "SELECT count(*) AS n, count(*) FILTER (WHERE outcome = 'prebuilt') AS prebuilt FROM claims"
    row = await one(engine, counted)
    assert (row.n, row.prebuilt) == (len(claimed_ids), PREBUILDS + 1)
    assert max(worker.longest_s for worker in before) < CLAIM_MAX_S
    assert (await migrate(engine, finish=True)).finished
    fresh = create_engine(database_url)
    assert await read_catalog(engine) == await read_catalog(fresh)
    await fresh.dispose()


async def test_a_migration_that_waits_for_another_keeps_no_transaction_open(
    engine: AsyncEngine, empty_database_url: str
) -> None:
    """The other migration's index may meet a query's snapshot and then waits for its whole transaction."""
    holder = await asyncpg.connect(dsn_of(empty_database_url))
    waits = asyncio.Event()
    async with holder.transaction():
        await holder.fetchval("SELECT pg_advisory_xact_lock($1)", LOCK)
        waiting = asyncio.create_task(migrate(engine, tell=lambda _: waits.set()))
        async with asyncio.timeout(10):
            await waits.wait()
            while await holder.fetchval(OTHERS_BEGUN):
                await asyncio.sleep(POLL_S / 7)
                await holder.execute("SELECT pg_stat_clear_snapshot()")
        waiting.cancel()
        await asyncio.wait({waiting})
    await holder.close()
