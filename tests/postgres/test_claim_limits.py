"""Claims under an organization's limits: refused exactly at the limit, also with concurrent requests."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import InvalidInput, LimitExceeded, NoClaimablePrebuiltWorkspaces, OwnerNotFound
from prebuilds.operations.limits import LimitOperations
from prebuilds.payloads import ClaimRequest, ClaimResult, ClaimRun
from prebuilds.store.claim_batches import LOCK_FOR_BATCH_BY_ID
from prebuilds.store.claim_refusals import ClaimTarget
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import create_claim_pool
from prebuilds.store.explain import explain_claim
from prebuilds.store.hand_over import serve_all_waiters
from prebuilds.store.workspaces import release_workspace
from prebuilds.vocabulary import OnEmpty
from tests.builders import MadePreset, apply_file, find_preset
from tests.postgres.pool_steps import Desk, begin_prebuilds, claim, finish, make_ready, new_run, until_blocked
from tests.rows import do, events, one

SMALL = {"name": "small", "instances": 0}
PEOPLE = ("alice", "bob")
COUNT_OWNED = """
    SELECT coalesce(sum(o.workspaces), 0) AS workspaces, coalesce(max(o.workspaces), 0) AS most
      FROM (SELECT count(*) AS workspaces FROM workspaces w JOIN users u ON u.id = w.owner_id
             WHERE u.name <> 'prebuilds' AND w.deleted_at IS NULL AND w.latest_transition <> 'delete'
             GROUP BY u.id) AS o
