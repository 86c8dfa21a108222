"""A claim against every concurrent change of a prebuild, in many real rounds: exactly one wins,
and both say so."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import ClaimIdReused, NoClaimablePrebuiltWorkspaces, WorkspaceNotFound
from prebuilds.payloads import ClaimResult
from prebuilds.planning.plan import plan_preset
from prebuilds.store.build_record import RecordedBuild
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import create_claim_pool
from prebuilds.store.loop import pause, resume
from prebuilds.store.pool import Written, delete_prebuilds
from prebuilds.store.presets import invalidate
from prebuilds.store.snapshots import next_pass_number
from prebuilds.store.workspaces import release_workspace
from prebuilds.vocabulary import MissReason, build_id_of
from tests.builders import MadePreset, apply_file, find_preset, make_preset
from tests.postgres.pool_steps import (
    RULES,
    Desk,
    against,
    claim,
    make_ready,
    outcome,
    snapshot_of,
    together,
    workspace_ids,
)
from tests.rows import do, one, rows_of

ROUNDS = 30


async def delete(engine: AsyncEngine, preset: MadePreset) -> Written:
    """Return the prebuilds that a pass deletes now."""
    number = await next_pass_number(engine)
    plan = plan_preset(await snapshot_of(engine, preset), number)
    return await delete_prebuilds(engine, preset.id, number, plan.delete, RULES)


async def builds_of(engine: AsyncEngine, workspace_id: UUID) -> list[str]:
    """Each build of a workspace as `transition/stage/initiator`."""
    row = await one(
        engine,
        """
        SELECT array_agg(b.transition || '/' || b.stage || '/' || u.name ORDER BY b.number) AS builds
          FROM workspace_builds b JOIN users u ON u.id = b.initiator_id WHERE b.workspace_id = :id
        """,
        id=workspace_id,
    )
    return list(row.builds)


MADE, CLAIMED, DELETED = "start/create/prebuilds", "start/claim/alice", "delete/none/prebuilds"


async def test_a_claim_and_a_deletion_never_both_win(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine, instances=0)
    winners: Counter[str] = Counter()
    for n in range(ROUNDS):
        [surplus] = await make_ready(engine, preset, 1)
        claimed, deleted = await against(n, ROUNDS, claim(store, preset), delete(engine, preset))
        claimed_ids = workspace_ids([claimed])
        assert claimed_ids in ([], [surplus])
        assert deleted.workspace_ids == ([] if claimed_ids else [surplus])
        assert await builds_of(engine, surplus) == [MADE, CLAIMED if claimed_ids else DELETED]
        winners["claim" if claimed_ids else "deletion"] += 1
    assert min(winners["claim"], winners["deletion"]) > 0, winners


async def test_nothing_is_claimed_after_it_has_expired(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine, instances=1, expire_after="1h")
    winners: Counter[str] = Counter()
    for n in range(ROUNDS):
        [old] = await make_ready(engine, preset, 1)
        left = {0: timedelta(seconds=10), ROUNDS - 1: timedelta(0)}.get(n, timedelta(milliseconds=15))
        aged = await one(
            engine,
            """
            UPDATE workspaces SET created_at = now() - interval '1 hour' + CAST(:left AS interval),
                   expires_at = now() + CAST(:left AS interval) WHERE id = :id RETURNING expires_at
            """,
            id=old,
            left=left,
        )
        claimed, deleted = await against(n, ROUNDS, claim(store, preset), delete(engine, preset))
        assert len(workspace_ids([claimed])) + len(deleted.workspace_ids) <= 1
        if claimed.result is not None:
            assert claimed.result.claimed_at <= aged.expires_at
        else:
            deleted = deleted if deleted.workspace_ids else await delete(engine, preset)
            assert deleted.workspace_ids == [old]
        winners["claim" if claimed.result else "expiry"] += 1
    assert min(winners["claim"], winners["expiry"]) > 0, winners


async def test_nothing_is_claimed_once_it_was_invalidated(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine, instances=1)
    winners: Counter[str] = Counter()
    for n in range(ROUNDS):
        [old] = await make_ready(engine, preset, 1)
        invalidating = invalidate(engine, "ops", preset="acme/python/small", template=None)
        claimed, _ = await against(n, ROUNDS, claim(store, preset), invalidating)
        assert (await claim(store, preset)).result is None, "it was over before this one began"
        deleted = await delete(engine, preset)
        claimed_ids = workspace_ids([claimed])
        assert [*claimed_ids, *deleted.workspace_ids] == [old]
        winners["claim" if claimed_ids else "invalidation"] += 1
    assert min(winners["claim"], winners["invalidation"]) > 0, winners


async def test_a_new_version_races_with_claims_of_the_previous_one(
    engine: AsyncEngine, store: ClaimStore, desk: Desk
) -> None:
    await make_preset(engine, instances=1)
    winners: Counter[str] = Counter()
    for n in range(ROUNDS):
        old = await find_preset(engine)
        [made] = await make_ready(engine, old, 1)
        changed = {"name": "small", "instances": 1, "parameters": {"n": str(n)}}
        applying = apply_file(engine, changed, rollout={"strategy": "recreate"})
        claiming = together([outcome(desk.ask(f"c{n}-{m}")) for m in range(2)])
        answers, _ = await against(n, ROUNDS, claiming, applying)
        claimed_ids = [a.workspace_id for a in answers if isinstance(a, ClaimResult)]
        assert claimed_ids in ([], [made])
        assert sum(isinstance(a, NoClaimablePrebuiltWorkspaces) for a in answers) == 2 - len(claimed_ids)
        if claimed_ids:
            build = await one(
                engine,
                "SELECT template_version_id FROM workspace_builds WHERE stage = 'claim' AND workspace_id = :id",
                id=made,
            )
            assert build.template_version_id == old.version_id, "the version that it was made from"
        missed = await claim(store, await find_preset(engine))
        assert (missed.result, missed.miss_reason) == (None, MissReason.EMPTY)
        assert (await delete(engine, old)).workspace_ids == ([] if claimed_ids else [made])
        winners["claim" if claimed_ids else "version"] += 1
    assert min(winners["claim"], winners["version"]) > 0, winners


async def test_claims_go_on_in_a_pause_that_stops_deletions(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine, instances=0)
    winners: Counter[str] = Counter()
    for n in range(ROUNDS):
        [surplus] = await make_ready(engine, preset, 1)
        deleted, _ = await against(n, ROUNDS, delete(engine, preset), pause(engine, "ops", "upgrade"))
        again = await delete(engine, preset)
        claimed = await claim(store, preset)
        assert again.workspace_ids == [], "nothing in a pause"
        if deleted.workspace_ids:
            assert (claimed.result, claimed.miss_reason) == (None, MissReason.PAUSED)
        else:
            assert workspace_ids([claimed]) == [surplus]
        winners["deletion" if deleted.workspace_ids else "pause"] += 1
        await resume(engine, "ops")
    assert min(winners["deletion"], winners["pause"]) > 0, winners


async def test_a_release_by_name_races_with_its_claim(engine: AsyncEngine, store: ClaimStore) -> None:
    """The release uses the name from the claim, which exists from the claim's commit on."""
    preset = await make_preset(engine, instances=1)
    found: Counter[bool] = Counter()
    for n in range(ROUNDS):
        [made] = await make_ready(engine, preset, 1)
        released, claimed = await against(
            n,
            ROUNDS,
            outcome(release_workspace(engine, f"alice/w{n}", "ops")),
            claim(store, preset, f"c{n}", name=f"w{n}"),
        )
        assert workspace_ids([claimed]) == [made]
        found[not isinstance(released, WorkspaceNotFound)] += 1
        if isinstance(released, WorkspaceNotFound):
            released = await release_workspace(engine, f"alice/w{n}", "ops")
        again, twice = await asyncio.gather(
            claim(store, preset, f"c{n}", name=f"w{n}"), release_workspace(engine, f"alice/w{n}", "ops")
        )
        assert (again.result, again.decided_now) == (claimed.result, False), "a claim's answer lasts"
        assert twice == (made, RecordedBuild(build_id_of(made, 3), recorded_now=False))
        assert await builds_of(engine, made) == [MADE, CLAIMED, "delete/none/alice"]
    assert min(found[True], found[False]) > 0, found


