"""A preset whose own content is the same in a new version keeps its pool: nothing is rebuilt, nothing misses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy.event import listen
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.payloads import ClaimResult
from prebuilds.planning.pass_plan import plan_pass
from prebuilds.planning.plan import plan_preset, state_of
from prebuilds.planning.rules import Rules
from prebuilds.store.apply import update_template
from prebuilds.store.claim_refusals import ClaimTarget
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import dsn_of
from prebuilds.store.events import record_notes
from prebuilds.store.explain import explain_preset
from prebuilds.store.history import mark_restored
from prebuilds.store.identity import read_identity
from prebuilds.store.pool import create_prebuilds
from prebuilds.store.presets import invalidate
from prebuilds.store.restoring import restored
from prebuilds.store.snapshots import next_pass_number, snapshot_state, snapshot_transaction
from prebuilds.templates import apply, applying_template
from prebuilds.templates.result import PoolPrebuilds
from tests.builders import MadePreset, apply_file, find_preset, template_file
from tests.postgres.pool_steps import (
    RULES,
    Desk,
    against,
    begin_prebuilds,
    claim,
    fail,
    finish,
    got,
    make_ready,
    planned_ids,
    record_prebuilds,
    snapshot_of,
    together,
    until_blocked,
    workspace_ids,
)
from tests.rows import do, events, one, rows_of

SMALL: dict[str, Any] = {"name": "small", "parameters": {"size": "small"}, "instances": 3}
LARGE: dict[str, Any] = {"name": "large", "parameters": {"size": "large"}, "instances": 2}
HUGE = LARGE | {"parameters": {"size": "huge"}}
RECREATE = {"rollout": {"strategy": "recreate"}}
BY_PATH = ClaimTarget("acme/python/small", path=["acme", "python", "small"])
BUILDS_OF_OTHERS = """
    SELECT count(*) FROM workspace_builds b JOIN workspaces w ON w.id = b.workspace_id
     WHERE (b.preset_id, b.template_version_id) IS DISTINCT FROM (w.preset_id, w.template_version_id)
