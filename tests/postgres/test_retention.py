"""What is removed for its age and what stays, and that an answer outlasts what it was about."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import WorkspaceNotFound
from prebuilds.background.retaining import Retention
from prebuilds.operations.event_feed import EventFeed
from prebuilds.planning.holds import Hold
from prebuilds.planning.plan import state_of
from prebuilds.settings import Settings
from prebuilds.store.claim_states import read_claims
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import dsn_of
from prebuilds.store.events import record_event
from prebuilds.store.explain import explain_claim
from prebuilds.store.history import report_restored
from prebuilds.store.identity import read_identity
from prebuilds.store.sign_in_links import make_link
from prebuilds.store.workspaces import check_not_released, release_workspace
from prebuilds.vocabulary import BuildStatus, build_id_of
from tests.builders import apply_file, find_preset, make_preset
from tests.postgres.lifecycle_steps import claimed, let_pass, row_of, run
from tests.postgres.pool_steps import claim, fail, make_ready, record_prebuilds, snapshot_of, workspace_ids
from tests.postgres.retention_steps import remove_old, take_turn
from tests.rows import do, one

DAY = timedelta(days=1)
MONTH = timedelta(days=31)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[ClaimStore]:
    async with asyncpg.create_pool(dsn_of(database_url), min_size=1, max_size=8) as pool:
        yield ClaimStore(pool, enabled=True)


async def count(engine: AsyncEngine, table: str, where: str = "true") -> int:
    return int((await one(engine, f"SELECT count(*) AS n FROM {table} WHERE {where}")).n)


async def test_a_won_claim_has_its_answer_after_its_workspace_is_removed(
    engine: AsyncEngine, store: ClaimStore
) -> None:
    preset = await make_preset(engine, instances=0)
    await make_ready(engine, preset, 2)
    won = await claim(store, preset, "first", name="dev", claim_parameters={})
    assert won.result is not None
    workspace_id = won.result.workspace_id
    await run(engine, workspace_id)
    await release_workspace(engine, "alice/dev", "alice")
    await run(engine, workspace_id)
    before = (await read_claims(engine, ["first"]))["first"]
    await let_pass(engine, MONTH)
    await make_ready(engine, preset, 3)  # the holds do not need the old creation any more
    assert await remove_old(engine, "workspaces") == {"workspaces": 1, "workspace_builds": 3}
    assert await count(engine, "workspaces", f"id = '{workspace_id}'") == 0
    again = await claim(store, preset, "first", name="dev")
    assert again.result == won.result
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
    """They say whether the input is impossible, however many creations have failed since."""
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


async def test_claims_that_won_nothing_go_and_waiting_ones_stay(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine, instances=0)
    await make_ready(engine, preset, 1)
    await claim(store, preset, "won")
    for claim_id in ("missed", "waits", "young"):
        await claim(store, preset, claim_id)
    await do(
        engine,
        """
        INSERT INTO claim_queue (claim_id, workflow_id, template_id, preset_name, owner_id, initiator_id, request,
                                 request_hash, deadline)
        SELECT 'waits', 'w', :template_id, 'small', u.id, u.id, '{}', '', now() FROM users u WHERE u.key = 'alice'
        """,
        template_id=preset.template_id,
    )
    old = "UPDATE claims SET created_at = now() - interval '31 days', completed_at = now() - interval '31 days'"
    await do(engine, f"{old} WHERE id <> 'young'")
    await do(engine, "UPDATE claims SET created_at = now() - interval '31 days' WHERE id = 'young'")
    assert await remove_old(engine, "misses") == {"claims": 1}
    assert await count(engine, "claims", "id IN ('won', 'waits', 'young')") == 3


async def test_a_claim_whose_row_is_removed_meanwhile_is_recorded(engine: AsyncEngine, store: ClaimStore) -> None:
    """A trigger removes the row at the moment at which another transaction could: after the claim has found it."""
    preset = await make_preset(engine, instances=0)
    await claim(store, preset, "again", name="dev")
    async with engine.begin() as connection:
        await connection.execute(
            text("""
            CREATE FUNCTION take_away() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                DELETE FROM claims WHERE id = NEW.id AND workspace_id IS NULL AND run <> NEW.run;
                RETURN CASE WHEN FOUND THEN NULL ELSE NEW END;
            END $$
            """)
        )
        await connection.execute(
            text("CREATE TRIGGER take_away BEFORE INSERT ON claims FOR EACH ROW EXECUTE FUNCTION take_away()")
        )
    await make_ready(engine, preset, 1)
    won = await claim(store, preset, "again", name="dev")
    [workspace_id] = workspace_ids([won])
    assert (await one(engine, "SELECT workspace_id FROM claims WHERE id = 'again'")).workspace_id == workspace_id


async def test_a_reader_who_comes_back_too_late_is_told_of_the_gap(engine: AsyncEngine) -> None:
    async def record(kind: str) -> None:
        async with engine.begin() as connection:
            await record_event(connection, kind, "tester")

    for n in range(4):
        await record(f"e{n}")
    async with aclosing(EventFeed(engine).follow("0")) as parts:
        await anext(parts)
        first = await anext(parts)
    assert first.missing_after is None
    seen = [first.cursor_of(event) for event in first.events]
    await do(engine, "UPDATE events SET at = at - interval '91 days' WHERE kind IN ('e0', 'e1')")
    assert await remove_old(engine, "events") == {"events": 2}
    for cursor, missing in ((seen[0], seen[0]), (seen[1], None), ("0", None)):
        async with aclosing(EventFeed(engine).follow(cursor)) as parts:
            await anext(parts)
            part = await anext(parts)
        assert (part.missing_after, [event.kind for event in part.events]) == (missing, ["e2", "e3"])


async def test_events_go_in_their_order(engine: AsyncEngine) -> None:
    for kind in ("old", "young", "old too", "newest"):
        async with engine.begin() as connection:
            await record_event(connection, kind, "tester")
    await do(engine, "UPDATE events SET at = at - interval '91 days' WHERE kind LIKE 'old%'")
    assert await remove_old(engine, "events") == {"events": 1}
    assert await count(engine, "events", "kind = 'old too'") == 1, "a cursor says of all before it that they are there"


async def test_events_stay_as_long_as_the_first_release_keeps_them(engine: AsyncEngine) -> None:
    """Until `prebuilds migrate --finish`, its workers may run: they would say that the database was restored."""
    for kind in ("very old", "old", "newest"):
        async with engine.begin() as connection:
            await record_event(connection, kind, "tester")
    await do(engine, "UPDATE events SET at = at - interval '80 days' WHERE kind = 'old'")
    await do(engine, "UPDATE events SET at = at - interval '91 days' WHERE kind = 'very old'")
    finished = (await one(engine, "SELECT version_num FROM alembic_version")).version_num
    await do(engine, "UPDATE alembic_version SET version_num = '0001'")
    assert await remove_old(engine, "events", life=2 * DAY) == {"events": 1}
    await do(engine, "UPDATE alembic_version SET version_num = :finished", finished=finished)
    assert await remove_old(engine, "events", life=2 * DAY) == {"events": 1}
    assert await count(engine, "events", "kind = 'newest'") == 1


async def test_versions_go_with_their_presets_and_files_when_nothing_uses_them(
    engine: AsyncEngine, store: ClaimStore
) -> None:
    small = {"name": "small", "instances": 0, "parameters": {"size": "s"}, "timezone": "UTC"}
    for n in range(13):
        await apply_file(engine, small, source={"command": ["sleep", str(n)]})
        if n == 1:
            await make_ready(engine, await find_preset(engine), 1)
    await do(engine, "UPDATE template_versions SET created_at = created_at - interval '91 days'")
    removed = await remove_old(engine, "versions")
    assert removed == {"template_versions": 2, "presets": 2}, "ten stay, the active one, and the one with a workspace"
    assert await count(engine, "template_versions", "number IN (2, 13)") == 2
    assert await remove_old(engine, "versions") == {}


async def test_no_version_goes_beside_an_apply(engine: AsyncEngine) -> None:
    from prebuilds.store.apply import lock_apply

    async with engine.begin() as connection:
        await lock_apply(connection)
        assert await take_turn(engine, "versions") is None


async def test_revoked_tokens_and_old_links_go(engine: AsyncEngine) -> None:
    token = """
        INSERT INTO tokens (id, name, digest, scopes, epoch, created_by, expires_at, revoked_at, revoked_by)
        SELECT gen_random_uuid(), :name, sha256('x'), '{read}', epoch, 'ops', now() - CAST(:expired AS interval),
               now() - CAST(:revoked AS interval), CASE WHEN CAST(:revoked AS interval) IS NOT NULL THEN 'ops' END
          FROM settings
    """
    old, young = 91 * DAY, 89 * DAY
    for name, expired, revoked in (
        ("good", None, None),
        ("revoked", None, old),
        ("lately-revoked", -DAY, young),
        ("expired", old, None),
    ):
        await do(engine, token, name=name, expired=expired, revoked=revoked)
    assert await remove_old(engine, "tokens") == {"tokens": 2}
    await make_link(engine, "t")
    assert await remove_old(engine, "sign_in_links") == {}
    await do(engine, "UPDATE sign_in_links SET expires_at = now()")
    assert await remove_old(engine, "sign_in_links") == {"sign_in_links": 1}


async def test_old_demand_goes(engine: AsyncEngine) -> None:
    preset = await make_preset(engine)
    for days in (91, 89):
        await do(
            engine,
            """
            INSERT INTO preset_demand (template_id, preset_name, minute, claims, hits)
            VALUES (:template_id, 'small', date_trunc('minute', now()) - CAST(:age AS interval), '{1,0,0,0,0,0}', 1)
            """,
            template_id=preset.template_id,
            age=timedelta(days=days),
        )
    assert await remove_old(engine, "demand") == {"preset_demand": 1}


async def test_nothing_is_removed_while_a_restore_is_found(engine: AsyncEngine) -> None:
    await make_link(engine, "t")
    await do(engine, "UPDATE sign_in_links SET expires_at = now()")
    await report_restored(engine, "host h1: event 7 was seen", (await read_identity(engine)).epoch)
    assert await take_turn(engine, "sign_in_links") is None


async def test_one_relay_at_a_time_applies_a_rule_and_rests_when_it_is_done(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("SELECT FROM retention WHERE rule = 'tokens' FOR UPDATE"))
        assert await Retention(engine, Settings()).sweep() is False
    row = await one(engine, "SELECT count(*) FILTER (WHERE next_at > now()) AS rest, count(*) AS n FROM retention")
    assert (row.rest, row.n) == (10, 11)


async def test_what_a_claim_has_locked_is_passed_over(engine: AsyncEngine, store: ClaimStore) -> None:
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
