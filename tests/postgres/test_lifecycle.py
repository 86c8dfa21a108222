"""Requests for a claimed workspace: start, stop, retry, set; repeated, too late, and for an unclaimed one."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import InvalidInput, WorkspaceNotFound
from prebuilds.planning.autostart import next_start
from prebuilds.store.actions import take_due_actions
from prebuilds.store.claims import ClaimStore
from prebuilds.store.jobs import cancel_jobs
from prebuilds.store.lifecycle import retry_workspace, set_workspace, start_workspace, stop_workspace
from prebuilds.store.pool import delete_prebuilds
from prebuilds.store.snapshots import next_pass_number
from prebuilds.store.workspaces import list_workspaces, release_workspace, show_workspace
from prebuilds.views import JobFilter
from prebuilds.vocabulary import PREBUILDS_USER_ID, build_id_of
from tests.builders import make_preset
from tests.postgres.lifecycle_steps import (
    DAILY,
    DAY,
    DEV,
    FAILED,
    HOUR,
    builds_of,
    claimed,
    let_pass,
    moment_comes,
    row_of,
    run,
    secrets_of,
)
from tests.postgres.pool_steps import RULES, claim, fail, make_ready, workspace_ids
from tests.rows import events, one, rows_of


async def test_stop_and_start_are_recorded_once_for_the_owner(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, initiator="bob", claim_parameters={"token": "a"})
    already = await start_workspace(engine, DEV, "ops")
    assert (already.changed, already.status, already.build_id) == (False, "running", build_id_of(dev, 2))
    for changed, status in ((True, "stopping"), (False, "stopping")):
        done = await stop_workspace(engine, DEV, "ops")
        assert (done.changed, done.status, done.build_id) == (changed, status, build_id_of(dev, 3))
    await run(engine, dev)
    rows = await rows_of(engine)
    stopped = await stop_workspace(engine, str(dev), "ops")
    assert (stopped.changed, stopped.status, stopped.workspace) == (False, "stopped", DEV)
    assert await rows_of(engine) == rows, "and nothing is written for it"
    for changed in (True, False):
        assert (await start_workspace(engine, DEV, "ops")).changed is changed
    await run(engine, dev)
    assert await builds_of(engine, dev) == [
        "start claim succeeded bob",
        "stop none succeeded alice",
        "start none succeeded alice",
    ]
    assert await secrets_of(engine, dev) == {"token": "a"}
    for kind, transition in (("stop_requested", "stop"), ("start_requested", "start")):
        assert [data for _, data in await events(engine, kind)] == [{"transition": transition, "stage": "none"}]
    actors = await one(engine, "SELECT array_agg(DISTINCT actor) AS recorded FROM events WHERE kind LIKE '%requested'")
    assert actors.recorded == ["ops"]


async def test_concurrent_requests_share_one_build(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store)
    for ask in (stop_workspace, start_workspace, stop_workspace):
        done = await asyncio.gather(*[ask(engine, DEV, f"ops-{n}") for n in range(6)])
        assert sorted(d.changed for d in done) == [False] * 5 + [True]
        assert len({d.build_id for d in done}) == 1
        await run(engine, dev)


async def test_a_start_calls_off_a_stop_that_was_not_begun(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store)
    await stop_workspace(engine, DEV, "ops")
    assert (await start_workspace(engine, DEV, "ops")).changed
    assert (await builds_of(engine, dev))[1:] == ["stop none canceled alice", "start none pending alice"]


async def test_only_claimed_workspaces_are_steered(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store)
    preset = await make_preset(engine, instances=0)
    [pooled] = await make_ready(engine, preset, 1)
    [failed] = await fail(engine, preset, 1)
    await release_workspace(engine, DEV, "ops")
    rows = await rows_of(engine)
    for ask in (start_workspace, stop_workspace):
        with pytest.raises(InvalidInput, match="workspaces prune") as refused:
            await ask(engine, str(pooled), "ops")
        assert list(refused.value.details) == ["workspace"]
        with pytest.raises(InvalidInput, match="being deleted"):
            await ask(engine, DEV, "ops")
        for unknown in ("alice/none", str(uuid4())):
            with pytest.raises(WorkspaceNotFound):
                await ask(engine, unknown, "ops")
    with pytest.raises(InvalidInput, match="nobody has claimed"):
        await retry_workspace(engine, str(failed), "ops")
    for reference, message in ((str(pooled), "nobody has claimed"), (DEV, "being deleted")):
        with pytest.raises(InvalidInput, match=message):
            await set_workspace(engine, reference, "ops", ttl=HOUR)
    assert await rows_of(engine) == rows
    await run(engine, dev)
    for ask in (start_workspace, stop_workspace, retry_workspace):
        with pytest.raises(WorkspaceNotFound):
            await ask(engine, str(dev), "ops")


async def test_a_failed_deletion_is_no_way_back(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, autostart_schedule=DAILY)
    await release_workspace(engine, DEV, "ops")
    await run(engine, dev, FAILED)
    for ask in (start_workspace, stop_workspace):
        with pytest.raises(InvalidInput, match="being deleted"):
            await ask(engine, DEV, "ops")
    await let_pass(engine, DAY)
    assert await take_due_actions(engine) == [build_id_of(dev, 4)]
    await run(engine, dev, FAILED)
    assert (await retry_workspace(engine, DEV, "ops")).status == "deleting"
    await run(engine, dev)
    assert (await builds_of(engine, dev))[1:] == ["delete none failed alice"] * 2 + ["delete none succeeded alice"]
    row = await row_of(engine, dev)
    assert (row.next_action_at, row.next_start_at) == (None, None)


# --- Retries ---


async def test_a_claim_that_failed_three_times_is_its_owners_to_retry(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, initiator="bob", claim_parameters={"token": "a"}, handed_over=False)
    for wait in (2, 4, None):
        await run(engine, dev, FAILED)
        assert await take_due_actions(engine) == []
        if wait is not None:
            await let_pass(engine, timedelta(seconds=wait))
            assert len(await take_due_actions(engine)) == 1
    await let_pass(engine, DAY)
    assert await take_due_actions(engine) == []
    [shown] = await list_workspaces(engine, owner="alice")
    assert (shown.id, shown.status, shown.ready) == (dev, "failed", False)

    done = await retry_workspace(engine, DEV, "ops")
    assert (done.changed, done.status, done.build_id) == (True, "starting", build_id_of(dev, 5))
    again = await retry_workspace(engine, DEV, "ops")
    assert (again.changed, again.status, again.build_id) == (False, "starting", done.build_id)
    await run(engine, dev)
    assert await builds_of(engine, dev) == ["start claim failed bob"] * 3 + ["start claim succeeded bob"]
    assert await secrets_of(engine, dev) == {"token": "a"}
    assert [data for _, data in await events(engine, "retried")] == [{"transition": "start", "stage": "claim"}]
    rows = await rows_of(engine)
    assert (await retry_workspace(engine, DEV, "ops")).changed is False
    assert await rows_of(engine) == rows, "nothing has failed any more"


async def test_a_retry_days_later_gets_its_whole_ttl(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, ttl_seconds=3600, handed_over=False)
    for _ in range(3):
        await run(engine, dev, FAILED)
        await let_pass(engine, timedelta(seconds=10))
        await take_due_actions(engine)
    await let_pass(engine, 3 * DAY)
    await retry_workspace(engine, DEV, "alice")
    await run(engine, dev)
    assert await take_due_actions(engine) == []
    row = await row_of(engine, dev)
    assert (row.latest_transition, row.latest_status) == ("start", "succeeded")
    assert row.next_action_at > datetime.now(UTC) + HOUR - timedelta(minutes=1)


@pytest.mark.parametrize("by_schedule", [False, True])
async def test_a_stop_before_the_hand_over_leaves_it_to_the_next_start(
    engine: AsyncEngine, store: ClaimStore, by_schedule: bool
) -> None:
    dev = await claimed(engine, store, autostart_schedule=DAILY, claim_parameters={"token": "a"}, handed_over=False)
    await stop_workspace(engine, DEV, "alice")
    await run(engine, dev)
    if by_schedule:
        await moment_comes(engine, dev)
        assert await take_due_actions(engine) == [build_id_of(dev, 4)]
    else:
        await start_workspace(engine, DEV, "alice")
    await run(engine, dev)
    for _ in range(2):
        await stop_workspace(engine, DEV, "alice")
        await run(engine, dev)
        await start_workspace(engine, DEV, "alice")
        await run(engine, dev)
    assert await builds_of(engine, dev) == [
        "start claim canceled alice",
        "stop none succeeded alice",
        "start claim succeeded alice",
        *["stop none succeeded alice", "start none succeeded alice"] * 2,
    ]
    assert await secrets_of(engine, dev) == {"token": "a"}


async def test_a_failed_creation_of_a_claim_is_retried_unchanged(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine, instances=0)
    created = await claim(
        store, preset, name="dev", on_empty="create", initiator="bob", claim_parameters={"token": "a"}
    )
    [dev] = workspace_ids([created])
    await run(engine, dev, FAILED)
    await retry_workspace(engine, DEV, "ops")
    again = await one(
        engine,
        "SELECT b.stage, u.name FROM workspace_builds b JOIN users u ON u.id = b.initiator_id WHERE b.id = :id",
        id=build_id_of(dev, 2),
    )
    assert (again.stage, again.name) == ("none", "bob")
    assert await secrets_of(engine, dev) == {"token": "a"}


async def test_a_canceled_or_failed_stop_can_be_retried(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, ttl_seconds=3600)
    await stop_workspace(engine, DEV, "alice")
    await cancel_jobs(engine, JobFilter(initiator="alice"), "ops")
    row = await row_of(engine, dev)
    assert row.next_action_at == row.last_used_at + HOUR, "its ttl ends all the same"
    assert (await retry_workspace(engine, DEV, "ops")).status == "stopping"
    await run(engine, dev, FAILED)
    await let_pass(engine, HOUR)
    assert await take_due_actions(engine) == [build_id_of(dev, 5)]
    await run(engine, dev)
    assert (await builds_of(engine, dev))[1:] == [
        "stop none canceled alice",
        "stop none failed alice",
        "stop none succeeded alice",
    ]


async def test_a_prebuilds_deletion_may_be_tried_again_at_once(engine: AsyncEngine) -> None:
    preset = await make_preset(engine, instances=0)
    [pooled] = await make_ready(engine, preset, 1)
    await delete_prebuilds(engine, preset.id, await next_pass_number(engine), [pooled], RULES)
    await run(engine, pooled, FAILED)
    done = await retry_workspace(engine, str(pooled), "ops")
    build = await one(engine, "SELECT transition, initiator_id FROM workspace_builds WHERE id = :id", id=done.build_id)
    assert (build.transition, build.initiator_id) == ("delete", PREBUILDS_USER_ID)


# --- set ---


async def test_changed_settings_take_effect_at_once_and_once(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, ttl_seconds=3600)
    await let_pass(engine, timedelta(minutes=30))
    now = datetime.now(UTC)
    done = await set_workspace(engine, DEV, "ops", autostart=f" {DAILY} ")
    assert (done.changed, done.ttl_seconds, done.autostart_schedule) == (True, 3600, DAILY)
    row = await row_of(engine, dev)
    assert done.next_start_at == row.next_start_at == next_start(DAILY, now)
    assert done.next_action_at == row.next_action_at == min(row.last_used_at + HOUR, row.next_start_at)
    rows = await rows_of(engine)
    again = await set_workspace(engine, DEV, "ops", autostart=DAILY, ttl=HOUR)
    assert again == done.model_copy(update={"changed": False})
    assert await rows_of(engine) == rows, "as it was: nothing is written"

    shorter = await set_workspace(engine, DEV, "ops", ttl=timedelta(minutes=10))
    assert (shorter.ttl_seconds, shorter.autostart_schedule, shorter.next_start_at) == (600, DAILY, done.next_start_at)
    assert await take_due_actions(engine) == [build_id_of(dev, 3)], "the end has passed already"
    await run(engine, dev)
    for text in ("none", ""):
        without = await set_workspace(engine, DEV, "ops", autostart=text)
        assert (without.autostart_schedule, without.next_start_at, without.next_action_at) == (None, None, None)
    await start_workspace(engine, DEV, "ops")
    await run(engine, dev)
    unlimited = await set_workspace(engine, DEV, "ops", ttl=timedelta(0))
    assert (unlimited.ttl_seconds, unlimited.next_action_at) == (None, None)
    recorded = [data for _, data in await events(engine, "workspace_set")]
    assert recorded == [
        {"ttl_seconds": 3600, "autostart_schedule": DAILY},
        {"ttl_seconds": 600, "autostart_schedule": DAILY},
        {"ttl_seconds": 600, "autostart_schedule": None},
        {"ttl_seconds": None, "autostart_schedule": None},
    ]


async def test_only_another_schedule_moves_the_next_moment(engine: AsyncEngine, store: ClaimStore) -> None:
    chosen = datetime.now(UTC).replace(microsecond=0) + 10 * DAY
    await claimed(engine, store, autostart_schedule=DAILY, next_start_at=chosen)
    assert (await set_workspace(engine, DEV, "ops", ttl=HOUR)).next_start_at == chosen
    other = await set_workspace(engine, DEV, "ops", autostart="0 12 * * 1")
    assert other.next_start_at == next_start("0 12 * * 1", datetime.now(UTC))


async def test_settings_changed_during_a_build_count_from_its_end(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, handed_over=False)
    done = await set_workspace(engine, DEV, "ops", ttl=HOUR, autostart=DAILY)
    assert done.next_action_at is None
    assert done.next_start_at is not None
    await run(engine, dev)
    row = await row_of(engine, dev)
    assert row.next_action_at == min(row.last_used_at + HOUR, row.next_start_at)


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "ttl"),
    ({"ttl": timedelta(seconds=-1)}, "ttl"),
    ({"ttl": timedelta(days=366)}, "ttl"),
    ({"autostart": "whenever"}, "autostart_schedule"),
    ({"autostart": "0 0 30 2 *", "ttl": HOUR}, "autostart_schedule"),
    ({"autostart": "CRON_TZ=Nowhere/Else 0 0 * * *"}, "autostart_schedule"),
]


@pytest.mark.parametrize(("given", "field"), BAD, ids=[str(b[0]) for b in BAD])
async def test_nothing_is_written_for_bad_settings(
    engine: AsyncEngine, store: ClaimStore, given: dict[str, Any], field: str
) -> None:
    await claimed(engine, store, ttl_seconds=60, autostart_schedule=DAILY)
    rows = await rows_of(engine)
    with pytest.raises(InvalidInput) as refused:
        await set_workspace(engine, DEV, "ops", **given)
    assert list(refused.value.details) == [field]
    assert await rows_of(engine) == rows


async def test_show_tells_what_is_to_come(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, ttl_seconds=3600, autostart_schedule=DAILY)
    shown, row = await show_workspace(engine, DEV), await row_of(engine, dev)
    assert shown.autostart_schedule == DAILY
    assert (shown.next_start_at, shown.next_action_at) == (row.next_start_at, row.next_action_at)
    assert None not in (row.next_start_at, row.next_action_at)
