"""Roles of least privilege: each can do its work, and cannot change the schema or read secrets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import LargeBinary
from sqlalchemy.dialects.postgresql import JSONB

from prebuilds.cli import run
from prebuilds.operations.access import Gate
from prebuilds.operations.tokens import TokenOperations
from prebuilds.planning.rules import Rules
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import create_claim_pool, create_engine
from prebuilds.store.retention import RULES, apply_rule
from prebuilds.store.roles import KINDS, OF_SERVERS, OF_WORKERS, UNREADABLE_COLUMNS, UNREADABLE_TABLES, readable
from prebuilds.store.tables import metadata
from prebuilds.vocabulary.actors import Actor
from tests.builders import make_preset
from tests.conftest import execute
from tests.postgres.pool_steps import claim, make_ready
from tests.rows import one

NOT_SECRET = {
    *("events.data", "settings.rules", "presets.target", "organizations.limits"),
    *("templates.rollout", "rollouts.policy"),
    *(
        "preset_sizes.asked",
        "preset_sizes.chosen_for",
        "preset_sizes.outcome",
        "preset_sizes.paused_asked",
        "preset_sizes.rule",
    ),
}
"""Columns of bytes or JSON that the reader may see."""
Init = Callable[..., Awaitable[tuple[int, dict[str, object]]]]


@dataclass(frozen=True)
class Roles:
    prefix: str
    owner: str
    """The database's URL as the owner of its tables."""

    def url(self, kind: str) -> str:
        return f"{self.owner}&role={self.prefix}_{kind}"


