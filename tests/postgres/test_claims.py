"""The claim's transaction on a real server: races, repeats, refusals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds import api
from prebuilds.store.build_begin import begin_build
from prebuilds.store.build_end import end_build
from prebuilds.store.claim_refusals import ClaimTarget
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import create_claim_pool, dsn_of
from prebuilds.store.loop import pause
from prebuilds.store.workspaces import release_workspace
from prebuilds.vocabulary import PREBUILDS_USER_ID, BuildStatus, MissReason, Source, build_id_of
from tests.builders import MadePreset, apply_file, make_preset
from tests.postgres.pool_steps import claim, make_ready, record_prebuilds, workspace_ids
from tests.rows import do, one, rows_of

PATH = ClaimTarget("acme/python/small", path=("acme", "python", "small"))


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[ClaimStore]:
    async with await create_claim_pool(database_url, size=16) as pool:
        yield ClaimStore(pool, enabled=True)


@pytest.mark.parametrize(("ready", "claimers"), [(10, 40), (12, 5), (3, 3)])
async def test_exactly_the_lesser_number_wins_and_all_are_different(
    engine: AsyncEngine, store: ClaimStore, ready: int, claimers: int
) -> None:
    preset = await make_preset(engine, instances=ready)
    made = await make_ready(engine, preset, ready)
    results = await asyncio.gather(*[claim(store, PATH) for _ in range(claimers)])
    claimed_ids = workspace_ids(results)
    assert len(set(claimed_ids)) == len(claimed_ids) == min(ready, claimers)
    assert set(claimed_ids) <= set(made)
    assert {r.miss_reason for r in results if r.result is None} <= {MissReason.EMPTY}


async def test_the_oldest_goes_first_and_keeps_its_id(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine)
    ids = await make_ready(engine, preset, 3)
    for age, workspace_id in enumerate(ids):
        await do(
            engine,
            "UPDATE workspaces SET created_at = now() - make_interval(hours => :age) WHERE id = :id",
            age=age,
            id=workspace_id,
        )
    claimed = [await claim(store, preset) for _ in range(3)]
    assert workspace_ids(claimed) == ids[::-1]
    row = await one(engine, "SELECT * FROM workspaces WHERE id = :id", id=ids[2])
    assert row.claimed_at == row.last_used_at
    assert (row.claimable_preset_id, row.claim_build_id, row.latest_build) == (None, None, 2)
    build = await one(engine, "SELECT * FROM workspace_builds WHERE id = :id", id=build_id_of(ids[2], 2))
    person = await one(engine, "SELECT id FROM users WHERE name = 'alice'")
    assert (build.stage, build.status, build.initiator_id) == ("claim", "pending", person.id)


async def test_the_usual_claim_is_one_statement(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 1)
    assert workspace_ids([await claim(store, preset)])
    last = "SELECT query FROM pg_stat_activity WHERE application_name = 'prebuilds-claims'"
    statement = await one(engine, f"{last} AND datname = current_database() ORDER BY query_start DESC LIMIT 1")
    assert "decide_claim" in statement.query, "the connection pool sends nothing after it"


async def test_one_claim_sent_twice_at_once_gets_one_workspace(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine)
    for n in range(10):
        await make_ready(engine, preset, 2)
        twice = await asyncio.gather(*[claim(store, preset, f"twice-{n}", name=f"same-{n}") for _ in range(2)])
        assert twice[0].result == twice[1].result
        assert sorted(c.decided_now for c in twice) == [False, True]
        await claim(store, preset, name=f"rest-{n}")


async def test_a_won_claim_has_its_answer_for_ever(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 2)
    first = await claim(store, preset, "mine", name="dev")
    _, deletion = await release_workspace(engine, "alice/dev", "ops")
    await begin_build(engine, build_id_of(workspace_ids([first])[0], 2))
    await end_build(engine, build_id_of(workspace_ids([first])[0], 2), BuildStatus.FAILED, error="x")
    await begin_build(engine, deletion.id)
    await end_build(engine, deletion.id, BuildStatus.SUCCEEDED)
    await do(engine, "DELETE FROM organization_members m USING users u WHERE u.id = m.user_id AND u.name = 'alice'")
    again = await claim(store, preset, "mine", name="dev")
    assert (again.result, again.decided_now) == (first.result, False)
    with pytest.raises(api.ClaimIdReused):
        await claim(store, preset, "mine", name="other")


async def test_a_miss_may_be_tried_again_under_its_id(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine)
    missed = await claim(store, preset, "again", name="dev")
    assert (missed.result, missed.miss_reason) == (None, MissReason.EMPTY)
    await make_ready(engine, preset, 1)
    assert workspace_ids([await claim(store, preset, "again", name="dev")])


async def test_a_miss_counts_only_after_the_winner_has_committed(
    engine: AsyncEngine, store: ClaimStore, database_url: str
) -> None:
    preset = await make_preset(engine)
    [last] = await make_ready(engine, preset, 1)
    holder = await asyncpg.connect(dsn_of(database_url))
    try:
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute("SELECT FROM workspaces WHERE id = $1 FOR NO KEY UPDATE", last)
        waiting = asyncio.create_task(claim(store, preset))
        blocked = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        while not await holder.fetchval(blocked):
            await asyncio.sleep(0.01)
        assert not waiting.done(), "it waits for the winner rather than reporting a miss"
        await transaction.rollback()
        assert workspace_ids([await waiting]) == [last]
    finally:
        await holder.close()


@pytest.mark.parametrize(
    ("given", "stored"), [(None, timedelta(hours=8)), (0, None), (60, timedelta(minutes=1))], ids=str
)
async def test_ttl_is_the_templates_unless_said(
    engine: AsyncEngine, store: ClaimStore, given: int | None, stored: timedelta | None
) -> None:
    await apply_file(engine, {"name": "small", "instances": 1}, default_ttl="8h")
    claimed = await claim(store, PATH, ttl_seconds=given, on_empty="create")
    row = await one(engine, "SELECT ttl FROM workspaces WHERE id = :id", id=workspace_ids([claimed])[0])
    assert row.ttl == stored


async def test_expired_and_invalidated_prebuilds_are_not_claimed(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine, instances=3, expire_after="1h")
    old, invalidated, good = await make_ready(engine, preset, 3)
    await do(engine, "UPDATE workspaces SET expires_at = now() - interval '1 second' WHERE id = :id", id=old)
    await do(
        engine, "UPDATE workspaces SET created_at = created_at - interval '1 minute' WHERE id = :id", id=invalidated
    )
    await do(
        engine, "UPDATE presets SET last_invalidated_at = (SELECT created_at FROM workspaces WHERE id = :id)", id=good
    )
    assert workspace_ids([await claim(store, preset)]) == [good], "made at the very instant, it is still good"
    assert (await claim(store, preset)).result is None


async def _no_pool(engine: AsyncEngine, preset: MadePreset) -> None:
    await do(engine, "UPDATE presets SET desired_instances = NULL")


async def _starting(engine: AsyncEngine, preset: MadePreset) -> None:
    await record_prebuilds(engine, preset, 1)


async def _paused(engine: AsyncEngine, preset: MadePreset) -> None:
    await pause(engine, "ops", "upgrade")


async def _new_version(engine: AsyncEngine, preset: MadePreset) -> None:
    await apply_file(engine, {"name": "small", "instances": 1, "parameters": {"a": "b"}})


async def _switched_off(engine: AsyncEngine, preset: MadePreset) -> None:
    await do(engine, "UPDATE organizations SET prebuilds_enabled = false")


async def _nothing(engine: AsyncEngine, preset: MadePreset) -> None: ...


Change = Callable[[AsyncEngine, MadePreset], Awaitable[None]]


@pytest.mark.parametrize(
    ("change", "reason", "without_create"),
    [
        (_nothing, "empty", None),
        (_no_pool, "no_pool", None),
        (_starting, "starting", None),
        (_paused, "paused", None),
        (_new_version, "inactive_version", api.TemplateUnavailable),
        (_switched_off, "disabled", api.PrebuiltWorkspacesNotSupported),
    ],
)
async def test_an_empty_pool_says_why_and_create_makes_one(
    engine: AsyncEngine, store: ClaimStore, change: Change, reason: str, without_create: type[Exception] | None
) -> None:
    preset = await make_preset(engine)
    await change(engine, preset)
    if without_create is None:
        assert (await claim(store, preset)).miss_reason == reason
    else:
        with pytest.raises(without_create):
            await claim(store, preset)
    made = await claim(store, preset, on_empty="create")
    assert made.result is not None
    assert (made.result.source, made.result.miss_reason, made.result.address) == (Source.CREATED, reason, None)
    build = await one(
        engine, "SELECT stage, initiator_id FROM workspace_builds WHERE id = :id", id=made.result.build_id
    )
    assert (build.stage, build.initiator_id != PREBUILDS_USER_ID) == ("none", True)


CAROL = "INSERT INTO users (id, name, key) VALUES (gen_random_uuid(), 'carol', 'carol')"
REFUSALS: list[tuple[str, dict[str, Any], str | None, ClaimTarget | None]] = [
    ("OwnerNotFound", {"owner": "zoe"}, None, None),
    ("InitiatorNotFound", {"initiator": "zoe"}, None, None),
    ("NotAMember", {"owner": "carol"}, CAROL, None),
    ("OwnerNotFound", {}, "UPDATE users SET disabled_at = now() WHERE name = 'alice'", None),
    ("InitiatorNotFound", {"initiator": "bob"}, "UPDATE users SET disabled_at = now() WHERE name = 'bob'", None),
    ("NameTaken", {"name": "taken"}, None, None),
    ("PresetNotFound", {}, None, ClaimTarget("x", path=("acme", "python", "none"))),
    ("PresetNotFound", {}, None, ClaimTarget("x", preset_id=uuid4())),
    ("TemplateNotFound", {}, "UPDATE templates SET deleted_at = now()", None),
    ("TemplateNotFound", {}, "UPDATE templates SET deleted_at = now()", PATH),
    ("TemplateUnavailable", {}, "UPDATE templates SET deprecated = true", None),
]


@pytest.mark.parametrize(("kind", "changes", "before", "target"), REFUSALS, ids=[r[0] for r in REFUSALS])
async def test_a_refusal_writes_nothing(
    engine: AsyncEngine,
    store: ClaimStore,
    kind: str,
    changes: dict[str, Any],
    before: str | None,
    target: ClaimTarget | None,
) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 2)
    await claim(store, preset, name="taken")
    if before is not None:
        await do(engine, before)
    rows = await rows_of(engine)
    with pytest.raises(api.ERRORS[kind]):
        await claim(store, target or preset, **changes)
    assert await rows_of(engine) == rows


@pytest.mark.parametrize("on_empty", ["fail", "create", "wait"])
async def test_a_taken_name_is_refused_even_with_an_empty_pool(
    engine: AsyncEngine, store: ClaimStore, on_empty: str
) -> None:
    preset = await make_preset(engine, instances=0)
    await claim(store, preset, name="taken", on_empty="create")
    rows = await rows_of(engine)
    with pytest.raises(api.NameTaken):
        await claim(store, preset, name="taken", on_empty=on_empty)
    assert await rows_of(engine) == rows


@pytest.mark.parametrize("prebuilds", [0, 1])
async def test_a_released_name_is_reported_as_released(engine: AsyncEngine, store: ClaimStore, prebuilds: int) -> None:
    preset = await make_preset(engine, instances=0)
    claimed = (await claim(store, preset, name="taken", on_empty="create")).result
    assert claimed is not None
    await make_ready(engine, preset, prebuilds)
    with pytest.raises(api.NameTaken, match="has a live workspace named taken"):
        await claim(store, preset, name="taken")
    await release_workspace(engine, "alice/taken", "alice")
    with pytest.raises(api.NameTaken, match="alice's workspace taken is being deleted"):
        await claim(store, preset, name="taken")
    await do(engine, "UPDATE workspaces SET latest_status = 'failed' WHERE id = :id", id=claimed.workspace_id)
    with pytest.raises(api.NameTaken, match="deletion failed") as failed:
        await claim(store, preset, name="taken")
    assert "prebuilds workspaces retry alice/taken" in failed.value.remedy


async def test_the_schema_itself_refuses_a_claim_by_the_prebuilds_user(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 1)
    await claim(store, preset)
    with pytest.raises(IntegrityError, match="workspace_builds_claim_has_person_check"):
        await do(engine, "UPDATE workspace_builds SET initiator_id = :id WHERE stage = 'claim'", id=PREBUILDS_USER_ID)


@pytest.mark.parametrize("hands_over", [True, False], ids=["with_build", "without_build"])
async def test_a_first_and_a_repeated_attempt_write_the_same_rows(
    engine: AsyncEngine, store: ClaimStore, hands_over: bool
) -> None:
    """`decide_claim` decides the one, `claim_workspace` the other, whose first attempt has missed."""
    preset = await make_preset(engine)
    await do(engine, "UPDATE template_versions SET hands_over = :hands_over", hands_over=hands_over)
    terms = {"ttl_seconds": 3600, "claim_parameters": {"token": "t"}}
    assert (await claim(store, preset, "repeated", name="dev-1", **terms)).result is None
    await make_ready(engine, preset, 2)
    written = {}
    for id_, name in (("repeated", "dev-1"), ("first", "dev-2")):
        assert (await claim(store, preset, id_, name=name, **terms)).build_open is hands_over
        row = await one(
            engine,
            """
            SELECT to_jsonb(c) AS claim, to_jsonb(w) AS workspace, to_jsonb(b) AS build, to_jsonb(e) AS event,
                   to_jsonb(s) AS secret
              FROM claims c JOIN workspaces w ON w.id = c.workspace_id
              JOIN workspace_builds b ON b.workspace_id = w.id AND b.number = w.latest_build
              JOIN events e ON e.claim_id = c.id AND e.kind = 'claim_prebuilt'
              JOIN claim_secrets s ON s.workspace_id = w.id
             WHERE c.id = :id
            """,
            id=id_,
        )
        written[id_] = {
            f"{table}.{column}": value for table in row._fields for column, value in row._mapping[table].items()
        }
    differ = {column for column, value in written["first"].items() if value != written["repeated"][column]}
    expected = {f"claim.{column}" for column in ("answer", "id", "request_hash", "run", "other_runs_after")}
    expected.add("claim.run_answered")  # the miss was the answer of its run
    expected |= {f"workspace.{column}" for column in ("id", "name", "address")}
    expected |= {"build.id", "event.id", "event.data", "event.claim_id"}
    ids = {"claim.workspace_id", "build.workspace_id", "event.workspace_id", "secret.workspace_id"}
    assert {column for column in differ if not column.endswith(("_at", ".at"))} <= expected | ids
    for column in differ:  # times differ, but none is missing
        assert (written["first"][column] is None) == (written["repeated"][column] is None), column
