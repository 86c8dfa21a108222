"""A migration during use of the database blocks nobody, resumes after a kill, and locks out no process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import pytest
from alembic import command
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import MigrationBlocked, StackUnreachable
from prebuilds.cli import run
from prebuilds.store import expanding
from prebuilds.store import migrate as migrating
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import create_claim_pool, create_engine, dsn_of
from prebuilds.store.migrate import check_schema, current_revision, migrate, plan
from prebuilds.store.schema_steps import BackfillStep, IndexStep, OnlineStep, ShortStep, Step
from prebuilds.store.schema_versions import Version, config, versions_from
from tests.builders import make_preset
from tests.postgres.pool_steps import claim, make_ready, workspace_ids
from tests.postgres.test_migrations import read_catalog
from tests.rows import do, one

STEPS: tuple[Step, ...] = (
    ShortStep("note", ("ALTER TABLE workspaces ADD COLUMN note text", "ALTER TABLE claims ADD COLUMN note text")),
    ShortStep("note_check", ("ALTER TABLE workspaces ADD CONSTRAINT note_check CHECK (note <> '') NOT VALID",)),
    IndexStep("workspaces_note_idx", "workspaces (note) WHERE note IS NOT NULL"),
    BackfillStep("notes", "workspaces", "id", "note = name", "note IS NULL"),
    OnlineStep("note_check_valid", "ALTER TABLE workspaces VALIDATE CONSTRAINT note_check"),
)
"""A made-up version with a step of each kind, on the tables that claims use most."""
CONTRACT: tuple[Step, ...] = (OnlineStep("drop_index", "DROP INDEX CONCURRENTLY IF EXISTS workspaces_note_idx"),)
NAMES = [step.name for step in STEPS]
TABLES = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
DONE = """
    SELECT (SELECT count(*) FROM workspaces WHERE note IS DISTINCT FROM name) AS unfilled,
           (SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('workspaces_note_idx')) AS indexed,
           (SELECT convalidated FROM pg_constraint WHERE conname = 'note_check') AS checked
"""


@pytest.fixture
async def older(empty_database_url: str) -> AsyncIterator[AsyncEngine]:
    """A database made by the previous release."""
    engine = create_engine(empty_database_url, application="prebuilds-tests")
    async with engine.begin() as connection:
        await connection.run_sync(lambda plain: command.upgrade(config(plain), "0001"))
    yield engine
    await engine.dispose()


@pytest.fixture
def next_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this release need a version 0003 of the steps above, after the newest real one."""
    newest = migrating.HEAD_REVISION
    made = Version("0003", STEPS, CONTRACT)
    both = [Version(newest, (), ()), made]
    monkeypatch.setattr(migrating, "HEAD_REVISION", "0003")
    monkeypatch.setattr(migrating, "PREVIOUS_REVISION", newest)
    monkeypatch.setattr(migrating, "versions_from", lambda since: both if since == newest else [made])
    monkeypatch.setattr(migrating, "known_revisions", lambda: {newest, "0003"})
    monkeypatch.setattr(expanding, "PAUSE_FIRST_S", 0.02)


async def test_an_upgrade_of_the_release_before_ends_at_the_tables_and_shuts_it_out_at_the_end(
    older: AsyncEngine, engine: AsyncEngine
) -> None:
    with pytest.raises(StackUnreachable, match="schema 0001, this release needs 0002; run `prebuilds migrate`"):
        await check_schema(older)
    assert (await plan(older)).needed
    done = await migrate(older)
    assert (done.before, done.now, done.finished) == ("0001", "0002", False)
    await check_schema(older)
    assert await current_revision(older) == "0001", "so that workers of the release before go on starting"
    assert (await plan(older))[1:] == ([], False, False)
    assert await migrate(older, finish=True) == (
        "0001",
        "0002",
        [s.name for s in versions_from("0002")[0].contract],
        True,
    )
    assert await current_revision(older) == "0002"
    await check_schema(older)
    assert await read_catalog(older) == await read_catalog(engine)