async def test_a_release_by_id_races_with_a_claim(engine: AsyncEngine, store: ClaimStore) -> None:
    """The release uses the id, as an operator may."""
    preset = await make_preset(engine, instances=1)
    winners: Counter[str] = Counter()
    for n in range(ROUNDS):
        [made] = await make_ready(engine, preset, 1)
        claimed, _ = await against(n, ROUNDS, claim(store, preset), release_workspace(engine, str(made), "ops"))
        builds = await builds_of(engine, made)
        if claimed.result is None:
            assert builds == [MADE, DELETED]
        else:
            assert builds == [MADE, CLAIMED, "delete/none/alice"]
        winners["claim" if claimed.result else "release"] += 1
    assert min(winners["claim"], winners["release"]) > 0, winners


# --- One claim more than once ----------------------------------------------------------------------------------------


async def test_concurrent_attempts_of_one_claim_win_the_last_prebuild_once(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine)
    for n in range(ROUNDS):
        [last] = await make_ready(engine, preset, 1)
        attempts = [desk.ask(f"c{n}", name=f"w{n}", on_empty=on) for on in ("create", "create", "create")]
        answers = await asyncio.gather(*attempts)
        assert answers[0] == answers[1] == answers[2]
        assert isinstance(answers[0], ClaimResult)
        assert (answers[0].workspace_id, answers[0].source) == (last, "prebuilt")
        assert desk.dispatcher.started == [answers[0].build_id], "only the one that decided goes on"
        desk.dispatcher.started.clear()


async def test_one_of_two_requests_under_one_claim_id_is_refused(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine)
    for n in range(ROUNDS):
        await make_ready(engine, preset, 2)
        claims = [desk.ask(f"c{n}", name=f"w{n}", owner=owner) for owner in ("alice", "bob")]
        answers = await asyncio.gather(*claims, return_exceptions=True)
        assert sorted(type(a).__name__ for a in answers) == [ClaimIdReused.__name__, ClaimResult.__name__]
        await do(engine, "UPDATE workspaces SET claimable_preset_id = NULL, claim_build_id = NULL")


async def test_a_crash_after_the_commit_loses_no_answer(engine: AsyncEngine, desk: Desk, database_url: str) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 2)
    committed = await desk.ask("c1", name="w1")
    batch = await desk.ask_all("b1", ["x"])
    rows = await rows_of(engine)
    async with await create_claim_pool(database_url, size=2) as pool:  # another process takes the workflow over
        other = Desk(engine, ClaimStore(pool, enabled=True))
        assert await other.ask("c1", name="w1") == committed
        assert await other.ask_all("b1", ["x"]) == batch
    assert await rows_of(engine) == rows
    assert (other.dispatcher.started, other.dispatcher.nudged) == ([], []), "the relay repeats the lost start"