"""


async def applied(engine: AsyncEngine, *presets: dict[str, Any], preset: str = "small", **entry: Any) -> MadePreset:
    await apply_file(engine, *presets, **entry)
    return await find_preset(engine, preset=preset)


async def version_of(engine: AsyncEngine, preset: MadePreset) -> int:
    return int((await one(engine, "SELECT number FROM template_versions WHERE id = :id", id=preset.version_id))[0])


async def due(engine: AsyncEngine, preset: MadePreset) -> tuple[int, int, int]:
    """Return the numbers of prebuilds that a pass would create, delete and cancel now."""
    plan = plan_preset(await snapshot_of(engine, preset), await next_pass_number(engine))
    return len(plan.create), len(plan.delete), len(plan.cancel)


# --- Which pools are kept ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"), [([], [LARGE]), ([LARGE], []), ([LARGE], [HUGE])], ids=["added", "removed", "changed"]
)
async def test_another_preset_changes_and_the_pool_stays(
    engine: AsyncEngine, store: ClaimStore, desk: Desk, before: list[dict[str, Any]], after: list[dict[str, Any]]
) -> None:
    preset = await applied(engine, SMALL, *before)
    ready = await make_ready(engine, preset, 2)
    [being_made] = await begin_prebuilds(engine, preset, 1)
    [pending] = await record_prebuilds(engine, preset, 1)
    rows = await rows_of(engine)

    now = await applied(engine, *after, SMALL | {"instances": 4})
    assert (now.id, await version_of(engine, now)) == (preset.id, 2)
    assert {
        table for table in ("workspaces", "workspace_builds") if (await rows_of(engine))[table] != rows[table]
    } == set()
    assert await due(engine, now) == (0, 0, 0)

    by_id, by_path = await claim(store, preset), await claim(store, BY_PATH)
    assert workspace_ids([by_id, by_path]) == ready
    await desk.wait("c1", name="waits", wait_timeout_seconds=60)
    await finish(engine, being_made)
    assert got(await desk.look("c1")) == being_made, "a build of the previous version serves the current waiters"
    assert await due(engine, now) == (3, 0, 0)
    assert (await one(engine, "SELECT status FROM workspace_builds WHERE workspace_id = :id", id=pending))[
        0
    ] == "pending"
    assert (await one(engine, "SELECT count(*) FROM workspace_builds WHERE stage = 'claim'")).count == 3
    assert (await one(engine, BUILDS_OF_OTHERS)).count == 0, "a build's preset and version are its workspace's"


@pytest.mark.parametrize("entry", [{"source": {"command": ["sleep", "1"]}}, {"queue": "gpu"}])
async def test_a_template_wide_change_replaces_every_preset(
    engine: AsyncEngine, store: ClaimStore, entry: dict[str, Any]
) -> None:
    old = [await applied(engine, SMALL, LARGE, preset=name) for name in ("small", "large")]
    for preset in old:
        await make_ready(engine, preset, 2)
    new = [await applied(engine, SMALL, LARGE, preset=name, **entry, **RECREATE) for name in ("small", "large")]
    assert not {preset.id for preset in old} & {preset.id for preset in new}
    assert [await due(engine, preset) for preset in old] == [(0, 2, 0)] * 2
    assert [await due(engine, preset) for preset in new] == [(3, 0, 0), (2, 0, 0)]
    assert (await claim(store, BY_PATH)).result is None


async def test_same_name_with_other_content_is_another_preset(engine: AsyncEngine) -> None:
    small, large = await applied(engine, SMALL, LARGE), await find_preset(engine, preset="large")
    [ready] = await make_ready(engine, small, 1)
    [pending] = await record_prebuilds(engine, small, 1)
    swapped = await applied(engine, SMALL | {"parameters": LARGE["parameters"]}, LARGE, **RECREATE)
    assert swapped.id not in (small.id, large.id), "the name is a part of what a provisioner sees"
    plan = plan_preset(await snapshot_of(engine, small), await next_pass_number(engine))
    assert (plan.create, plan.delete, plan.cancel) == ([], [ready], [pending])
    assert await due(engine, swapped) == (3, 0, 0)


async def test_presets_of_different_earlier_versions_come_back_together(engine: AsyncEngine, store: ClaimStore) -> None:
    first = {name: await applied(engine, SMALL, LARGE, preset=name) for name in ("small", "large")}
    [large_ready] = await make_ready(engine, first["large"], 1)
    tiny = SMALL | {"parameters": {"size": "tiny"}}
    await fail(engine, await applied(engine, tiny, LARGE), 3)
    small = await find_preset(engine)
    await apply_file(engine, SMALL, HUGE)
    assert (
        await claim(store, ClaimTarget("x", preset_id=small.id), on_empty="create")
    ).miss_reason == "inactive_version"

    back = await applied(engine, tiny, HUGE, LARGE | {"name": "third"})
    assert (back.id, await version_of(engine, back)) == (small.id, 4)
    assert state_of(await snapshot_of(engine, small)).held is None, "a restored preset is tried afresh"
    again = await applied(engine, SMALL, LARGE)
    assert (again.id, await version_of(engine, again)) == (first["small"].id, 1)
    large = await find_preset(engine, preset="large")
    assert (large.id, large.version_id) == (first["large"].id, again.version_id)
    assert workspace_ids([await claim(store, large, preset="acme/python/large")]) == [large_ready]
    numbers = await one(engine, "SELECT array_agg(number ORDER BY number) FROM template_versions")
    assert numbers[0] == [1, 2, 3, 4]


# --- What belongs to a preset stays with it ---------------------------------------------------------------------------


async def test_a_kept_preset_keeps_holds_and_invalidation(engine: AsyncEngine, store: ClaimStore) -> None:
    rules = Rules(backoff_interval=timedelta(0))
    small = await applied(engine, SMALL, LARGE)
    large = await find_preset(engine, preset="large")
    [ready] = await make_ready(engine, large, 1)
    await invalidate(engine, "ops", preset="acme/python/large", template=None)
    await fail(engine, small, 3)

    async def held() -> str | None:
        found = state_of(await snapshot_of(engine, small, rules)).held
        return found.reason if found is not None else None

    async def count_notes() -> int:
        async with snapshot_transaction(engine) as connection:
            await record_notes(engine, plan_pass(await snapshot_state(connection, rules)).notes())
        return len(await events(engine, "creation_held"))

    assert (await held(), await count_notes()) == ("hard_limited", 1)
    await apply_file(engine, SMALL, LARGE, LARGE | {"name": "more"})
    assert (await held(), await count_notes()) == ("hard_limited", 1), "still held, and no news"
    assert (await claim(store, large, preset="acme/python/large")).result is None
    assert plan_preset(await snapshot_of(engine, large), await next_pass_number(engine)).delete == [ready]
    await apply_file(engine, SMALL | {"parameters": {"size": "mended"}}, LARGE)
    assert (await due(engine, await find_preset(engine)))[0] == 3, "other content is tried afresh"


async def test_history_goes_on_across_versions(engine: AsyncEngine) -> None:
    small = await applied(engine, SMALL | {"instances": 1})
    await apply_file(engine, SMALL | {"instances": 1}, LARGE)
    between = (await one(engine, "SELECT clock_timestamp()"))[0]
    await apply_file(engine, SMALL | {"instances": 5})
    explanation = await explain_preset(engine, "acme/python/small", RULES, None)
    assert (explanation.preset_id, explanation.desired) == (small.id, 5)
    assert [
        (e.kind, e.data.get("version"), e.data.get("replaces")) for e in explanation.events if e.kind != "applied"
    ] == [
        ("version_activated", 1, None),
        ("pool_kept", 2, 1),
        ("policy_changed", None, None),
        ("pool_kept", 1, 2),
    ]
    then = await explain_preset(engine, "acme/python/small", RULES, between)
    assert (then.desired, then.settings_recorded) == (1, True)
    large = await explain_preset(engine, "acme/python/large", RULES, between)
    assert [e.data["preset"] for e in large.events if e.kind == "version_activated"] == ["added"]


async def test_after_a_restore_a_kept_pool_is_doubted_like_any_other(engine: AsyncEngine, store: ClaimStore) -> None:
    small = await applied(engine, SMALL)
    ready = await make_ready(engine, small, 2)
    await apply_file(engine, SMALL, LARGE)
    async with engine.begin() as connection:
        await mark_restored(connection, "a newer event was seen", (await read_identity(engine)).epoch)
    done = await restored(engine, "ops", dry_run=False)
    assert {p.workspace_id: p.decision for p in done.report.prebuilds} == dict.fromkeys(ready, "replaced")
    assert (await claim(store, BY_PATH)).result is None
    assert await due(engine, small) == (3, 2, 0)
    assert (await applied(engine, SMALL, HUGE)).id == small.id, "a file applied after the backup is applied again"


# --- What is told -----------------------------------------------------------------------------------------------------


async def test_result_tells_what_becomes_of_each_pool(engine: AsyncEngine) -> None:
    presets = [SMALL, LARGE, LARGE | {"name": "gone"}, LARGE | {"name": "unpooled"}, LARGE | {"name": "empty"}]
    await apply_file(engine, *presets)
    for name, ready, begun in (("small", 2, 1), ("large", 1, 1), ("gone", 2, 0), ("unpooled", 1, 0)):
        preset = await find_preset(engine, preset=name)
        await make_ready(engine, preset, ready)
        await begin_prebuilds(engine, preset, begun)
    await fail(engine, await find_preset(engine, preset="large"), 1)
    file = template_file(
        SMALL | {"instances": 1}, HUGE, {**presets[3], "instances": None}, presets[4], LARGE | {"name": "new"}
    )
    dry = await apply(engine, file, actor="tester", dry_run=True)
    result = await apply(engine, file, actor="tester")
    assert result == dry

    def pools(**counts: int) -> list[PoolPrebuilds]:
        return [PoolPrebuilds(preset=f"acme/python/{name}", prebuilds=count) for name, count in counts.items()]

    assert (result.kept, result.replaced, result.removed) == (
        pools(small=3),
        pools(large=2),
        pools(gone=2, unpooled=1),
    )
    assert result.created == ["preset acme/python/new"]
    assert result.updated == [
        "template acme/python",
        *(f"preset acme/python/{name}" for name in ("small", "large", "unpooled", "gone (removed)")),
    ]
    assert "preset acme/python/empty" in result.unchanged
    again = await apply_file(engine, SMALL | {"instances": None}, *presets[1:], template="other")
    assert (again.kept, again.replaced, again.removed) == ([], [], [])
    policy = await apply(engine, file.model_copy(deep=True), actor="tester", dry_run=True)
    assert (policy.changed, policy.kept, policy.replaced, policy.removed) == (False, [], [], [])


async def test_statements_are_as_many_for_many_presets_as_for_few(engine: AsyncEngine) -> None:
    statements: list[str] = []

    def count(*args: Any) -> None:
        statements.append(args[2])

    await applied(engine, SMALL)
    listen(engine.sync_engine, "before_cursor_execute", count)
    counts: dict[int, list[int]] = {}
    for number in (3, 40):
        first, *others = [SMALL | {"name": f"p{n}", "parameters": {"n": str(n)}} for n in range(number)]
        counts[number] = []
        for file in ([first, *others], [first, *others], others, [first | {"parameters": {}}, *others]):
            statements.clear()
            await apply_file(engine, *file, template=f"t{number}")
            counts[number].append(len(statements))
    assert counts[3] == counts[40]


# --- At the same time -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def held_before_commit(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, *presets: dict[str, Any]
) -> AsyncIterator[None]:
    """Inside the block an `apply` has written all its rows and has not committed."""
    written, commit = asyncio.Event(), asyncio.Event()

    async def then_wait(*args: Any) -> bool:
        done = await update_template(*args)
        written.set()
        await commit.wait()
        return done

    monkeypatch.setattr(applying_template, "update_template", then_wait)
    applying = asyncio.create_task(apply_file(engine, *presets))
    try:
        async with asyncio.timeout(10):
            await written.wait()
            yield
    finally:
        commit.set()
        await applying
        monkeypatch.undo()


async def test_claims_go_on_while_a_version_becomes_active_and_the_rest_waits(
    engine: AsyncEngine, store: ClaimStore, desk: Desk, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = await applied(engine, SMALL | {"instances": 7})
    ready = await make_ready(engine, small, 4)
    [being_made] = await begin_prebuilds(engine, small, 1)
    number = await next_pass_number(engine)
    new = await planned_ids(engine, small.id, number, 4)
    observer = await asyncpg.connect(dsn_of(database_url))
    async with held_before_commit(engine, monkeypatch, SMALL | {"instances": 7}, LARGE):
        claimed = [await claim(store, BY_PATH), await claim(store, small)]
        assert workspace_ids(claimed) == ready[:2], "at once, though the version is not committed"
        ending = asyncio.create_task(finish(engine, being_made))
        creating = asyncio.create_task(create_prebuilds(engine, small.id, number, new, RULES))
        batching = asyncio.create_task(desk.ask_all("batch", ["a", "b"]))
        await until_blocked(observer, 3)
    await observer.close()
    assert (await ending).ended_now
    assert {c.workspace_id for c in (await batching).claims} <= {*ready[2:], being_made}
    created = await creating
    row = await one(engine, "SELECT template_version_id FROM workspaces WHERE id = :id", id=created.workspace_ids[0])
    now = await find_preset(engine)
    assert (now.id, row.template_version_id) == (small.id, now.version_id), "made by the version that is active now"


async def test_no_claim_misses_while_versions_change_around_it(
    engine: AsyncEngine, store: ClaimStore, desk: Desk
) -> None:
    rounds = 12
    small = await applied(engine, SMALL | {"instances": 0})
    for n in range(rounds):
        ready = await make_ready(engine, small, 3)
        claiming = together([desk.ask(f"c{n}"), desk.ask(f"d{n}", preset=str(small.id)), desk.ask(f"e{n}")])
        applying = apply_file(engine, SMALL | {"instances": 0}, *([LARGE] if n % 2 else [HUGE, LARGE | {"name": "x"}]))
        answers, _ = await against(n, rounds, claiming, applying)
        assert sorted(a.workspace_id for a in answers if isinstance(a, ClaimResult)) == ready


async def test_applies_at_once_leave_one_whole_version_and_the_pool(engine: AsyncEngine) -> None:
    small = await applied(engine, SMALL, LARGE)
    ready = await make_ready(engine, small, 2)
    files = [template_file(SMALL, LARGE | {"parameters": {"size": f"s{n % 3}"}}) for n in range(6)]
    results = await asyncio.gather(*(apply(engine, file, actor="tester") for file in files))
    assert {pool.prebuilds for result in results for pool in result.kept} == {2}
    assert not any(result.replaced for result in results)
    presets = await one(
        engine,
        """SELECT array_agg(p.name ORDER BY p.name) AS names FROM templates t
             JOIN presets p ON p.template_version_id = t.active_version_id""",
    )
    assert presets.names == ["large", "small"]
    claimable: UUID = small.id
    pool = await one(
        engine, "SELECT array_agg(id ORDER BY id) FROM workspaces WHERE claimable_preset_id = :id", id=claimable
    )
    assert pool[0] == ready
    assert (await find_preset(engine)).id == small.id


async def test_preset_names_are_unique_within_a_version(engine: AsyncEngine) -> None:
    small = await applied(engine, SMALL)
    with pytest.raises(Exception, match="presets_template_version_id_name_excl"):
        await do(
            engine,
            """INSERT INTO presets (id, template_version_id, template_id, name)
               VALUES (gen_random_uuid(), :version, :template, 'small')""",
            version=small.version_id,
            template=small.template_id,
        )
