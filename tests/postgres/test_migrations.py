"""Migrations end exactly at the tables of `prebuilds/store/tables/`, and can run at any time, also concurrently."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import StackUnreachable
from prebuilds.store import migrate as migrating
from prebuilds.store.engine import create_engine
from prebuilds.store.migrate import check_schema, current_revision, head_revision, migrate
from prebuilds.store.schema_versions import scripts
from prebuilds.store.tables import metadata

OURS = "c.relnamespace = 'public'::regnamespace AND c.relname NOT LIKE 'alembic%'"
CATALOG = {
    # By name and not by position: a later migration can only append a column.
    "columns": f"""
        SELECT c.relname || '.' || a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
               pg_get_expr(d.adbin, d.adrelid), a.attidentity::text, a.attgenerated::text,
               a.attcollation::regcollation::text
          FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
          LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
         WHERE {OURS} AND c.relkind IN ('r', 'p', 'v', 'm') AND a.attnum > 0 AND NOT a.attisdropped
    """,
    # Not-null constraints have rows of their own since PostgreSQL 18; the columns tell of them in every version.
    "constraints": f"""
        SELECT c.relname, k.conname, pg_get_constraintdef(k.oid), k.convalidated
          FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid WHERE {OURS} AND k.contype <> 'n'
    """,
    "indexes": f"""
        SELECT pg_get_indexdef(i.indexrelid), i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
         WHERE {OURS}
    """,
    "sequences": f"""
        SELECT c.relname, format_type(s.seqtypid, NULL), s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache,
               s.seqcycle FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid WHERE {OURS}
    """,
    "relations": f"SELECT c.relname, c.relkind::text, c.relpersistence::text, reloptions FROM pg_class c WHERE {OURS}",
    "triggers": f"""
        SELECT pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
         WHERE {OURS} AND NOT t.tgisinternal
    """,
    "types": "SELECT typname, typtype::text FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype <> 'c'"
    " AND typelem = 0",
}


async def read_catalog(engine: AsyncEngine) -> dict[str, list[str]]:
    async with engine.connect() as connection:
        return {
            kind: sorted(str(tuple(row)) for row in await connection.exec_driver_sql(statement))
            for kind, statement in CATALOG.items()
        }


async def test_migrations_end_at_the_tables(engine: AsyncEngine, empty_database_url: str) -> None:
    fresh = create_engine(empty_database_url)
    async with fresh.begin() as connection:
        await connection.run_sync(metadata.create_all)
    migrated, declared = await read_catalog(engine), await read_catalog(fresh)
    await fresh.dispose()
    assert declared["columns"], "the catalog's queries find our tables"
    assert declared["sequences"]
    for kind in CATALOG:
        assert migrated[kind] == declared[kind]


async def test_a_difference_would_be_seen(engine: AsyncEngine) -> None:
    before = await read_catalog(engine)
    for kind, statement in {
        "columns": "ALTER TABLE claims ALTER miss_reason SET DEFAULT 'x'",
        "constraints": "ALTER TABLE claims DROP CONSTRAINT claims_winner_check",
        "indexes": "DROP INDEX workspaces_pool_idx",
        "sequences": "ALTER SEQUENCE pass_numbers INCREMENT 2",
        "relations": "ALTER TABLE workspaces RESET (fillfactor)",
    }.items():
        async with engine.begin() as connection:
            await connection.execute(text(statement))
        assert (await read_catalog(engine))[kind] != before[kind]


async def test_ten_migrations_at_once_are_one(empty_database_url: str) -> None:
    engines = [create_engine(empty_database_url, connections=2) for _ in range(10)]
    results = await asyncio.gather(*(migrate(engine) for engine in engines))
    head = head_revision()
    versions = sorted(((done.before, done.now) for done in results), key=str)
    assert versions == sorted([(None, head)] + [(head, head)] * 9, key=str)
    async with engines[0].connect() as connection:
        assert list(await connection.scalars(text("SELECT version_num FROM alembic_version"))) == [head]
        assert await connection.scalar(text("SELECT count(*) FROM settings")) == 1
    await check_schema(engines[0])
    for engine in engines:
        await engine.dispose()


def test_the_version_that_commands_check_is_the_newest_migration() -> None:
    assert head_revision() == scripts().get_current_head()


async def test_migrating_again_changes_nothing(engine: AsyncEngine) -> None:
    before = await read_catalog(engine)
    assert await migrate(engine) == (head_revision(), head_revision(), [], True)
    assert await read_catalog(engine) == before


async def test_unknown_schema_is_refused_and_left_alone(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for refuse in (migrate, check_schema):
        with pytest.raises(StackUnreachable, match=r"schema 9999, which this release does not know; install"):
            await refuse(engine)
    assert await current_revision(engine) == "9999"


async def test_a_database_without_schema_is_refused_with_init(empty_database_url: str) -> None:
    engine = create_engine(empty_database_url)
    assert await current_revision(engine) is None
    with pytest.raises(StackUnreachable, match="run `prebuilds init`"):
        await check_schema(engine)
    await engine.dispose()


async def test_an_older_schema_is_refused_with_migrate(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrating, "head_revision", lambda: "9999")
    with pytest.raises(StackUnreachable, match="this release needs 9999; run `prebuilds migrate`"):
        await check_schema(engine)


async def test_too_old_server_is_refused_before_anything_is_written(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_engine(empty_database_url)
    older = str(migrating.READ_SERVER).replace("current_setting('server_version_num')", "'130021'")
    monkeypatch.setattr(migrating, "READ_SERVER", text(older))
    with pytest.raises(StackUnreachable, match="PostgreSQL 13 is too old; upgrade it, or set"):
        await migrate(engine)
    monkeypatch.undo()
    assert await current_revision(engine) is None
    await engine.dispose()
