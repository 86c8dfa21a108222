"""Waiting claims on a real server: their order, the hand-over of a ready prebuild, and leaving the queue."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import ClaimIdReused, ClaimTimedOut, NameTaken, NotAMember, PrebuildsError
from prebuilds.payloads import ClaimPlace, ClaimRequest, ClaimResult
from prebuilds.store.claim_queue import ClaimQueue
from prebuilds.store.claims import ClaimStore, hash_request
from prebuilds.store.engine import dsn_of
from prebuilds.vocabulary import PREBUILDS_USER_ID, OnEmpty, build_id_of
from tests.builders import apply_file, find_preset, make_preset
from tests.postgres.pool_steps import (
    Desk,
    against,
    begin_prebuilds,
    claim,
    finish,
    got,
    make_ready,
    new_run,
    owner_of,
    position_of,
    until_blocked,
    workspace_ids,
)
from tests.rows import do, events, one, rows_of

ROUNDS = 40
PATH = ("acme", "python", "small")
UNMATCHED = """
    SELECT count(*) FROM claim_queue q JOIN presets p ON p.template_id = q.template_id AND p.name = q.preset_name
      JOIN workspaces w ON w.claimable_preset_id = p.id
     WHERE q.decided_at IS NULL
"""


async def one_member_less(engine: AsyncEngine, name: str) -> None:
    await do(
        engine, "DELETE FROM organization_members m USING users u WHERE u.id = m.user_id AND u.name = :name", name=name
    )


# --- Who is next -----------------------------------------------------------------------------------------------------


async def test_first_come_first_served_with_a_visible_position(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine, instances=0)
    places = [await desk.wait(f"c{n}", name=f"w{n}", wait_timeout_seconds=60) for n in range(3)]
    assert [a.position for a in places] == [1, 2, 3]
    assert places[0].left_seconds is not None
    assert 30 < places[0].left_seconds <= 60
    queued = await one(engine, "SELECT min(queued_at) AS at FROM claim_queue")
    assert places[0].deadline - queued.at == timedelta(seconds=60)

    made = await begin_prebuilds(engine, preset, 3)
    for n, workspace_id in enumerate(made):
        assert [position_of(await desk.look(f"c{m}")) for m in range(n, 3)] == list(range(1, 4 - n))
        served = (await finish(engine, workspace_id)).served
        assert served.workflow_ids == [f"claim-workspace/c{n}"]
        assert (served.build_ids, served.preset_ids) == ([build_id_of(workspace_id, 2)], [preset.id])
        place = await desk.look(f"c{n}")
        assert got(place) == workspace_id
        assert place.result is not None
        assert (place.result.name, place.result.source, place.result.miss_reason) == (f"w{n}", "prebuilt", None)
        assert place.result.address == f"http://{workspace_id}"
        assert got(await desk.look(f"c{n}")) == workspace_id, "an answer that was lost is given again"
    assert (await one(engine, "SELECT count(*) FROM claim_queue")).count == 0
    stages = await one(
        engine,
        "SELECT count(*), bool_and(u.name = 'alice') AS hers"
        "  FROM workspace_builds b JOIN users u ON u.id = b.initiator_id WHERE b.stage = 'claim'",
    )
    assert (stages.count, stages.hers) == (3, True), "a person's, never the pool's"


async def test_queues_are_apart(engine: AsyncEngine, desk: Desk) -> None:
    await apply_file(engine, {"name": "small", "instances": 0}, {"name": "large", "instances": 0})
    large = await find_preset(engine, preset="large")
    await desk.wait("small-1")
    assert (await desk.wait("large-1", preset="acme/python/large")).position == 1
    [made] = await make_ready(engine, large, 1)
    assert got(await desk.look("large-1")) == made
    assert position_of(await desk.look("small-1")) == 1


async def test_a_ready_prebuild_is_taken_without_waiting(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine)
    [ready] = await make_ready(engine, preset, 1)
    found = await desk.ask("c1", on_empty="wait")
    assert isinstance(found, ClaimResult)
    assert found.workspace_id == ready
    assert desk.dispatcher.started == [found.build_id]
    assert (await one(engine, "SELECT count(*) FROM claim_queue")).count == 0


async def test_a_deadline_that_has_passed_is_not_served(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine, instances=0)
    for claim_id in ("late", "in-time"):
        await desk.wait(claim_id)
    await do(engine, "UPDATE claim_queue SET deadline = now() - interval '1 ms' WHERE claim_id = 'late'")
    [first, second] = await make_ready(engine, preset, 2)
    assert got(await desk.look("in-time")) == first
    assert await owner_of(engine, second) == PREBUILDS_USER_ID
    assert await desk.leave("late") == ClaimPlace()
    again = await desk.ask("late", on_empty="wait")
    assert isinstance(again, ClaimResult), "it may be tried again"


async def test_a_claim_repeated_after_its_deadline_waits_anew(engine: AsyncEngine, desk: Desk) -> None:
    """Its workflow was terminated, and the relay has not noticed yet."""
    await make_preset(engine, instances=0)
    await desk.wait("again", name="dev", wait_timeout_seconds=60)
    await desk.wait("other")
    await do(engine, "UPDATE claim_queue SET deadline = now() - interval '1 s' WHERE claim_id = 'again'")
    back = await desk.wait("again", name="dev", wait_timeout_seconds=60)
    now = await one(engine, "SELECT now() AS now")
    assert back.deadline > now.now + timedelta(seconds=30)
    assert back.position == 2, "behind the claims that came meanwhile"


# --- Handed over as it becomes ready ---------------------------------------------------------------------------------


async def test_a_new_claim_never_takes_a_waiters_prebuild(engine: AsyncEngine, store: ClaimStore, desk: Desk) -> None:
    preset = await make_preset(engine, instances=0)
    for n in range(ROUNDS):
        await desk.wait(f"due-{n}", name=f"due-{n}")
        [made] = await begin_prebuilds(engine, preset, 1)
        ending = asyncio.create_task(finish(engine, made))
        stolen = await asyncio.gather(*[claim(store, preset) for _ in range(3)])
        await ending
        assert workspace_ids(stolen) == []
        assert got(await desk.look(f"due-{n}")) == made


async def test_a_claim_joining_as_builds_end_misses_none(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine, instances=0)
    for n in range(ROUNDS):
        made = await begin_prebuilds(engine, preset, 2)
        joins = [desk.ask(f"join-{n}-{m}", name=f"join-{n}-{m}", on_empty="wait") for m in range(2)]
        answers = (await asyncio.gather(*joins, *[finish(engine, i) for i in made]))[:2]
        assert (await one(engine, UNMATCHED)).count == 0
        claimed = [
            answer.workspace_id if isinstance(answer, ClaimResult) else got(await desk.look(f"join-{n}-{m}"))
            for m, answer in enumerate(answers)
        ]
        assert sorted(claimed) == sorted(made)


async def test_looking_up_a_place_does_not_lose_it(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine, instances=0)
    for n in range(ROUNDS):
        await desk.wait(f"first-{n}", name=f"first-{n}")
        await desk.wait(f"second-{n}", name=f"second-{n}")
        [made] = await begin_prebuilds(engine, preset, 1)
        looks = [desk.look(f"first-{n}") for _ in range(4)]
        await asyncio.gather(*looks[:2], finish(engine, made), *looks[2:])
        assert got(await desk.look(f"first-{n}")) == made
        assert await desk.leave(f"second-{n}") == ClaimPlace()


async def test_a_place_that_is_looked_up_at_the_very_moment_is_waited_for(
    engine: AsyncEngine, desk: Desk, database_url: str
) -> None:
    preset = await make_preset(engine, instances=0)
    await desk.wait("first")
    await desk.wait("second")
    [made] = await begin_prebuilds(engine, preset, 1)
    other = await asyncpg.connect(dsn_of(database_url))
    try:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("SELECT FROM claim_queue WHERE claim_id = 'first' FOR UPDATE")
        ending = asyncio.create_task(finish(engine, made))
        await until_blocked(other)
        await transaction.rollback()
        await ending
    finally:
        await other.close()
    assert got(await desk.look("first")) == made


async def test_an_answer_that_was_waited_for_is_the_new_one(engine: AsyncEngine, desk: Desk, database_url: str) -> None:
    """After a wait for a row, a statement reads the joined tables as they were before."""
    preset = await make_preset(engine, instances=0)
    await desk.wait("c1")
    [made] = await begin_prebuilds(engine, preset, 1)
    holder = await asyncpg.connect(dsn_of(database_url))
    try:
        transaction = holder.transaction()
        await transaction.start()
        # The hand-over waits for the name inside its transaction, which has locked the queue's row.
        taken = await one(engine, "SELECT request ->> 'name' AS name FROM claim_queue")
        await holder.execute(
            """
            INSERT INTO workspaces (id, organization_id, owner_id, name, template_id, template_version_id)
            SELECT gen_random_uuid(), $1, u.id, $2, $3, $4 FROM users u WHERE u.name = 'alice'
            """,
            *(preset.organization_id, taken.name, preset.template_id, preset.version_id),
        )
        ending = asyncio.create_task(finish(engine, made))
        await until_blocked(holder)
        looking = asyncio.create_task(desk.look("c1"))
        await until_blocked(holder, 2)
        await transaction.rollback()
        await ending
        assert got(await looking) == made
    finally:
        await holder.close()


# --- Those who can no longer be served -------------------------------------------------------------------------------


async def test_a_name_taken_meanwhile_ends_that_claim_and_the_next_is_tried(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine, instances=0)
    for claim_id, name in (("taken", "dev"), ("twin", "dev"), ("free", "other")):
        await desk.wait(claim_id, name=name)
    await desk.ask("made", name="dev", on_empty="create")
    [made] = await begin_prebuilds(engine, preset, 1)
    served = (await finish(engine, made)).served
    assert served.workflow_ids == [f"claim-workspace/{c}" for c in ("taken", "twin", "free")], "all are told"
    for _ in range(2):  # an attempt's answer may be lost on its way
        with pytest.raises(NameTaken, match="dev"):
            await desk.look("taken")
    with pytest.raises(NameTaken):
        await desk.leave("twin")
    assert got(await desk.look("free")) == made
    again = await desk.wait("taken", name="dev-2")
    assert again.position == 1, "tried again under its id, with another request too"


async def test_an_owner_who_is_no_longer_a_member_is_passed_over(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine, instances=0)
    await desk.wait("hers")
    await desk.wait("his", owner="bob")
    await one_member_less(engine, "alice")
    [made] = await make_ready(engine, preset, 1)
    with pytest.raises(NotAMember):
        await desk.look("hers")
    assert got(await desk.look("his")) == made


async def test_a_request_that_cannot_be_read_harms_nobody_else(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine, instances=0)
    await desk.wait("odd")
    await desk.wait("good")
    await do(engine, """UPDATE claim_queue SET request = '{"of": "another release"}' WHERE claim_id = 'odd'""")
    [made] = await make_ready(engine, preset, 1)
    assert got(await desk.look("good")) == made
    with pytest.raises(PrebuildsError, match="odd"):
        await desk.look("odd")


# --- Leaving ---------------------------------------------------------------------------------------------------------


async def test_leaving_and_the_hand_over_cannot_both_win(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine, instances=0)
    outcomes = {True: 0, False: 0}
    for n in range(ROUNDS):
        await desk.wait(f"leave-{n}", name=f"leave-{n}")
        [made] = await begin_prebuilds(engine, preset, 1)
        place, _ = await against(n, ROUNDS, desk.leave(f"leave-{n}"), finish(engine, made))
        claimed = place.result is not None
        outcomes[claimed] += 1
        row = await one(engine, "SELECT owner_id, claimable_preset_id FROM workspaces WHERE id = :id", id=made)
        assert (row.owner_id == PREBUILDS_USER_ID, row.claimable_preset_id is not None) == (not claimed, not claimed)
        assert (await one(engine, "SELECT count(*) FROM claim_queue")).count == 0
        if claimed:
            assert got(place) == got(await desk.leave(f"leave-{n}")) == made
        else:
            assert await desk.leave(f"leave-{n}") == ClaimPlace(), "it stays out"
            await do(
                engine,
                "UPDATE workspaces SET claimable_preset_id = NULL, claim_build_id = NULL WHERE id = :id",
                id=made,
            )
    assert all(outcomes.values()), outcomes


async def test_a_leaving_waiter_moves_the_others_up(engine: AsyncEngine, desk: Desk) -> None:
    await make_preset(engine, instances=0)
    for n in range(3):
        await desk.wait(f"c{n}")
    assert await desk.leave("c0") == ClaimPlace()
    assert [position_of(await desk.look(f"c{n}")) for n in (1, 2)] == [1, 2]
    assert await desk.look("c0") == ClaimPlace()


async def test_a_late_claim_may_create_instead(engine: AsyncEngine, desk: Desk) -> None:
    await make_preset(engine, instances=0)
    request = {"name": "dev", "on_timeout": "create"}
    await desk.wait("late", **request)
    assert await desk.leave("late", None) == ClaimPlace()
    made = await desk.create_instead("late", **request)
    assert (made.source, made.miss_reason, made.name) == ("created", "empty", "dev")
    assert await desk.ask("late", on_empty="wait", **request) == made, "the same request has the same answer"


async def test_a_leaving_run_gives_up_only_its_own_place(engine: AsyncEngine, store: ClaimStore, desk: Desk) -> None:
    """Workflows `c1` and `claim-workspace/c1` both stand for claim c1: its place belongs to the last request."""
    preset = await make_preset(engine, instances=0)
    earlier = new_run()
    await desk.wait("c1")
    request = ClaimRequest(preset="acme/python/small", owner="alice", name="dev", on_empty=OnEmpty.WAIT)
    timeout = ClaimTimedOut("too late")
    assert await ClaimQueue(store).leave("c1", "c1", hash_request(request), earlier, timeout) == ClaimPlace()
    assert position_of(await desk.look("c1")) == 1
    [made] = await make_ready(engine, preset, 1)
    assert got(await desk.look("c1")) == made


# --- The same claim twice --------------------------------------------------------------------------------------------


async def test_one_claim_sent_twice_at_once_has_one_place(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine, instances=0)
    for n in range(ROUNDS // 2):
        run = new_run()
        twice = await asyncio.gather(*[desk.wait(f"twice-{n}", run=run, name=f"twice-{n}") for _ in range(3)])
        assert len({a.deadline for a in twice}) == 1
        assert {a.position for a in twice} == {1}
        [made] = await begin_prebuilds(engine, preset, 1)
        again = desk.ask(f"twice-{n}", name=f"twice-{n}", on_empty="wait")
        answer, _ = await asyncio.gather(again, finish(engine, made))
        found = answer.workspace_id if isinstance(answer, ClaimResult) else None
        assert found in (None, made)
        assert got(await desk.look(f"twice-{n}")) == made
    assert len(await events(engine, "claim_queued")) == ROUNDS // 2, "told once"


async def test_a_waiting_claims_id_is_not_for_another_request(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine, instances=0)
    await desk.wait("mine", name="dev")
    rows = await rows_of(engine)
    for other in ({"name": "other"}, {"owner": "bob", "name": "dev"}):
        with pytest.raises(ClaimIdReused):
            await desk.ask("mine", on_empty="wait", **other)
    with pytest.raises(ClaimIdReused):
        await desk.ask("mine", name="dev")  # a request without waiting is a different request, too
    assert await rows_of(engine) == rows
    [made] = await make_ready(engine, preset, 1)
    place = await desk.look("mine")
    assert got(place) == made
    assert place.result is not None
    assert (place.result.owner, place.result.name) == ("alice", "dev")


async def test_a_place_whose_claim_was_won_otherwise_is_left_with_the_answer(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine, instances=0)
    await desk.wait("mine", name="dev")
    await desk.wait("next")
    # An attempt of the same claim gets there first, without the queue.
    await do(engine, "UPDATE claim_queue SET preset_name = 'elsewhere' WHERE claim_id = 'next'")
    await do(engine, "UPDATE claim_queue SET preset_name = 'away' WHERE claim_id = 'mine'")
    [first] = await make_ready(engine, preset, 1)
    await do(engine, "UPDATE claim_queue SET preset_name = 'small'")
    found = await desk.ask("mine", name="dev", on_empty="wait")
    assert isinstance(found, ClaimResult)
    assert found.workspace_id == first
    [second] = await make_ready(engine, preset, 1)
    assert got(await desk.look("next")) == second, "it is passed over, since it has one"
    assert got(await desk.look("mine")) == first
    assert got(await desk.leave("mine")) == first
