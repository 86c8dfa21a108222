"""No statement reads the whole history: each reads about as much as it returns, however large the tables are.

The data is a small copy of that of `make rows`, which has a million workspaces.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.seeding import ORGANIZATION, Seed, claim_id, person, preset_path, seed, workspace_id
from prebuilds.planning.pass_plan import Note
from prebuilds.planning.policy import EVERYWHERE, Reach
from prebuilds.planning.rules import Rules
from prebuilds.settings import Settings
from prebuilds.settings.retention import retention_of
from prebuilds.store import (
    actions,
    build_record,
    claim_queue_sweep,
    claim_states,
    event_feed,
    events,
    hand_over,
    health,
    history,
    inventory,
    jobs,
    logs,
    near_misses,
    people,
    pools,
    preset_list,
    queue_ages,
    snapshots,
    status,
    templates,
    workspaces,
)
from prebuilds.store.claim_batches import RECORD_MISS, ClaimBatches
from prebuilds.store.claim_refusals import ClaimTarget
from prebuilds.store.claims import ClaimStore, hash_request
from prebuilds.store.engine import create_engine, dsn_of
from prebuilds.store.explain import explain_claim, explain_preset
from prebuilds.store.retention import RULES, apply_rule
from prebuilds.views import JobFilter
from prebuilds.vocabulary import BuildStatus
from tests.conftest import create_database, database_at, drop_database, execute, run_apart
from tests.postgres.plans import SETTINGS, Plans
from tests.postgres.pool_steps import claim, new_run
from tests.rows import do, one

pytestmark = pytest.mark.filterwarnings("ignore:.*active log listener")  # they belong to the test's connections
SEED = Seed(workspaces=12_000, templates=8, presets_per_template=5, people=200, ready=10, live=600, unfinished=60)
BIG = {"workspaces", "workspace_builds", "claims", "events", "build_logs"}
ROWS_MAX = 1500
"""The most rows of a big table that one statement may read: all that live are fewer, and each big table has more."""
HALF_A_YEAR_AGO = datetime.now(UTC) - timedelta(days=180)
PATH = preset_path()


@dataclass
class Deployment:
    engine: AsyncEngine
    store: ClaimStore
    preset_id: UUID


@pytest.fixture(scope="module")
def seeded_url(postgres_server: str, migrated_template: str) -> Iterator[str]:
    """A database with a year's rows, whose sessions tell their plans."""
    database = f"seeded_{uuid4().hex[:12]}"
    url = database_at(postgres_server, database)
    allowed = False

    async def make() -> None:
        nonlocal allowed
        connection = await asyncpg.connect(dsn_of(postgres_server))
        allowed = await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        await connection.close()
        if not allowed:
            return
        await create_database(postgres_server, database, template=migrated_template)
        engine = create_engine(url)
        await seed(engine, SEED)
        await engine.dispose()
        for name, value in SETTINGS.items():
            await execute(postgres_server, f"ALTER DATABASE \"{database}\" SET {name} = '{value}'")

    run_apart(make())
    if not allowed:
        pytest.skip("only a superuser has the server tell its plans")
    yield url
    run_apart(drop_database(postgres_server, database))


@pytest.fixture
def plans() -> Plans:
    return Plans()


@pytest.fixture
async def deployment(seeded_url: str, plans: Plans) -> AsyncIterator[Deployment]:
    engine = create_engine(seeded_url)
    preset_id = (await one(engine, "SELECT id FROM presets ORDER BY id LIMIT 1")).id
    await engine.dispose()
    plans.watch(engine)

    async def listen(connection: Any) -> None:
        connection.add_log_listener(plans.hear)

    pool = await asyncpg.create_pool(dsn_of(seeded_url), min_size=1, max_size=2, setup=listen)
    yield Deployment(engine, ClaimStore(pool, enabled=True), preset_id)
    pool.terminate()
    await engine.dispose()


async def _take_snapshot(of: Deployment) -> None:
    async with snapshots.snapshot_transaction(of.engine) as connection:
        await snapshots.snapshot_state(connection, Rules())
        await snapshots.snapshot_preset(connection, of.preset_id, Rules())