async def test_an_upgrade_of_the_release_before_keeps_no_reader_or_writer_of_any_table_waiting(
    older: AsyncEngine, empty_database_url: str
) -> None:
    async with older.connect() as connection:
        tables = list(await connection.scalars(text(TABLES)))
    assert "workspaces" in tables
    progress, migrated = list[str](), asyncio.Event()

    async def use_all_tables() -> None:
        user = await asyncpg.connect(dsn_of(empty_database_url))
        await user.execute("SET lock_timeout = '100ms'")  # one that waits for longer fails
        while not migrated.is_set():
            for mode in ("ACCESS SHARE", "ROW EXCLUSIVE"):  # those of SELECT, and of INSERT, UPDATE and DELETE
                await user.execute(f"BEGIN; LOCK {', '.join(tables)} IN {mode} MODE; COMMIT")
        await user.close()

    using = asyncio.create_task(use_all_tables())
    async with in_use(empty_database_url, f"LOCK {', '.join(tables)} IN ACCESS SHARE MODE"):
        migration = asyncio.create_task(migrate(older, finish=True, tell=progress.append))
        done, _ = await asyncio.wait({using, migration}, timeout=1)
        assert not done, "a reader of every table blocks only the first step that locks one of them"
    await asyncio.wait_for(migration, 60)
    migrated.set()
    await asyncio.wait_for(using, 10)
    assert any("others use its table" in line for line in progress)


