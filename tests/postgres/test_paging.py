"""Lists in parts, and bulk actions on any number of matches."""

from __future__ import annotations

from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from prebuilds.api import InvalidInput
from prebuilds.background.dispatch import Dispatcher
from prebuilds.operations.context import Context
from prebuilds.operations.facade import Operations
from prebuilds.settings import Settings
from prebuilds.store import evidence, jobs
from prebuilds.views import JobFilter
from prebuilds.vocabulary import BuildStatus
from tests.builders import make_preset
from tests.postgres.pool_steps import fail, record_prebuilds
from tests.rows import one

POOL = JobFilter(initiator="prebuilds")


@pytest.fixture
async def system(engine: AsyncEngine) -> Operations:
    client = await Client.connect("127.0.0.1:1", lazy=True)
    return Operations(Context(engine, client, Dispatcher(engine, client), Settings()))


async def test_jobs_in_parts_are_all_jobs_once(engine: AsyncEngine, system: Operations) -> None:
    preset = await make_preset(engine, instances=7)
    builds = await record_prebuilds(engine, preset, 7)  # in one transaction: all of one age
    found, after = [], None
    for rows in (3, 3, 1):
        page = await system.jobs.list(POOL, limit=3, after=after)
        assert len(page.rows) == rows
        found += [job.workspace_id for job in page.rows]
        after = page.next
    assert after is None
    assert len(builds) == len(found) == len(set(found))
    assert {job.preset for job in page.rows} == {"acme/python/small"}
    assert all(job.workspace.startswith("prebuilds/") for job in page.rows)


async def test_lists_of_workspaces_and_presets_continue_after_a_cursor(engine: AsyncEngine, system: Operations) -> None:
    ids = sorted(await record_prebuilds(engine, await make_preset(engine, instances=3), 3))  # all of one age
    first = await system.workspaces.list(limit=2)
    assert first.next is not None
    second = await system.workspaces.list(limit=2, after=first.next)
    assert ([row.id for row in [*first.rows, *second.rows]], second.next) == (ids, None)
    await make_preset(engine, organization="other")
    one = await system.presets.list(limit=1)
    other = await system.presets.list(limit=1, after=one.next)
    assert [row.organization for row in [*one.rows, *other.rows]] == ["acme", "other"]
    assert other.next is None


@pytest.mark.parametrize("after", ["nonsense", "W10", "WyJhIiwiYiJd"])
async def test_a_cursor_of_no_list_is_refused(system: Operations, after: str) -> None:
    with pytest.raises(InvalidInput, match="after: is no cursor of this list"):
        await system.jobs.list(POOL, after=after)
    with pytest.raises(InvalidInput, match="limit: must be between 1 and 10000"):
        await system.jobs.list(POOL, limit=0)


async def test_a_cancellation_takes_all_that_match_in_batches(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "CANCELED_AT_ONCE", 2)
    preset = await make_preset(engine, instances=5)
    await record_prebuilds(engine, preset, 5)
    batches: list[int] = []
    dry = await jobs.cancel_jobs(engine, POOL, "ops", dry_run=True)
    done = await jobs.cancel_jobs(engine, POOL, "ops", on_batch=lambda ids: batches.append(len(ids)))
    assert (dry.result.canceled, done.result.canceled, batches) == (5, 5, [2, 2, 1])
    assert await jobs.list_jobs(engine, JobFilter(status=[BuildStatus.PENDING])) == []
    events = "SELECT array_agg(build_id) FROM events WHERE kind = 'job_canceled' AND actor = 'ops'"
    [data] = await one(engine, events)
    assert sorted(data) == sorted(done.build_ids)


async def test_a_pruning_tells_each_batch(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "PRUNED_AT_ONCE_MAX", 2)
    preset = await make_preset(engine, instances=3)
    await fail(engine, preset, 3)
    batches: list[list[UUID]] = []
    done = await evidence.prune(
        engine, "ops", failed=True, stopped=False, on_batch=lambda ids: batches.append(list(ids))
    )
    assert (done.result.pruned, [len(batch) for batch in batches]) == (3, [2, 1])