async def _claim(of: Deployment) -> None:
    request = {"preset": PATH, "owner": person(), "name": f"n-{uuid4().hex[:8]}"}
    for target in (ClaimTarget(PATH, path=tuple(PATH.split("/"))), ClaimTarget(PATH, preset_id=of.preset_id)):  # type: ignore[arg-type]
        name = f"n{uuid4().hex[:8]}"
        claimed = await claim(of.store, target, f"hot-{name}", **request | {"name": name})
        assert claimed.result is not None
        assert (await claim(of.store, target, f"hot-{name}", **request | {"name": name})).result == claimed.result
    await claim_states.read_claims(of.engine, [claim_id(5)])


async def _claim_batch(of: Deployment) -> None:
    from prebuilds.payloads import ClaimRequest

    requests = [
        ClaimRequest.model_validate({"preset": PATH, "owner": person(2), "name": f"b{uuid4().hex[:8]}"})
        for _ in range(3)
    ]
    target = ClaimTarget(PATH, preset_id=of.preset_id)
    batches = ClaimBatches(of.store)
    made = await batches.claim(
        f"batch-{uuid4().hex[:8]}", requests, target, hash_request(requests[0]), new_run(), held=False
    )
    assert all(one_.result for one_ in made)


async def _tell_misses_once(of: Deployment) -> None:
    async with of.engine.begin() as connection:
        raw: Any = (await connection.get_raw_connection()).driver_connection
        of_claim = (person(2), of.preset_id, claim_id(1))
        await raw.execute(near_misses.RECORD, *of_claim, PATH, "size")
        await raw.execute(RECORD_MISS, *of_claim, person(2), "w", 3, "empty", "run")


async def _relay(of: Deployment) -> None:
    await build_record.take_due_builds(of.engine)
    await claim_queue_sweep.take_due_waiters(of.engine)
    await hand_over.serve_all_waiters(of.engine)
    await people.refuse_waiting(of.engine)
    await inventory.take_inventory_turn(of.engine)


async def _record_notes(of: Deployment) -> None:
    await events.record_notes(of.engine, [Note(of.preset_id, "creation_held", {"reason": "backoff"})])


async def _due_actions(of: Deployment) -> None:
    live = [workspace_id(SEED.workspaces - 100 - n) for n in range(50)]
    await do(of.engine, "UPDATE workspaces SET next_action_at = now(), ttl = '1 hour' WHERE id = ANY(:ids)", ids=live)
    assert len(await actions.take_due_actions(of.engine)) == 50


def _jobs(reach: Reach = EVERYWHERE, **wanted: Any) -> Callable[[Deployment], Awaitable[None]]:
    async def list_two_pages(of: Deployment) -> None:
        first = await jobs.list_jobs(of.engine, JobFilter(**wanted), reach=reach, limit=20)
        if len(first) == 20:
            await jobs.list_jobs(
                of.engine, JobFilter(**wanted), reach=reach, limit=20, after=jobs.job_cursor(first[-1])
            )

    return list_two_pages


def _workspaces(reach: Reach = EVERYWHERE, **wanted: Any) -> Callable[[Deployment], Awaitable[None]]:
    async def list_two_pages(of: Deployment) -> None:
        first = await workspaces.list_workspaces(of.engine, reach=reach, limit=20, **wanted)
        assert first
        after = workspaces.workspace_cursor(first[-1])
        await workspaces.list_workspaces(of.engine, reach=reach, limit=20, after=after, **wanted)

    return list_two_pages


async def _cancel_jobs(of: Deployment) -> None:
    for wanted in (JobFilter(template=f"{ORGANIZATION}/t1"), JobFilter(initiator=person(3))):
        await jobs.cancel_jobs(of.engine, wanted, "ops", dry_run=True)


async def _logs_by_name(of: Deployment) -> None:
    released = await one(
        of.engine,
        "SELECT u.name || '/' || w.name AS path FROM workspaces w JOIN users u ON u.id = w.owner_id WHERE w.id = :id",
        id=workspace_id(7),
    )
    assert await logs.find_logged_builds(of.engine, released.path)
    await workspaces.show_workspace(of.engine, str(workspace_id(SEED.workspaces - 1)))