"""


@pytest.fixture
async def stores(database_url: str) -> AsyncIterator[list[ClaimStore]]:
    """Three stores, like those of three processes: each has its own connections."""
    async with AsyncExitStack() as opened:
        pools = [await opened.enter_async_context(await create_claim_pool(database_url, size=6)) for _ in range(3)]
        yield [ClaimStore(pool, enabled=True) for pool in pools]


@pytest.fixture
def desk(engine: AsyncEngine, stores: list[ClaimStore]) -> Desk:
    return Desk(engine, stores[0])


async def limited(engine: AsyncEngine, members: Sequence[str] = PEOPLE, **limits: int) -> MadePreset:
    await apply_file(engine, SMALL, members=members, limits=limits)
    return await find_preset(engine)


def drill_claim(name: str) -> tuple[ClaimRequest, ClaimTarget, bytes, ClaimRun]:
    """A claim by the drills' user, whom no person's request may name."""
    request = ClaimRequest(preset="acme/python/small", owner="alice", name=name, on_empty=OnEmpty.CREATE)
    request = request.model_copy(update={"owner": "prebuilds-drill"})
    return request, ClaimTarget("drill", path=("acme", "python", "small")), b"drill", new_run()


async def refusal_of(claiming: Any) -> LimitExceeded:
    with pytest.raises(LimitExceeded) as refused:
        await claiming
    return refused.value


async def claims_at_once(engine: AsyncEngine, stores: Sequence[ClaimStore], owners: Sequence[str]) -> Counter[str]:
    """Let all of *owners* claim at the same time, alone or in shared statements; returns how many each has won. All
    others meet the limit."""
    desks = [Desk(engine, store) for store in stores]
    claims = [desks[n % len(desks)].ask(f"{uuid4()}", owner=owner) for n, owner in enumerate(owners)]
    done = await asyncio.gather(*claims, return_exceptions=True)
    assert all(isinstance(one, LimitExceeded | ClaimResult) for one in done), done
    return Counter(one.owner for one in done if isinstance(one, ClaimResult))


# --- Workspaces at a time --------------------------------------------------------------------------------------------


async def test_fifty_claims_of_one_member_at_once_give_exactly_the_limit(
    engine: AsyncEngine, stores: list[ClaimStore]
) -> None:
    preset = await limited(engine, workspaces_per_member=5)
    await make_ready(engine, preset, 12)
    claimed = await claims_at_once(engine, stores, ["alice"] * 50)
    assert claimed == {"alice": 5}
    assert await claims_at_once(engine, stores, ["alice", "bob"] * 10) == {"bob": 5}, "each member's own"


async def test_the_members_of_an_organization_share_its_workspaces(
    engine: AsyncEngine, stores: list[ClaimStore]
) -> None:
    preset = await limited(engine, workspaces=7, workspaces_per_member=5)
    await make_ready(engine, preset, 12)
    claimed = await claims_at_once(engine, stores, ["alice", "bob"] * 15)
    assert claimed.total() == 7
    assert max(claimed.values()) <= 5
    used = {row.limit: row.used for row in (await LimitOperations(engine).list()).rows}
    assert used == {"workspaces": 7, "workspaces_per_member": max(claimed.values())}


async def test_a_refusal_names_the_limit_and_writes_nothing(engine: AsyncEngine, desk: Desk) -> None:
    preset = await limited(engine, workspaces_per_member=1)
    await make_ready(engine, preset, 2)
    await desk.ask("c1")
    error = await refusal_of(desk.ask("c2"))
    assert error.details == {
        **{"organization": "acme", "limit": "workspaces_per_member", "maximum": 1, "used": 1},
        "retry_after_seconds": None,
    }
    assert "workspaces_per_member is 1" in error.message
    assert (error.retryable, error.repeated) == (False, False)
    assert (await one(engine, "SELECT count(*) FROM workspaces WHERE claimed_at IS NOT NULL")).count == 1
    explained = await explain_claim(engine, "c2")
    assert explained.outcome == "refused"
    assert explained.error == f"LimitExceeded: {error.message}"


async def test_a_won_claim_is_answered_again_regardless_of_limits(engine: AsyncEngine, desk: Desk) -> None:
    preset = await limited(engine)
    await make_ready(engine, preset, 5)
    first, second = await desk.ask("c1", name="a"), await desk.ask("c2", name="b")
    batch = await desk.ask_all("b1", ["x", "y"], on_empty="create")
    await limited(engine, workspaces_per_member=1, workspaces=1, claims_per_minute=1)
    assert await desk.ask("c1", name="a") == first
    assert await desk.ask("c2", name="b") == second
    assert await desk.ask_all("b1", ["x", "y"], on_empty="create") == batch
    assert (await refusal_of(desk.ask("c3"))).details["used"] == 4
    await limited(engine)
    assert isinstance(await desk.ask("c3"), ClaimResult)


async def test_attempts_at_one_claim_meet_no_limit_by_each_other(engine: AsyncEngine, stores: list[ClaimStore]) -> None:
    preset = await limited(engine, workspaces_per_member=1, claims_per_minute=100)
    for n in range(10):
        await make_ready(engine, preset, 1)
        run, name = new_run(), f"r{n}"
        claims = [Desk(engine, store).ask(f"again-{n}", run=run, name=name) for store in stores * 2]
        answers = await asyncio.gather(*claims)
        assert len({answer.model_dump_json() for answer in answers}) == 1
        await do(engine, "UPDATE workspaces SET deleted_at = now() WHERE name = :name", name=name)
    assert (await one(engine, "SELECT count(*) FROM recent_claims")).count == 10


async def test_a_batch_counts_each_of_its_workspaces(engine: AsyncEngine, desk: Desk) -> None:
    preset = await limited(engine, workspaces_per_member=3)
    await make_ready(engine, preset, 6)
    assert len((await desk.ask_all("b1", ["a", "b"])).claims) == 2
    assert (await refusal_of(desk.ask_all("b2", ["c", "d"]))).details["used"] == 3, "with the first one of the batch"
    assert (await one(engine, "SELECT count(*) FROM workspaces WHERE claimed_at IS NOT NULL")).count == 2
    assert len((await desk.ask_all("b3", ["c"])).claims) == 1


@pytest.mark.parametrize(
    ("limit", "other"),
    [("claims_per_minute", "workspaces"), ("workspaces", "claims_per_minute"), ("workspaces_per_member", "workspaces")],
)
async def test_a_batch_beyond_a_limit_is_refused_for_good(
    engine: AsyncEngine, desk: Desk, limit: str, other: str
) -> None:
    preset = await limited(engine, **{limit: 2, other: 3})
    await make_ready(engine, preset, 4)
    with pytest.raises(InvalidInput) as refused:
        await desk.ask_all("b1", ["a", "b", "c", "d"])
    assert not refused.value.retryable
    assert refused.value.details == {"names": f"4 workspaces at once are never allowed, since {limit} of acme is 2"}
    assert "at most 2" in refused.value.remedy
    assert (await one(engine, "SELECT count(*) FROM recent_claims")).count == 0
    assert len((await desk.ask_all("b2", ["a", "b"])).claims) == 2


async def test_only_members_learn_that_a_batch_is_beyond_a_limit(engine: AsyncEngine, desk: Desk) -> None:
    preset = await limited(engine, workspaces=2)
    await make_ready(engine, preset, 4)
    with pytest.raises(OwnerNotFound):
        await desk.ask_all("b1", ["a", "b", "c", "d"], owner="stranger")


async def test_created_and_stopped_ones_count_and_those_being_deleted_do_not(engine: AsyncEngine, desk: Desk) -> None:
    await limited(engine, workspaces=2)
    made = [await desk.ask(f"c{n}", on_empty="create") for n in range(2)]
    assert all(isinstance(one, ClaimResult) and one.source == "created" for one in made)
    stop = "UPDATE workspaces SET latest_transition = 'stop', latest_status = 'succeeded'"
    await do(engine, stop)
    assert (await refusal_of(desk.ask("c2", on_empty="create"))).details["limit"] == "workspaces"
    assert isinstance(made[0], ClaimResult)
    await release_workspace(engine, str(made[0].workspace_id), by="ops")
    assert isinstance(await desk.ask("c2", on_empty="create"), ClaimResult)


async def test_a_drill_takes_nobodys_place(engine: AsyncEngine, desk: Desk) -> None:
    await limited(engine, workspaces=1, claims_per_minute=1)
    drill = "INSERT INTO users (id, name, key) VALUES (gen_random_uuid(), 'prebuilds-drill', 'prebuilds-drill')"
    await do(engine, f"{drill} ON CONFLICT DO NOTHING")
    member = "SELECT :organization, id FROM users WHERE key = 'prebuilds-drill'"
    organization = (await find_preset(engine)).organization_id
    await do(engine, f"INSERT INTO organization_members {member}", organization=organization)
    for n in range(2):
        claiming = desk.store.claim_on(desk.store.pool, f"d{n}", *drill_claim(f"d{n}"), held=True)
        assert (await claiming).result is not None
    assert isinstance(await desk.ask("c1", on_empty="create"), ClaimResult)
    assert [row.used for row in (await LimitOperations(engine).list()).rows] == [1, 1]


# --- Claims within a minute ------------------------------------------------------------------------------------------


async def a_minute_later(engine: AsyncEngine, seconds: float = 61) -> None:
    await do(engine, "UPDATE recent_claims SET asked_at = asked_at - make_interval(secs => :s)", s=seconds)


async def test_claims_beyond_the_minute_are_refused_until_the_true_second(
    engine: AsyncEngine, stores: list[ClaimStore], desk: Desk
) -> None:
    preset = await limited(engine, claims_per_minute=4)
    await make_ready(engine, preset, 12)
    assert (await claims_at_once(engine, stores, ["alice", "bob"] * 8)).total() == 4
    error = await refusal_of(desk.ask("later"))
    assert (error.details["limit"], error.details["used"], error.retryable, error.repeated) == (
        *("claims_per_minute", 4, True),
        False,
    )
    wait = error.details["retry_after_seconds"]
    assert 50 < wait <= 60
    await a_minute_later(engine, wait - 1.5)
    assert (await refusal_of(desk.ask("later"))).details["retry_after_seconds"] in (1, 2)
    await a_minute_later(engine, 2.5)
    assert isinstance(await desk.ask("later"), ClaimResult)


async def test_a_claim_counts_once_and_a_miss_counts_and_a_refusal_does_not(engine: AsyncEngine, desk: Desk) -> None:
    await limited(engine, claims_per_minute=2)
    for _ in range(3):
        with pytest.raises(NoClaimablePrebuiltWorkspaces):
            await desk.ask("missed")
    with pytest.raises(NoClaimablePrebuiltWorkspaces):
        await desk.ask("missed-too")
    for n in range(3):
        await refusal_of(desk.ask(f"refused-{n}"))
    assert (await one(engine, "SELECT count(*) FROM recent_claims")).count == 2
    await a_minute_later(engine)
    assert isinstance(await desk.ask("refused-0", on_empty="create"), ClaimResult)
    assert (await one(engine, "SELECT count(*) FROM recent_claims")).count == 1, "old counts are removed"


async def test_a_clock_that_steps_back_locks_nobody_out(engine: AsyncEngine, desk: Desk) -> None:
    await limited(engine, claims_per_minute=1)
    await desk.ask("c1", on_empty="create")
    await do(engine, "UPDATE recent_claims SET asked_at = now() + interval '1 hour'")
    await desk.ask("c2", on_empty="create")
    assert (await one(engine, "SELECT max(asked_at) <= clock_timestamp() AS it FROM recent_claims")).it


async def test_a_limit_that_is_removed_forgets_what_it_counted(engine: AsyncEngine, desk: Desk) -> None:
    await limited(engine, claims_per_minute=1)
    await desk.ask("c1", on_empty="create")
    await limited(engine, workspaces=9)
    assert (await one(engine, "SELECT count(*) FROM recent_claims")).count == 0
    await desk.ask("c2", on_empty="create")


async def test_a_limit_is_removed_in_no_circle_with_a_batch(engine: AsyncEngine, stores: list[ClaimStore]) -> None:
    """A batch holds its preset when it counts its claims; `apply` changes that preset and forgets what was counted."""
    preset = await limited(engine, claims_per_minute=9)
    await Desk(engine, stores[0]).ask("c1", on_empty="create")
    await a_minute_later(engine)
    request = ClaimRequest(preset="acme/python/small", owner="alice", name="b", on_empty=OnEmpty.CREATE)
    target = ClaimTarget("small", preset_id=preset.id)
    async with stores[0].pool.acquire() as batch, batch.transaction():
        await batch.execute("SET LOCAL deadlock_timeout = '10ms'")  # so that a deadlock ends this one, and not `apply`
        await batch.fetchrow(LOCK_FOR_BATCH_BY_ID, preset.id)
        grown = SMALL | {"instances": 1}
        applying = asyncio.create_task(apply_file(engine, grown, members=PEOPLE, limits={"workspaces": 9}))
        await until_blocked(batch)
        claimed = await stores[0].claim_on(batch, "b/0", request, target, b"batch", new_run(), held=True)
    assert claimed.result is not None
    assert (await applying).changed
    assert (await one(engine, "SELECT count(*) FROM recent_claims")).count == 0


# --- Claims that wait ------------------------------------------------------------------------------------------------


async def test_a_waiter_at_its_members_limit_keeps_its_place_and_the_next_one_is_served(
    engine: AsyncEngine, desk: Desk
) -> None:
    preset = await limited(engine, workspaces_per_member=1)
    await desk.wait("alices", owner="alice")
    await desk.wait("bobs", owner="bob")
    has = await desk.ask("meanwhile", owner="alice", on_empty="create")
    assert isinstance(has, ClaimResult)
    [ready] = await begin_prebuilds(engine, preset, 1)
    assert (await finish(engine, ready)).served.workflow_ids == ["claim-workspace/bobs"]
    await make_ready(engine, preset, 1)
    assert not (await serve_all_waiters(engine)).workflow_ids
    place = await desk.look("alices")
    assert place.waiting is not None
    recorded = [data for _, data in await events(engine, "claim_passed_over")]
    assert recorded == [{"limit": "workspaces_per_member", "maximum": 1, "used": 1}], "once"
    await release_workspace(engine, str(has.workspace_id), by="ops")
    assert (await serve_all_waiters(engine)).workflow_ids == ["claim-workspace/alices"]
    assert (await desk.look("alices")).result is not None


async def test_nobody_in_line_is_served_beyond_the_organizations_limit(engine: AsyncEngine, desk: Desk) -> None:
    preset = await limited(engine, workspaces=2, claims_per_minute=3)
    for n in range(3):
        await desk.wait(f"c{n}")
    await a_minute_later(engine)
    await make_ready(engine, preset, 3)
    assert [(await desk.look(f"c{n}")).result is not None for n in range(3)] == [True, True, False]
    assert (await one(engine, "SELECT count(*) FROM recent_claims")).count == 3, "they were counted when they asked"


async def test_a_timed_out_waiter_counted_when_it_asked(engine: AsyncEngine, desk: Desk) -> None:
    await limited(engine, claims_per_minute=1)
    await desk.wait("patient", name="dev", on_timeout="create")
    await a_minute_later(engine)
    assert isinstance(await desk.ask("other", on_empty="create"), ClaimResult)
    await desk.leave("patient", None)
    assert (await desk.create_instead("patient", name="dev")).source == "created"
    assert (await refusal_of(desk.ask("new", on_empty="create"))).details["limit"] == "claims_per_minute"


async def test_waiters_and_claims_at_once_stay_within_the_limit(engine: AsyncEngine, stores: list[ClaimStore]) -> None:
    preset = await limited(engine, workspaces_per_member=4)
    waiting = Desk(engine, stores[0])
    for n in range(4):
        await waiting.wait(f"w{n}", owner="alice")
    begun = await begin_prebuilds(engine, preset, 8)
    claims = [claim(stores[n % 3], preset, owner="alice") for n in range(8)]
    done = await asyncio.gather(*(finish(engine, one) for one in begun), *claims, return_exceptions=True)
    wrong = [one for one in done if isinstance(one, BaseException) and not isinstance(one, LimitExceeded)]
    assert not wrong
    await serve_all_waiters(engine)
    owned = "SELECT count(*) FROM workspaces w JOIN users u ON u.id = w.owner_id WHERE u.name = 'alice'"
    assert (await one(engine, owned)).count == 4


@pytest.mark.parametrize("seed", range(3))
async def test_no_sequence_of_claims_waits_and_releases_exceeds_a_limit(
    engine: AsyncEngine, stores: list[ClaimStore], seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - which steps come next
    preset = await limited(engine, workspaces=5, workspaces_per_member=3)
    desks = [Desk(engine, store) for store in stores]
    claimed: list[ClaimResult] = []
    one_pass_at_a_time = asyncio.Lock()

    async def step(number: int) -> None:
        desk, owner = chance.choice(desks), chance.choice(PEOPLE)
        match chance.randrange(6):
            case 0:
                async with one_pass_at_a_time:
                    await make_ready(engine, preset, 1)
            case 1 if claimed:
                await release_workspace(engine, str(claimed.pop(chance.randrange(len(claimed))).workspace_id), by="ops")
                await serve_all_waiters(engine)
            case 2:
                names = [f"b{number}-{n}" for n in range(2)]
                claimed.extend((await desk.ask_all(f"c{number}", names, owner=owner, on_empty="create")).claims)
            case _:
                answer = await desk.ask(f"c{number}", owner=owner, on_empty=chance.choice(["fail", "create", "wait"]))
                claimed.extend([answer] if isinstance(answer, ClaimResult) else [])

    for round_number in range(12):
        done = await asyncio.gather(*(step(round_number * 10 + n) for n in range(4)), return_exceptions=True)
        expected = LimitExceeded | NoClaimablePrebuiltWorkspaces
        assert not [one for one in done if isinstance(one, BaseException) and not isinstance(one, expected)], done
        found = await one(engine, COUNT_OWNED)
        assert found.workspaces <= 5
        assert found.most <= 3