@pytest.fixture
async def prefix(empty_database_url: str) -> AsyncIterator[str]:
    prefix = f"p{uuid4().hex[:8]}"
    # Before PostgreSQL 15 everybody may create tables there. The warning's own test allows it again.
    await execute(empty_database_url, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    for kind in KINDS:
        await execute(empty_database_url, f"CREATE ROLE {prefix}_{kind} LOGIN")
    yield prefix
    for kind in KINDS:
        await execute(empty_database_url, f"DROP OWNED BY {prefix}_{kind}; DROP ROLE {prefix}_{kind}")


@pytest.fixture
def init(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Init:
    """Run `prebuilds migrate` with these words: its exit code, and its document."""
    monkeypatch.setenv("PREBUILDS_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("PREBUILDS_DATABASE_URL", empty_database_url)

    async def run_words(*words: str) -> tuple[int, dict[str, object]]:
        code = await asyncio.to_thread(run, ("migrate", "--json", *words))
        return code, json.loads(capsys.readouterr().out)

    return run_words


@pytest.fixture
async def roles(init: Init, prefix: str, empty_database_url: str) -> Roles:
    code, done = await init("--roles", prefix)
    assert (code, done["roles"], done["warnings"]) == (0, [f"{prefix}_{kind}" for kind in KINDS], [])
    return Roles(prefix, empty_database_url)


async def denied(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()


SCHEMA_CHANGES = (
    "CREATE TABLE more (id int)",
    "DROP TABLE claims",
    "ALTER TABLE claims ADD COLUMN more int",
    "TRUNCATE claims CASCADE",
    "CREATE INDEX more ON claims (outcome)",
    "CREATE OR REPLACE FUNCTION build_is_open(uuid) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
    "UPDATE alembic_version SET version_num = '9999'",
    "DELETE FROM schema_steps",
    "DELETE FROM settings",
)


async def test_a_worker_fills_and_claims_and_changes_no_schema(roles: Roles) -> None:
    engine = create_engine(roles.url("worker"))
    preset = await make_preset(engine)
    await make_ready(engine, preset, 1)
    async with await create_claim_pool(roles.url("worker"), size=2) as pool:
        assert await pool.fetchval("SELECT current_user") == f"{roles.prefix}_worker"
        assert (await claim(ClaimStore(pool, enabled=True), preset)).result is not None
    assert await one(engine, "SELECT last_value > 0 FROM pass_numbers") == (True,)
    await engine.dispose()
    await denied(roles.url("worker"), *SCHEMA_CHANGES)


async def test_a_server_makes_tokens_and_a_worker_only_cleans_up_after_them(roles: Roles) -> None:
    engine = create_engine(roles.url("server"))
    await make_preset(engine)
    tokens = TokenOperations(engine)
    made = await tokens.create(Actor("ops"), "portal", ["read"])
    assert (await Gate(engine).authenticate(made.token)).name == "token/portal"
    link = await tokens.make_link(made.token)
    assert await tokens.take_link(link.code) == made.token
    await engine.dispose()
    await denied(roles.url("server"), *SCHEMA_CHANGES, "DELETE FROM tokens")
    for table, ended in (("tokens", "least(revoked_at, expires_at)"), ("sign_in_links", "expires_at")):
        key = "id" if table == "tokens" else "digest"
        old = f"SELECT {key} FROM {table} WHERE {ended} < now() FOR UPDATE SKIP LOCKED"
        await execute(roles.url("worker"), f"DELETE FROM {table} WHERE {key} IN ({old})")
    await denied(
        roles.url("worker"),
        "SELECT digest FROM tokens",
        "UPDATE tokens SET scopes = '{admin}'",
        "UPDATE tokens SET revoked_at = NULL",
        "INSERT INTO tokens SELECT * FROM tokens",
        "SELECT sealed FROM sign_in_links",
    )


async def test_a_worker_may_apply_every_rule_of_retention(roles: Roles) -> None:
    engine = create_engine(roles.url("worker"))
    for rule in RULES:
        assert await apply_rule(engine, rule, timedelta(days=30), Rules()) is not None, rule.name
    await engine.dispose()


async def test_the_reader_sees_what_dashboards_need_and_no_secret(roles: Roles) -> None:
    connection = await asyncpg.connect(roles.url("reader"))
    for table, columns in readable().items():
        await connection.fetch(f"SELECT count(*), {', '.join(f'max({c}::text)' for c in columns)} FROM {table}")
    await connection.fetch("TABLE presets")
    await connection.close()
    hidden = [f"SELECT {column} FROM {table}" for table, names in UNREADABLE_COLUMNS.items() for column in names]
    await denied(roles.url("reader"), *hidden, *(f"SELECT count(*) FROM {table}" for table in UNREADABLE_TABLES))
    await denied(
        roles.url("reader"), "INSERT INTO events (kind, actor) VALUES ('x', 'y')", "DELETE FROM claims", *SCHEMA_CHANGES
    )


async def test_tables_of_a_later_version_are_the_workers_at_once_and_never_the_readers(
    roles: Roles, init: Init
) -> None:
    await execute(roles.owner, "CREATE TABLE later (id bigserial, secret text)")
    for kind in ("worker", "server"):
        await execute(roles.url(kind), "INSERT INTO later (secret) VALUES ('x'); DELETE FROM later")
    await execute(roles.owner, "ALTER TABLE presets ADD COLUMN later text")
    await denied(roles.url("reader"), "TABLE later", "SELECT later FROM presets")
    code, done = await init("--roles", roles.prefix)
    assert (code, done["schema_before"] == done["schema"]) == (0, True), "it bears repeating"
    await denied(roles.url("reader"), "SELECT later FROM presets")


async def test_a_right_that_a_role_should_not_have_is_taken_back(roles: Roles, init: Init) -> None:
    await execute(roles.owner, f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {roles.prefix}_worker")
    await execute(roles.owner, f"GRANT SELECT (digest) ON tokens TO {roles.prefix}_reader")
    await init("--roles", roles.prefix)
    await denied(roles.url("worker"), "TRUNCATE claims CASCADE", "TABLE tokens")
    await denied(roles.url("reader"), "SELECT digest FROM tokens")


async def test_a_role_that_can_still_create_tables_is_warned_about(roles: Roles, init: Init) -> None:
    await execute(roles.owner, "GRANT CREATE ON SCHEMA public TO PUBLIC")
    _, done = await init("--roles", roles.prefix)
    warnings = done["warnings"]
    assert isinstance(warnings, list)
    assert len(warnings) == len(KINDS)
    assert "REVOKE CREATE ON SCHEMA public FROM PUBLIC" in warnings[0]


async def test_without_the_roles_nothing_is_changed(init: Init, empty_database_url: str) -> None:
    code, done = await init("--roles", "nobodys")
    error = done["error"]
    assert isinstance(error, dict)
    assert (code, error["type"]) == (1, "InvalidInput")
    assert "CREATE ROLE \"nobodys_worker\" LOGIN PASSWORD '...'" in error["remedy"]
    connection = await asyncpg.connect(empty_database_url)
    assert await connection.fetchval("SELECT to_regclass('claims')") is None
    await connection.close()


def test_every_column_that_can_hold_a_secret_is_hidden_or_listed() -> None:
    seen = {f"{table}.{column}" for table, columns in readable().items() for column in columns}
    able = {
        f"{table.name}.{column.name}"
        for table in metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, LargeBinary | JSONB)
    }
    unsaid = able & seen - NOT_SECRET
    assert not unsaid, "name it in prebuilds/store/roles.py if it may hold a secret, else here"
    named = {*OF_WORKERS, *OF_SERVERS, *UNREADABLE_TABLES, *UNREADABLE_COLUMNS} - {"alembic_version"}
    assert named <= set(metadata.tables)
    for table, columns in UNREADABLE_COLUMNS.items():
        assert columns <= set(metadata.tables[table].columns.keys())