async def _explain(of: Deployment) -> None:
    await explain_preset(of.engine, PATH, Rules(), None)
    await explain_preset(of.engine, PATH, Rules(), HALF_A_YEAR_AGO)
    await explain_claim(of.engine, claim_id(5))


async def _inventory(of: Deployment) -> None:
    places = await inventory.list_places(of.engine)
    assert len(places) == 10
    await inventory.read_recorded(of.engine, places[0], [workspace_id(3)])


async def _read_page(of: Deployment) -> None:
    await pools.read_hour(of.engine, [of.preset_id])
    await preset_list.list_presets(of.engine, Rules())
    await templates.list_templates(of.engine)
    await people.list_members(of.engine, ORGANIZATION)


async def _read_status(of: Deployment) -> None:
    await status.read_status(of.engine, Rules())
    await queue_ages.read_queue_ages(of.engine)
    await health.read_health(of.engine)
    await history.check_history(of.engine, None, "host h1")


async def _feed(of: Deployment) -> None:
    newest = await event_feed.read_newest_number(of.engine)
    await event_feed.read_events(of.engine, newest - 10, newest, 10)
    await event_feed.read_events(of.engine, 10, newest, 10)
    await event_feed.read_removed(of.engine)
    await event_feed.find_epochs_beginning(of.engine, uuid4())


async def _retain(of: Deployment) -> None:
    for rule in RULES:
        removed = await apply_rule(of.engine, rule, retention_of(Settings(), rule.name), Rules())
        assert removed is not None
        assert removed.rows or rule.name not in ("workspaces", "misses", "events")


MINE = Reach(frozenset(), frozenset(), frozenset({ORGANIZATION}), person(3))
HOT: dict[str, Callable[[Deployment], Awaitable[None]]] = {
    "claim": _claim,
    "claims of a batch": _claim_batch,
    "misses told once": _tell_misses_once,
    "snapshots": _take_snapshot,
    "relay": _relay,
    "due actions": _due_actions,
    "notes of a pass": _record_notes,
    "jobs": _jobs(),
    "jobs of a person": _jobs(initiator=person(3)),
    "jobs of the pools": _jobs(initiator="prebuilds"),
    "jobs of a template": _jobs(template=f"{ORGANIZATION}/t2"),
    "jobs of a template and a person": _jobs(template=f"{ORGANIZATION}/t2", initiator=person(3)),
    "jobs pending": _jobs(status=[BuildStatus.PENDING]),
    "jobs failed": _jobs(status=[BuildStatus.FAILED]),
    "jobs canceled": _jobs(status=[BuildStatus.CANCELED]),
    "jobs failed or pending": _jobs(status=[BuildStatus.FAILED, BuildStatus.PENDING]),
    "jobs within an organization": _jobs(Reach(frozenset({ORGANIZATION}))),
    "jobs of mine": _jobs(MINE),
    "jobs to cancel": _cancel_jobs,
    "workspaces": _workspaces(),
    "workspaces of a person": _workspaces(owner=person(150)),
    "workspaces of a preset": _workspaces(preset=PATH),
    "workspaces prebuilt": _workspaces(prebuilt=True),
    "workspaces within an organization": _workspaces(Reach(frozenset({ORGANIZATION}))),
    "logs by name": _logs_by_name,
    "explain": _explain,
    "inventory": _inventory,
    "page": _read_page,
    "status and gauges": _read_status,
    "event feed": _feed,
    "retention": _retain,  # the last one, since it removes most
}


@pytest.mark.parametrize("name", HOT)
async def test_no_statement_reads_the_whole_history(deployment: Deployment, plans: Plans, name: str) -> None:
    await HOT[name](deployment)
    await asyncio.sleep(0)  # messages of the last statement
    reads = [read for read in plans.reads if read.table in BIG]
    assert plans.reads, "the server tells its plans"
    assert [str(read) for read in reads if read.sequential or read.rows > ROWS_MAX] == []


async def test_a_missing_index_is_noticed(deployment: Deployment, plans: Plans) -> None:
    await do(deployment.engine, "DROP INDEX IF EXISTS workspace_builds_initiator_idx")
    await HOT["jobs of a person"](deployment)
    assert any(read.table in BIG and (read.sequential or read.rows > ROWS_MAX) for read in plans.reads)