@asynccontextmanager
async def in_use(url: str, statement: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A transaction that has run *statement*, and stays open during the block."""
    connection = await asyncpg.connect(dsn_of(url))
    try:
        await connection.execute(f"BEGIN; {statement}")
        yield connection
    finally:
        await connection.close()


@pytest.mark.usefixtures("next_version")
async def test_a_migration_delays_nobody_by_100_ms(engine: AsyncEngine, database_url: str) -> None:
    preset = await make_preset(engine)
    made = await make_ready(engine, preset, 60)
    progress: list[str] = []
    async with (
        in_use(database_url, "SELECT count(*) FROM workspaces") as reader,
        in_use(database_url, "UPDATE workspaces SET last_used_at = now() WHERE name = 'nobody'"),
        await create_claim_pool(database_url, size=4) as pool,
    ):
        for connection in [await pool.acquire() for _ in range(4)]:
            await connection.execute("SET lock_timeout = '100ms'")  # a claim that waits for longer fails
            await pool.release(connection)
        migration = asyncio.create_task(migrate(engine, tell=progress.append))
        store = ClaimStore(pool, enabled=True)
        claimed_ids: list[Any] = []
        for _ in range(30):
            claimed_ids += workspace_ids(await asyncio.gather(*[claim(store, preset) for _ in range(2)]))
            if len(claimed_ids) == 30:
                await reader.close()
        assert not migration.done(), "the writer is still there"
    await asyncio.wait_for(migration, 30)
    assert sorted(claimed_ids) == sorted(made)
    assert any("others use its table" in line for line in progress)
    assert tuple(await one(engine, DONE)) == (0, True, True)


async def fill(engine: AsyncEngine, number: int = 250) -> None:
    """Make workspaces for the backfill, whose first batch has a hundred."""
    preset = await make_preset(engine)
    await make_ready(engine, preset, 2)
    await do(
        engine,
        """
        INSERT INTO workspaces (id, organization_id, owner_id, name, template_id, template_version_id, preset_id,
                                latest_build, latest_transition, latest_status)
        SELECT gen_random_uuid(), w.organization_id, w.owner_id, 'more-' || n, w.template_id, w.template_version_id,
               w.preset_id, 1, 'start', 'succeeded'
          FROM (SELECT * FROM workspaces LIMIT 1) AS w, generate_series(1, :number) AS n
        """,
        number=number,
    )


class KilledError(Exception):
    """Stands for a kill: the server ends the open transaction, and nothing else happens."""


@pytest.mark.usefixtures("next_version")
async def test_a_migration_killed_at_any_line_resumes_where_it_ended(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(engine)
    lines, begun = set[str](), list[str]()

    def die_once(line: str) -> None:
        if line not in lines:
            lines.add(line)
            raise KilledError

    async def check() -> None:
        die_once(f"before {begun[-1]}")

    class Mortal(expanding.Runner):
        async def record(self, name: str) -> None:
            die_once(f"unrecorded {name}")
            await super().record(name)

    monkeypatch.setattr(migrating, "Runner", lambda engine, version, _, *rest: Mortal(engine, version, check, *rest))
    for _ in range(50):
        with suppress(KilledError):
            done = await migrate(engine, tell=begun.append)
            break
    assert lines == {f"before step {name}" for name in NAMES} | {
        f"unrecorded {step.name}" for step in STEPS if not isinstance(step, ShortStep)
    } | {"unrecorded expanded"}
    assert (done.finished, done.now) == (False, "0003")
    assert tuple(await one(engine, DONE)) == (0, True, True)


@asynccontextmanager
async def half_built(url: str, index: IndexStep) -> AsyncIterator[tuple[asyncpg.Connection[Any], int]]:
    """An index whose build waits for a writer's transaction: the writer, and the builder's pid."""
    async with in_use(url, "UPDATE workspaces SET name = name WHERE name = 'nobody'") as writer:
        builder = await asyncpg.connect(dsn_of(url))
        building = asyncio.create_task(builder.execute(index.statement))
        try:
            async with asyncio.timeout(20):
                while await writer.fetchval("SELECT true FROM pg_class WHERE relname = $1", index.name) is None:
                    await asyncio.sleep(0.02)
            yield writer, builder.get_server_pid()
        finally:
            with suppress(asyncpg.PostgresError):  # its backend may have been ended
                await asyncio.wait_for(building, 20)
            await builder.close()


async def nothing() -> None:
    pass


async def test_an_index_whose_build_was_killed_is_made_again(engine: AsyncEngine, database_url: str) -> None:
    index = IndexStep("workspaces_host_idx", "workspaces (host)")
    progress: list[str] = []
    async with half_built(database_url, index) as (writer, pid):
        await writer.execute("SELECT pg_terminate_backend($1)", pid)
        await writer.execute("COMMIT")
    assert await one(engine, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'workspaces_host_idx'::regclass") == (
        False,
    )
    assert await expanding.Runner(engine, "0003", nothing, progress.append).run([index]) == [index.name]
    assert any("was interrupted; it is dropped" in line for line in progress)
    assert (await one(engine, expanding.READ_INDEX.text, name=index.name)) == ("valid",)


async def test_an_index_that_the_server_still_builds_for_a_killed_migration_is_waited_for(
    engine: AsyncEngine, database_url: str
) -> None:
    index = IndexStep("workspaces_host_idx", "workspaces (host)")
    waits = asyncio.Event()
    async with half_built(database_url, index) as (writer, _):
        before = await writer.fetchval("SELECT to_regclass($1)::oid", index.name)
        runner = expanding.Runner(engine, "0003", nothing, lambda said: waits.set() if "still builds" in said else None)
        running = asyncio.create_task(runner.run([index]))
        await asyncio.wait_for(waits.wait(), 20)
        await writer.execute("COMMIT")
    assert await asyncio.wait_for(running, 20) == [index.name]
    assert (await one(engine, expanding.READ_INDEX.text, name=index.name)) == ("valid",)
    assert (await one(engine, "SELECT to_regclass('workspaces_host_idx')::oid")) == (before,)


@pytest.mark.usefixtures("next_version")
async def test_a_blocked_migration_names_the_blocker_and_changes_nothing(
    engine: AsyncEngine, database_url: str
) -> None:
    async with in_use(database_url, "LOCK claims IN ACCESS SHARE MODE") as reader:
        pid = await reader.fetchval("SELECT pg_backend_pid() FROM pg_sleep(1.1)")
        with pytest.raises(MigrationBlocked, match=f"the step note found no moment .* pid {pid}, idle in transaction"):
            await migrate(engine, patience_s=0.1)
        assert (await plan(engine)).steps == list(STEPS)
    assert (await migrate(engine)).steps == NAMES


@pytest.mark.usefixtures("next_version")
async def test_concurrent_migrations_do_each_step_once(engine: AsyncEngine, database_url: str) -> None:
    await fill(engine)
    engines = [create_engine(database_url, connections=2) for _ in range(3)]
    done = await asyncio.wait_for(asyncio.gather(*(migrate(other, finish=True) for other in engines)), 60)
    assert sorted(name for each in done for name in each.steps) == sorted([*NAMES, "drop_index"])
    assert [each.finished for each in done] == [True] * 3
    for other in engines:
        await other.dispose()


async def test_the_exit_code_of_check_tells_what_would_be_done(
    older: AsyncEngine,
    empty_database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PREBUILDS_DATABASE_URL", empty_database_url)

    async def command_says(*words: str) -> tuple[int, dict[str, Any]]:
        code = await asyncio.to_thread(run, ["migrate", "--json", *words])
        return code, json.loads(capsys.readouterr().out)

    assert (await command_says("--check"))[0] == 1
    code, output = await command_says()
    assert (code, output["schema_before"], output["schema"], output["finished"]) == (0, "0001", "0002", False)
    code, output = await command_says("--check")
    assert (code, output["needed"], output["steps"], output["finished"]) == (0, False, [], False)
    assert (await command_says("--finish"))[1]["finished"]
    assert (await command_says("--check"))[1]["finished"]
