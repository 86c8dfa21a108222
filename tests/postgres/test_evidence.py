"""Evidence kept and removed by operators: a concurrent pass, claim or restart always takes effect."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import (
    InvalidInput,
    PrebuildsError,
    PresetNotFound,
    WorkspaceNotFound,
)
from prebuilds.planning.plan import deletions, state_of
from prebuilds.planning.rules import Rules
from prebuilds.store import evidence
from prebuilds.store.build_begin import begin_build
from prebuilds.store.build_end import end_build
from prebuilds.store.build_record import record_build
from prebuilds.store.claims import ClaimStore
from prebuilds.store.evidence import keep, prune
from prebuilds.store.loop import pause
from prebuilds.store.pool import delete_prebuilds
from prebuilds.store.snapshots import next_pass_number
from prebuilds.views import PruneResult
from prebuilds.vocabulary import PREBUILDS_USER_ID, BuildStatus, Transition
from tests.builders import apply_file, find_preset, make_preset
from tests.postgres.pool_steps import RULES, claim, fail, make_ready, record_prebuilds, snapshot_of, workspace_ids
from tests.rows import events, one, rows_of

PATH = "acme/python/small"
CLEARS_AT_ONCE = Rules(failed_retention=timedelta(0))


async def stop_one(engine: AsyncEngine, workspace_id: UUID) -> None:
    async with engine.begin() as connection:
        build = await record_build(connection, workspace_id, Transition.STOP, initiator_id=PREBUILDS_USER_ID)
    await begin_build(engine, build.id)
    await end_build(engine, build.id, BuildStatus.SUCCEEDED)


async def test_a_kept_prebuild_outlives_its_time(engine: AsyncEngine) -> None:
    preset = await make_preset(engine)
    [failed] = await fail(engine, preset, 1)
    assert list(deletions(await snapshot_of(engine, preset, CLEARS_AT_ONCE))) == [failed]
    for changed in (True, False):
        done = await keep(engine, str(failed), "ops")
        assert (done.workspace_id, done.kept, done.changed) == (failed, True, changed)
    assert list(deletions(await snapshot_of(engine, preset, CLEARS_AT_ONCE))) == []
    name = (await one(engine, "SELECT name FROM workspaces")).name
    for changed in (True, False):
        assert (await keep(engine, f"prebuilds/{name}", "ops", undo=True)).changed is changed
    assert list(deletions(await snapshot_of(engine, preset, CLEARS_AT_ONCE))) == [failed]
    for kind in ("kept", "keep_undone"):
        assert await events(engine, kind) == [(preset.id, {"name": name})]


async def test_only_an_unclaimed_workspace_can_be_kept(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine, instances=0)
    await make_ready(engine, preset, 1)
    claimed = (await claim(store, preset, name="dev")).result
    assert claimed is not None
    [leaving] = await make_ready(engine, preset, 1)
    await delete_prebuilds(engine, preset.id, await next_pass_number(engine), [leaving], RULES)
    rows = await rows_of(engine)
    for reference, message in (("alice/dev", "has an owner"), (str(leaving), "is being deleted already")):
        with pytest.raises(InvalidInput, match=message) as refusal:
            await keep(engine, reference, "ops")
        assert "workspace" in refusal.value.details
    for unknown in ("alice/none", str(uuid4())):
        with pytest.raises(WorkspaceNotFound):
            await keep(engine, unknown, "ops")
    assert await rows_of(engine) == rows


async def test_a_pass_never_deletes_evidence_kept_meanwhile(engine: AsyncEngine) -> None:
    preset = await make_preset(engine)
    for _ in range(15):
        [failed] = await fail(engine, preset, 1)
        number = await next_pass_number(engine)
        kept, deleted = await asyncio.gather(
            keep(engine, str(failed), "ops"),
            delete_prebuilds(engine, preset.id, number, [failed], CLEARS_AT_ONCE),
            return_exceptions=True,
        )
        assert not isinstance(deleted, BaseException)
        assert isinstance(kept, InvalidInput) == (deleted.workspace_ids == [failed])
        if isinstance(kept, BaseException) and not isinstance(kept, PrebuildsError):
            raise kept


async def test_evidence_is_pruned_by_kind_and_nothing_else_is(
    engine: AsyncEngine, store: ClaimStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "PRUNED_AT_ONCE_MAX", 2)
    preset = await make_preset(engine, instances=3)
    failed = await fail(engine, preset, 5)
    [stopped, canceled, *ready] = await make_ready(engine, preset, 4)
    await stop_one(engine, stopped)
    async with engine.begin() as connection:
        build = await record_build(connection, canceled, Transition.STOP, initiator_id=PREBUILDS_USER_ID)
    await end_build(engine, build.id, BuildStatus.CANCELED)
    taken = workspace_ids([await claim(store, preset)])
    await record_prebuilds(engine, preset, 1)
    await keep(engine, str(failed[0]), "ops")
    await pause(engine, "ops", "upgrade")

    rows = await rows_of(engine)
    dry = await prune(engine, "ops", failed=True, stopped=True, dry_run=True)
    assert (dry.result, dry.build_ids) == (PruneResult(pruned=6, kept=1), [])
    assert await rows_of(engine) == rows
    done = await prune(engine, "ops", failed=True, stopped=False)
    assert (done.result, len(done.build_ids)) == (PruneResult(pruned=5, kept=1), 5), "while paused, too"
    gone = await one(
        engine,
        """
        SELECT array_agg(b.workspace_id) AS ids, bool_and(b.initiator_id = :prebuilds) AS by_pool,
               bool_and(w.latest_transition = 'delete' AND w.latest_build = b.number AND NOT w.kept) AS carried
          FROM workspace_builds b JOIN workspaces w ON w.id = b.workspace_id WHERE b.transition = 'delete'
        """,
        prebuilds=PREBUILDS_USER_ID,
    )
    assert (set(gone.ids), gone.by_pool, gone.carried) == ({*failed[1:], canceled}, True, True)
    assert (await prune(engine, "ops", failed=True, stopped=False)).result == PruneResult(pruned=0, kept=1)
    assert (await prune(engine, "ops", failed=False, stopped=True)).result == PruneResult(pruned=1, kept=0)
    recorded = await events(engine, "pruned")
    assert [(data["failed"], data["stopped"]) for _, data in recorded] == [(True, False)] * 3 + [(False, True)]
    assert sum(len(data["workspaces"]) for _, data in recorded) == 6
    left = await one(engine, "SELECT array_agg(id) AS ids FROM workspaces WHERE claimable_preset_id IS NOT NULL")
    assert set(left.ids) == set(ready) - set(taken), "a ready prebuild stays"


async def test_pruning_lifts_no_hold_and_keeps_to_its_preset(engine: AsyncEngine) -> None:
    first = await make_preset(engine)
    await fail(engine, first, 3)
    await apply_file(engine, {"name": "small", "instances": 1, "parameters": {"a": "b"}})
    second = await find_preset(engine)
    await fail(engine, second, 3)
    other = await make_preset(engine, organization="other")
    await fail(engine, other, 1)
    assert (await prune(engine, "ops", failed=True, stopped=False, preset=str(second.id))).result.pruned == 3
    held = state_of(await snapshot_of(engine, second)).held
    assert held is not None
    assert held.reason == "hard_limited"
    assert (await prune(engine, "ops", failed=True, stopped=False, preset=PATH)).result.pruned == 3, "any version's"
    assert (await prune(engine, "ops", failed=True, stopped=True)).result.pruned == 1
    with pytest.raises(PresetNotFound):
        await prune(engine, "ops", failed=True, stopped=True, preset="acme/python/none")


async def test_a_restarted_prebuild_is_no_evidence_any_more(engine: AsyncEngine) -> None:
    preset = await make_preset(engine)
    [workspace] = await make_ready(engine, preset, 1)
    await stop_one(engine, workspace)
    async with engine.begin() as connection:  # somebody starts it again, just before
        await record_build(connection, workspace, Transition.START, initiator_id=PREBUILDS_USER_ID)
        pruning = asyncio.create_task(prune(engine, "ops", failed=True, stopped=True))
        await until_waiting(engine, pruning)
    assert (await pruning).result.pruned == 0
    assert (await one(engine, "SELECT latest_transition FROM workspaces")).latest_transition == "start"


async def until_waiting(engine: AsyncEngine, task: asyncio.Task[Any]) -> None:
    """Wait until a transaction waits for a row that another one holds."""
    async with asyncio.timeout(10):
        while not (await one(engine, "SELECT count(*) FROM pg_locks WHERE NOT granted")).count:
            assert not task.done(), "it waited for nobody"
            await asyncio.sleep(0.01)
