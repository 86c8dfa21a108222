"""Claims that share a statement: each is decided as it would be alone, regardless of faults of the others."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import NameTaken, NoClaimablePrebuiltWorkspaces, PrebuildsError, StoreUnavailable
from prebuilds.bench.filling import Pools
from prebuilds.payloads import ClaimResult
from prebuilds.store.claim_statement import ClaimValues, decide_together
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import create_claim_pool, dsn_of
from prebuilds.store.shared_statements import SLOW_S, UNDER_WAY_MAX
from prebuilds.telemetry import tracing
from tests.builders import MadePreset, make_preset
from tests.postgres.http_steps import serving
from tests.postgres.pool_steps import Desk, make_ready, new_run, outcome, together, until_blocked
from tests.rows import do, one, rows_of

ROUNDS = 8
AT_ONCE = 20
"""So many claims at once are more than one statement, and more than may be under way."""
# A claim by `sleeper` does not finish.
SLEEP = (
    "CREATE FUNCTION sleep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$",
    "CREATE TRIGGER sleep BEFORE INSERT ON claims FOR EACH ROW WHEN (NEW.id = 'sleeper') EXECUTE FUNCTION sleep()",
)
SLEEPING = """
    SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE '%try_claim%'
       AND datname = current_database()
"""


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(dsn_of(database_url))
    yield connection
    await connection.close()


def sent(preset: MadePreset, claim_id: str, name: str, **changes: Any) -> ClaimValues:
    """Return the request of a claim by alice."""
    run = new_run()
    values = ClaimValues(
        *(claim_id, b"hash", preset.id, None, None, None, "alice", "alice", name, None, None, None, None, "fail", True),
        *(None, uuid4(), uuid4(), None, run.id, run.began_at, None, None, None),
    )
    return values._replace(**changes)


async def test_300_at_once_over_four_pools_win_once_each(engine: AsyncEngine, database_url: str) -> None:
    pools = Pools(presets=4)
    await pools.fill(engine, ready=70)
    requests = []
    async with serving(engine, database_url) as server:
        await server.put("used", preset=pools.paths[0], owner=pools.organization, name="used")
        for n in range(300):
            claim_id, body = f"c{n}", {"preset": pools.paths[n % 4], "owner": pools.organization, "name": f"w{n}"}
            match n % 10:
                case 7:
                    body["owner"] = "nobody"
                case 8:
                    body["name"] = "used"
                case 9:
                    claim_id = "used"
            requests.append(server.put(claim_id, **body))
        answers = await together(requests)
    codes = Counter((max(n % 10, 6), answer.status_code) for n, answer in enumerate(answers))
    assert codes == {(6, 201): 210, (7, 422): 30, (8, 409): 30, (9, 422): 30}
    claimed_ids = {answer.json()["workspace_id"] for answer in answers if answer.status_code == 201}
    assert len(claimed_ids) == 210
    recorded = await one(
        engine,
        """
        SELECT count(*) FILTER (WHERE w.claimed_at IS NOT NULL) AS claimed,
               count(*) FILTER (WHERE w.claimable_preset_id IS NOT NULL) AS ready,
               (SELECT count(*) FROM claims WHERE workspace_id IS NOT NULL) AS claims,
               (SELECT count(*) FROM workspace_builds WHERE stage = 'claim') AS builds,
               (SELECT count(*) FROM events WHERE kind = 'claim_prebuilt') AS events,
               (SELECT count(*) FROM claims WHERE outcome = 'refused') AS refused,
               count(DISTINCT w.claimed_at) AS statements
          FROM workspaces w
        """,
    )
    assert tuple(recorded)[:-1] == (211, 69, 211, 211, 211, 60)
    assert recorded.statements < 100, "most have shared one"


async def test_a_shared_statement_leaves_what_it_does_not_simply_win(
    engine: AsyncEngine, store: ClaimStore, other: asyncpg.Connection[Any]
) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 9)
    empty = await make_preset(engine, template="other", instances=0)
    await decide_together(store.pool, [sent(preset, "before", "taken")])
    transaction = other.transaction()
    await transaction.start()
    await other.execute("INSERT INTO claims (id, request_hash, run, other_runs_after) VALUES ('busy', '', 'r', now())")
    now = datetime.now(UTC)
    claims = {
        "won": sent(preset, "a", "a"),
        "an unknown owner": sent(preset, "b", "b", owner="nobody"),
        "a name that is taken": sent(preset, "c", "taken"),
        "an id that has won": sent(preset, "before", "d"),
        "an id that somebody uses at this moment": sent(preset, "busy", "e"),
        "an empty pool": sent(empty, "f", "f"),
        "an attempt that has ended": sent(preset, "g", "g", ends_at=now - timedelta(seconds=1)),
        "an attempt that goes on": sent(preset, "h", "h", ends_at=now + timedelta(minutes=1)),
        "the same id again": sent(preset, "h", "h"),
    }
    decisions = await decide_together(store.pool, list(claims.values()))
    assert [why for why, decision in zip(claims, decisions, strict=True) if decision.answer is not None] == [
        "won",
        "an attempt that goes on",
    ]
    await transaction.rollback()
    assert (await one(engine, "SELECT array_agg(id ORDER BY id) AS ids FROM claims")).ids == ["a", "before", "h"]
    rows = await one(engine, "SELECT count(*) AS n, count(claimable_preset_id) AS ready FROM workspaces")
    assert tuple(rows) == (9, 6), "a claim left out has written nothing"


async def test_each_claim_keeps_its_own_trace(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 3)
    traces = [f"00-{n:032x}-{n:016x}-01" for n in (1, 2)]
    claims = [
        sent(preset, "a", "a", traceparent=traces[0]),
        sent(preset, "b", "b"),
        sent(preset, "c", "c", traceparent=traces[1]),
    ]
    await decide_together(store.pool, claims)
    kept = await one(
        engine,
        """
        SELECT array_agg(b.traceparent ORDER BY w.name) AS traces
          FROM workspace_builds b JOIN workspaces w ON w.id = b.workspace_id WHERE b.stage = 'claim'
        """,
    )
    assert kept.traces == [traces[0], None, traces[1]]


async def test_a_shared_statement_is_a_span_below_each_of_its_claims(
    engine: AsyncEngine, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("tests"))

    async def ask(claim_id: str) -> None:
        with tracing.span(claim_id):
            await desk.ask(claim_id)

    await make_ready(engine, await make_preset(engine), AT_ONCE)
    await together([ask(f"c{n}") for n in range(AT_ONCE)])
    spans = exported.get_finished_spans()
    claims = {span.context.span_id for span in spans if span.name.startswith("c")}
    shared = [span for span in spans if span.name == "SELECT try_claim"]
    parents = {span.parent.span_id for span in shared if span.parent is not None}
    assert len(shared) == len(parents) == AT_ONCE - UNDER_WAY_MAX, "one below each claim that had to wait"
    assert parents <= claims
    facts = {"db.system.name": "postgresql", "db.query.summary": "SELECT try_claim"}
    assert all(span.attributes == facts and span.end_time > span.start_time for span in shared)


async def test_a_statement_cut_in_the_middle_has_decided_nothing(
    engine: AsyncEngine, desk: Desk, other: asyncpg.Connection[Any]
) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, AT_ONCE)
    for statement in SLEEP:
        await do(engine, statement)
    ids = [f"c{n}" for n in range(AT_ONCE - 1)]
    ids.insert(UNDER_WAY_MAX + 8, "sleeper")  # in the middle of those that have to wait
    asking = asyncio.create_task(together([outcome(desk.ask(i, name=i)) for i in ids]))
    async with asyncio.timeout(30):
        while not (sleeping := await other.fetchval(SLEEPING)):
            await asyncio.sleep(0.01)
    rows = await rows_of(engine)
    await other.execute("SELECT pg_terminate_backend($1)", sleeping)
    answers = await asking
    cut = [i for i, answer in zip(ids, answers, strict=True) if isinstance(answer, StoreUnavailable)]
    assert "sleeper" in cut
    assert len(cut) > UNDER_WAY_MAX, "they were in one statement"
    assert all(isinstance(answer, ClaimResult | StoreUnavailable) for answer in answers), answers
    assert await rows_of(engine) == rows
    await do(engine, "DROP TRIGGER sleep ON claims")
    again = [await desk.ask(i, name=i, run=desk.run_of(i)) for i in ids]
    assert all(a == b for a, b in zip(answers, again, strict=True) if isinstance(a, ClaimResult))
    assert len({a.workspace_id for a in again if isinstance(a, ClaimResult)}) == AT_ONCE


async def test_statements_that_wait_for_a_lock_keep_nobody_waiting(
    engine: AsyncEngine, desk: Desk, other: asyncpg.Connection[Any]
) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 2 * UNDER_WAY_MAX)
    transaction = other.transaction()
    await transaction.start()
    stuck = [f"stuck{n}" for n in range(UNDER_WAY_MAX)]
    for claim_id in stuck:
        await other.execute(
            "INSERT INTO claims (id, request_hash, run, other_runs_after) VALUES ($1, '', 'r', now())", claim_id
        )
    waiting = asyncio.create_task(together([desk.ask(claim_id) for claim_id in stuck]))
    await until_blocked(other, UNDER_WAY_MAX)
    async with asyncio.timeout(SLOW_S + 5):
        answers = await together([desk.ask(f"c{n}") for n in range(UNDER_WAY_MAX)])
    assert all(isinstance(answer, ClaimResult) for answer in answers)
    assert not waiting.done()
    await transaction.rollback()
    await waiting


async def test_two_processes_with_the_same_names_never_wait_in_a_circle(
    engine: AsyncEngine, desk: Desk, database_url: str
) -> None:
    """Each name and each prebuild goes to one of them, at once: PostgreSQL would end a deadlock a second later."""
    preset = await make_preset(engine, instances=0)
    async with await create_claim_pool(database_url, size=12) as pool:
        desks = (desk, Desk(engine, ClaimStore(pool, enabled=True)))
        for n in range(ROUNDS):
            made = await make_ready(engine, preset, AT_ONCE - 5)
            names = [f"w{n}-{m}" for m in range(AT_ONCE)]
            claims = [
                outcome(desks[d].ask(f"{d}-{name}", name=name))
                for d in range(2)
                for name in (names if d else reversed(names))
            ]
            answers = await together(claims)
            claimed = [answer for answer in answers if isinstance(answer, ClaimResult)]
            assert {answer.workspace_id for answer in claimed} == set(made)
            assert len({answer.name for answer in claimed}) == len(claimed) == len(made)
            refused = [answer for answer in answers if isinstance(answer, PrebuildsError)]
            assert all(isinstance(error, NameTaken | NoClaimablePrebuiltWorkspaces) for error in refused), refused
    deadlocks = await one(engine, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert deadlocks.deadlocks == 0


async def test_two_processes_with_the_same_ids_give_equal_answers(
    engine: AsyncEngine, desk: Desk, database_url: str
) -> None:
    preset = await make_preset(engine, instances=0)
    async with await create_claim_pool(database_url, size=12) as pool:
        desks = (desk, Desk(engine, ClaimStore(pool, enabled=True)))
        for n in range(ROUNDS):
            made = await make_ready(engine, preset, AT_ONCE)
            ids = [f"c{n}-{m}" for m in range(AT_ONCE)]
            runs = {claim_id: new_run() for claim_id in ids}
            claims = [desks[d].ask(i, name=i, run=runs[i]) for d in range(2) for i in (ids if d else reversed(ids))]
            answers = await together(claims)
            assert answers[:AT_ONCE] == answers[: AT_ONCE - 1 : -1], "each id has one answer"
            assert {a.workspace_id for a in answers if isinstance(a, ClaimResult)} == set(made)
