"""Rows removed for their age, rows that stay, and answers that outlast their workspace."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import WorkspaceNotFound
from prebuilds.background.retaining import Retention
from prebuilds.planning.holds import Hold
from prebuilds.planning.plan import state_of
from prebuilds.settings import Settings
from prebuilds.store.claim_states import read_claims
from prebuilds.store.claims import ClaimStore
from prebuilds.store.explain import explain_claim
from prebuilds.store.history import report_restored
from prebuilds.store.identity import read_identity
from prebuilds.store.retention import RULES
from prebuilds.store.sign_in_links import make_link
from prebuilds.store.workspaces import check_not_released, release_workspace
from prebuilds.vocabulary import BuildStatus, build_id_of
from tests.builders import make_preset
from tests.postgres.lifecycle_steps import claimed, let_pass, row_of, run
from tests.postgres.pool_steps import claim, fail, make_ready, record_prebuilds, snapshot_of
from tests.postgres.retention_steps import count, remove_old, take_turn
from tests.rows import do, one

DAY = timedelta(days=1)
MONTH = timedelta(days=31)


async def test_a_won_claim_has_its_answer_after_its_workspace_is_removed(
    engine: AsyncEngine, store: ClaimStore
) -> None:
    preset = await make_preset(engine, instances=0)
    await make_ready(engine, preset, 2)
    claimed = await claim(store, preset, "first", name="dev", claim_parameters={})
    assert claimed.result is not None
    workspace_id = claimed.result.workspace_id
    await run(engine, workspace_id)
    await release_workspace(engine, "alice/dev", "alice")
    await run(engine, workspace_id)
    before = (await read_claims(engine, ["first"]))["first"]
    await let_pass(engine, MONTH)
    await make_ready(engine, preset, 3)  # the holds do not need the old creation any more
    assert await remove_old(engine, "workspaces") == {"workspaces": 1, "workspace_builds": 3}
    assert await count(engine, "workspaces", f"id = '{workspace_id}'") == 0
    again = await claim(store, preset, "first", name="dev")
    assert again.result == claimed.result
    assert not again.decided_now
    assert not again.build_open
    assert (await read_claims(engine, ["first"]))["first"].same_as(before)
    assert (await explain_claim(engine, "first")).outcome == "prebuilt"
    with pytest.raises(WorkspaceNotFound, match="long ago"):
        await check_not_released(engine, workspace_id)


async def test_no_second_claim_wins_what_a_removed_workspace_was(engine: AsyncEngine, store: ClaimStore) -> None:
    """The answer's row keeps the workspace's id, which stays unique."""
    workspace_id = await claimed(engine, store, claim_id="first")
    with pytest.raises(Exception, match="claims_workspace_id_key"):
        await do(
            engine,
            "INSERT INTO claims (id, request_hash, run, other_runs_after, outcome, workspace_id)"
            " VALUES ('other', '', '', now(), 'created', :id)",
            id=workspace_id,
        )


async def test_live_young_and_abandoned_workspaces_stay(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine, instances=0)
    ids = await make_ready(engine, preset, 4)
    await let_pass(engine, MONTH)
    await make_ready(engine, preset, 3)
    live, young, abandoned, old = ids
    await do(
        engine,
        """
        UPDATE workspaces SET claimable_preset_id = NULL, claim_build_id = NULL, deleted_at = now() - interval '31 days'
         WHERE id <> :live AND id = ANY(:ids)
        """,
        live=live,
        ids=ids,
    )
    await do(engine, "UPDATE workspaces SET deleted_at = now() - interval '29 days' WHERE id = :id", id=young)
    await do(engine, "UPDATE workspaces SET abandoned_at = deleted_at WHERE id = :id", id=abandoned)
    assert await remove_old(engine, "workspaces") == {"workspaces": 1, "workspace_builds": 1}
    assert await count(engine, "workspaces", f"id = '{old}'") == 0
    assert await count(engine, "workspaces", f"id IN ('{live}', '{young}', '{abandoned}')") == 3


async def test_a_walk_goes_on_behind_what_stays_and_begins_again_after_a_day(
    engine: AsyncEngine, store: ClaimStore
) -> None:
    preset = await make_preset(engine, instances=0)
    ids = await make_ready(engine, preset, 5)
    await let_pass(engine, MONTH)
    await make_ready(engine, preset, 3)
    gone = "UPDATE workspaces SET claimable_preset_id = NULL, claim_build_id = NULL, deleted_at = :at WHERE id = :id"
    begin = (await one(engine, "SELECT now() - interval '40 days' AS at")).at
    for n, workspace_id in enumerate(ids):
        await do(engine, gone, at=begin + timedelta(hours=n), id=workspace_id)
    await do(engine, "UPDATE workspaces SET abandoned_at = now() WHERE id = ANY(:ids)", ids=ids[:2])
    turns = [await take_turn(engine, "workspaces", batch=2) for _ in range(3)]
    assert [turn and (dict(turn.rows).get("workspaces", 0), turn.more) for turn in turns] == [
        (0, True),
        (2, True),
        (1, False),
    ]
    await do(engine, "UPDATE workspaces SET abandoned_at = NULL")
    assert await remove_old(engine, "workspaces", batch=2) == {}
    await do(engine, "UPDATE retention SET round_began_at = now() - interval '25 hours'")
    assert await remove_old(engine, "workspaces", batch=2) == {}
    assert await remove_old(engine, "workspaces", batch=2) == {"workspaces": 2, "workspace_builds": 2}


async def test_creations_that_holds_look_at_stay(engine: AsyncEngine, store: ClaimStore) -> None:
    """Without the success between them, the failures would be the newest three in a row."""
    preset = await make_preset(engine, instances=1)
    for number in (1, 0, 2):
        if number:
            await fail(engine, preset, number)
        else:
            await make_ready(engine, preset, 1)
        await let_pass(engine, MONTH)
    await do(
        engine,
        """
        UPDATE workspaces SET claimable_preset_id = NULL, claim_build_id = NULL, deleted_at = now() - interval '31 days'
         WHERE latest_status = 'succeeded'
        """,
    )
    assert state_of(await snapshot_of(engine, preset)).held is None
    assert await remove_old(engine, "workspaces") == {}
    held = state_of(await snapshot_of(engine, preset)).held
    assert held is None or held.reason is not Hold.HARD_LIMITED
    await make_ready(engine, preset, 3)
    await do(engine, "UPDATE retention SET walked_at = NULL, walked_id = NULL")
    assert await remove_old(engine, "workspaces") == {"workspaces": 1, "workspace_builds": 1}


async def delete_long_ago(engine: AsyncEngine, ids: list[UUID]) -> None:
    await do(
        engine,
        """
        UPDATE workspaces SET claimable_preset_id = NULL, claim_build_id = NULL, deleted_at = now() - interval '31 days'
         WHERE id = ANY(:ids)
        """,
        ids=ids,
    )


async def test_failures_within_a_long_lookback_stay(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREBUILDS_BACKOFF_LOOKBACK", "60d")
    rules = replace(Settings().rules, backoff_interval=DAY)
    preset = await make_preset(engine, instances=3)
    old = await fail(engine, preset, 2)
    await let_pass(engine, MONTH)
    await delete_long_ago(engine, old)
    await fail(engine, preset, 1)
    await make_ready(engine, preset, 2)
    before = state_of(await snapshot_of(engine, preset, rules)).held
    assert before is not None
    assert before.reason is Hold.BACKOFF
    assert await remove_old(engine, "workspaces") == {}
    assert state_of(await snapshot_of(engine, preset, rules)).held == before


@pytest.mark.parametrize("mended", [False, True])
async def test_the_newest_invalid_creation_and_the_newest_success_stay(engine: AsyncEngine, mended: bool) -> None:
    """These rows decide whether the input is impossible, however many creations have failed since."""
    preset = await make_preset(engine, instances=1)
    old = await fail(engine, preset, 1, "InvalidSource")
    if mended:
        await let_pass(engine, DAY)
        old = await make_ready(engine, preset, 1)  # and the invalid one is kept as evidence
    await let_pass(engine, MONTH)
    await delete_long_ago(engine, old)
    await fail(engine, preset, 3)
    held = state_of(await snapshot_of(engine, preset)).held
    assert held is not None
    assert held.reason is (Hold.HARD_LIMITED if mended else Hold.VALIDATION_FAILED)
    assert await remove_old(engine, "workspaces") == {}
    assert state_of(await snapshot_of(engine, preset)).held == held


async def test_a_live_workspace_keeps_the_builds_that_its_next_one_needs(
    engine: AsyncEngine, store: ClaimStore
) -> None:
    workspace_id = await claimed(engine, store)
    for transition in ("stop", "start", "stop", "start"):
        await do(engine, "UPDATE workspaces SET latest_build = latest_build + 1 WHERE id = :id", id=workspace_id)
        number = (await row_of(engine, workspace_id)).latest_build
        await do(
            engine,
            """
            INSERT INTO workspace_builds (id, workspace_id, number, transition, stage, status, initiator_id,
                                          template_version_id, provisioner_state, completed_at)
            SELECT :build_id, w.id, :number, :transition, 'none', 'succeeded', w.owner_id, w.template_version_id,
                   CASE WHEN :number = 3 THEN CAST('{}' AS jsonb) END, now()
              FROM workspaces w WHERE w.id = :id
            """,
            id=workspace_id,
            build_id=build_id_of(workspace_id, number),
            number=number,
            transition=transition,
        )
    assert await remove_old(engine, "builds") == {}
    await let_pass(engine, MONTH)
    assert await remove_old(engine, "builds", batch=2) == {}
    walked = [await remove_old(engine, "builds", batch=2) for _ in range(3)]
    assert sum(turn.get("workspace_builds", 0) for turn in walked) == 1
    left = await one(
        engine,
        "SELECT array_agg(number ORDER BY number) AS n FROM workspace_builds WHERE workspace_id = :id",
        id=workspace_id,
    )
    assert left.n == [1, 2, 3, 5, 6], "the creation, the claim's, the last with a state, and the newest of each kind"


async def test_nothing_is_removed_while_a_restore_is_found(engine: AsyncEngine) -> None:
    await make_link(engine, "t")
    await do(engine, "UPDATE sign_in_links SET expires_at = now()")
    await report_restored(engine, "host h1: event 7 was seen", (await read_identity(engine)).epoch)
    assert await take_turn(engine, "sign_in_links") is None


async def test_one_relay_at_a_time_applies_a_rule_and_then_rests(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("SELECT FROM retention WHERE rule = 'tokens' FOR UPDATE"))
        assert await Retention(engine, Settings()).sweep() is False
    row = await one(engine, "SELECT count(*) FILTER (WHERE next_at > now()) AS rest, count(*) AS n FROM retention")
    assert (row.rest, row.n) == (len(RULES) - 1, len(RULES))


async def test_rows_locked_by_a_claim_are_skipped(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine, instances=0)
    await claim(store, preset, "old")
    await do(engine, "UPDATE claims SET created_at = now() - interval '31 days', completed_at = NULL")
    async with engine.begin() as connection:
        await connection.execute(text("SELECT FROM claims WHERE id = 'old' FOR UPDATE"))
        assert await remove_old(engine, "misses") == {}
    assert await remove_old(engine, "misses") == {"claims": 1}


async def test_a_workspace_with_an_open_build_stays(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine, instances=0)
    [workspace_id] = await record_prebuilds(engine, preset, 1)
    await let_pass(engine, MONTH)
    await make_ready(engine, preset, 3)
    await do(engine, "UPDATE workspaces SET deleted_at = now() - interval '31 days' WHERE id = :id", id=workspace_id)
    assert await remove_old(engine, "workspaces") == {}
    assert (
        await one(engine, "SELECT status FROM workspace_builds WHERE status = 'pending'")
    ).status == BuildStatus.PENDING
