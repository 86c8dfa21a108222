"""Many claims in one transaction, on a real server: all or nothing, once, and beside everybody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import (
    ClaimIdReused,
    InvalidInput,
    NameTaken,
    NoClaimablePrebuiltWorkspaces,
    NotAMember,
    PrebuildsError,
    PresetNotFound,
)
from prebuilds.payloads import CLAIM_ID_BYTES_MAX, CLAIMS_MAX, ClaimResult, ClaimsResult
from prebuilds.store.claims import ClaimOutcome, ClaimStore
from prebuilds.store.engine import create_claim_pool, dsn_of
from prebuilds.vocabulary import MissReason
from tests.builders import apply_file, find_preset, make_preset
from tests.postgres.pool_steps import Desk, claim, make_ready, until_blocked, workspace_ids
from tests.rows import add_prebuild, do, one, rows_of


class WatchedStore(ClaimStore):
    """Counts the deadlocks that PostgreSQL ended: callers do not see them, but each costs a second."""

    deadlocks = 0

    async def claim_on(self, *args: Any, **kwargs: Any) -> ClaimOutcome:
        try:
            return await super().claim_on(*args, **kwargs)
        except asyncpg.DeadlockDetectedError:
            self.deadlocks += 1
            raise


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[WatchedStore]:
    async with await create_claim_pool(database_url, size=16) as pool:
        yield WatchedStore(pool, enabled=True)


@pytest.fixture
def desk(engine: AsyncEngine, store: WatchedStore) -> Desk:
    return Desk(engine, store)


def names(number: int, prefix: str = "w") -> list[str]:
    return [f"{prefix}{n}" for n in range(number)]


def ids(result: ClaimsResult) -> list[UUID]:
    return [c.workspace_id for c in result.claims]


async def ready(engine: AsyncEngine, number: int, preset: str = "small", template: str = "python") -> list[UUID]:
    """Prebuilds in the state that a succeeded creation leaves, oldest first."""
    found = await find_preset(engine, template=template, preset=preset)
    made = [await add_prebuild(engine, found, timedelta(seconds=number - n)) for n in range(number)]
    await do(
        engine,
        """
        UPDATE workspaces SET latest_build = 1, latest_transition = 'start', latest_status = 'succeeded'
         WHERE claimable_preset_id = :id
        """,
        id=found.id,
    )
    return made


async def test_a_batch_of_a_hundred_wins_in_one_transaction(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine)
    made = await ready(engine, 120)
    result = await desk.ask_all("class", names(100), initiator="bob", ttl_seconds=60)
    assert sorted(ids(result)) == sorted(made[:100]), "the oldest, and each only once"
    assert [c.name for c in result.claims] == names(100)
    assert [c.claim_id for c in result.claims] == [f"class/{n}" for n in range(100)]
    assert {(c.owner, c.initiator, c.source) for c in result.claims} == {("alice", "bob", "prebuilt")}
    rows = await one(
        engine,
        """
        SELECT count(*), count(DISTINCT w.xmin::text) AS transactions, count(DISTINCT claimed_at) AS times
          FROM workspaces w WHERE claimed_at IS NOT NULL AND ttl = interval '60 s'
        """,
    )
    assert (rows.count, rows.transactions, rows.times) == (100, 1, 1)
    assert desk.dispatcher.started == [c.build_id for c in result.claims]
    assert set(desk.dispatcher.nudged) == {preset.id}


async def test_a_batch_of_a_hundred_with_99_ready_wins_nothing(engine: AsyncEngine, desk: Desk) -> None:
    await make_preset(engine)
    await ready(engine, 99)
    before = await rows_of(engine)
    with pytest.raises(NoClaimablePrebuiltWorkspaces, match="99 of 100") as refused:
        await desk.ask_all("class", names(100))
    assert refused.value.details == {"miss_reason": "empty"}
    after = await rows_of(engine)
    assert after | {"events": before["events"]} == before, "but that it has missed"
    event = await one(engine, "SELECT claim_id, data FROM events WHERE kind = 'claim_missed'")
    assert (event.claim_id, event.data["claims"]) == ("class/0", 100)
    with pytest.raises(NoClaimablePrebuiltWorkspaces):
        await desk.ask_all("class", names(100))
    misses = await one(
        engine, "SELECT count(*) AS n, count(DISTINCT data ->> 'run') AS runs FROM events WHERE kind = 'claim_missed'"
    )
    assert misses.n == misses.runs
    assert desk.dispatcher.started == []
    created = await desk.ask_all("class", names(100), on_empty="create")
    assert sorted(c.source for c in created.claims) == ["created"] + ["prebuilt"] * 99
    [made] = [c for c in created.claims if c.source == "created"]
    assert (made.miss_reason, made.address) == (MissReason.EMPTY, None)
    assert [c.name for c in created.claims] == names(100)


async def test_the_same_batch_again_gets_the_same_answer(engine: AsyncEngine, desk: Desk) -> None:
    await make_preset(engine)
    await ready(engine, 8)
    at_once = await asyncio.gather(*[desk.ask_all("class", names(4)) for _ in range(3)])
    assert at_once[0] == at_once[1] == at_once[2]
    assert len(desk.dispatcher.started) == 4, "builds started by an earlier attempt are not started again"
    # This holds also after another version has become active.
    await apply_file(engine, {"name": "small", "instances": 1, "parameters": {"a": "b"}})
    rows = await rows_of(engine)
    assert await desk.ask_all("class", names(4)) == at_once[0]
    assert await rows_of(engine) == rows


async def test_another_batch_under_its_id_is_refused(engine: AsyncEngine, desk: Desk) -> None:
    await make_preset(engine)
    await ready(engine, 9)
    await desk.ask_all("class", names(2))
    rows = await rows_of(engine)
    for other, changes in ((names(3), {}), (names(1), {}), (names(2, "x"), {}), (names(2), {"owner": "bob"})):
        with pytest.raises(ClaimIdReused):
            await desk.ask_all("class", other, **changes)
    with pytest.raises(ClaimIdReused):
        await desk.ask("class/0", name="w0")
    assert await rows_of(engine) == rows


async def test_one_taken_name_refuses_the_whole_batch(engine: AsyncEngine, desk: Desk) -> None:
    await make_preset(engine)
    await ready(engine, 9)
    await desk.ask("mine", name="w3")
    rows = await rows_of(engine)
    with pytest.raises(NameTaken, match="w3"):
        await desk.ask_all("class", names(5))
    assert await rows_of(engine) == rows
    assert len(ids(await desk.ask_all("class", names(5), owner="bob"))) == 5, "names are unique for an owner"


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"preset": "acme/python/none"}, PresetNotFound),
        ({"owner": "carol"}, NotAMember),
        ({"on_empty": "wait"}, InvalidInput),
        ({"name": "one-too-many"}, InvalidInput),
        ({"owner": "prebuilds"}, InvalidInput),
    ],
    ids=str,
)
async def test_a_refused_batch_writes_nothing(
    engine: AsyncEngine, desk: Desk, changes: dict[str, str], refused: type[PrebuildsError]
) -> None:
    await make_preset(engine)
    await ready(engine, 3)
    await do(engine, "INSERT INTO users (id, name, key) VALUES (gen_random_uuid(), 'carol', 'carol')")
    rows = await rows_of(engine)
    with pytest.raises(refused):
        await desk.ask_all("class", names(3), **changes)
    assert await rows_of(engine) == rows


@pytest.mark.parametrize(
    ("given", "field"),
    [([], "names"), (names(CLAIMS_MAX + 1), "names"), (["a", "b", "a"], "distinct"), (["a", "Not A Name"], "names.1")],
    ids=["none", "too many", "twice", "no name"],
)
async def test_impossible_names_are_refused_by_field(desk: Desk, given: list[str], field: str) -> None:
    with pytest.raises(InvalidInput, match=field):
        await desk.ask_all("class", given)


@pytest.mark.parametrize("number", [1, CLAIMS_MAX])
async def test_batches_of_one_and_of_the_maximum_win(engine: AsyncEngine, desk: Desk, number: int) -> None:
    await make_preset(engine)
    made = await ready(engine, number)
    assert sorted(ids(await desk.ask_all("class", names(number)))) == sorted(made)


async def test_a_members_id_fits_where_the_batchs_does(engine: AsyncEngine, desk: Desk) -> None:
    await make_preset(engine)
    await ready(engine, 12)
    longest = "x" * (CLAIM_ID_BYTES_MAX - len("/10"))
    assert len(ids(await desk.ask_all(longest, names(11)))) == 11
    for claim_id in (longest + "x", "", "a\0b"):
        with pytest.raises(InvalidInput, match="claim_id"):
            await desk.ask_all(claim_id, names(11, "y"))


# --- Beside everybody else -------------------------------------------------------------------------------------------


async def test_batches_and_single_claims_at_once_count_exactly(
    engine: AsyncEngine, store: WatchedStore, desk: Desk
) -> None:
    preset = await make_preset(engine)
    for n in range(8):
        made = await ready(engine, 40)
        batches = [
            # One names the pool by its path, the other by its id; it is the same pool.
            desk.ask_all(f"path-{n}", names(15, f"a{n}-")),
            desk.ask_all(f"id-{n}", names(15, f"b{n}-"), preset=str(preset.id), owner="bob"),
        ]
        singles = [claim(store, preset, name=f"s{n}-{m}") for m in range(30)]
        answers = await asyncio.gather(*batches, *singles, return_exceptions=True)
        batch_ids = [i for a in answers if isinstance(a, ClaimsResult) for i in ids(a)]
        single_ids = workspace_ids([a for a in answers if isinstance(a, ClaimOutcome)])
        others = [a for a in answers if not isinstance(a, ClaimsResult | ClaimOutcome)]
        assert all(isinstance(a, NoClaimablePrebuiltWorkspaces) for a in others), others
        claimed = [*batch_ids, *single_ids]
        assert len(set(claimed)) == len(claimed)
        assert set(claimed) <= set(made)
        assert len(batch_ids) % 15 == 0, "all or nothing"
        left = (await one(engine, "SELECT count(*) FROM workspaces WHERE claimable_preset_id IS NOT NULL")).count
        assert left == 40 - len(claimed)
        assert left == 0 or (len(single_ids) == 30 and left < 15), "nobody misses while a prebuild is ready"
        await do(engine, "UPDATE workspaces SET claimable_preset_id = NULL, claim_build_id = NULL")


async def test_competing_batches_beyond_the_pool_never_deadlock(
    engine: AsyncEngine, store: WatchedStore, desk: Desk
) -> None:
    """Each would hold rows that the other waits for."""
    preset = await make_preset(engine)
    for n in range(15):
        await ready(engine, 10)
        batches = [
            desk.ask_all(f"path-{n}", names(8, f"a{n}-")),
            desk.ask_all(f"id-{n}", names(8, f"b{n}-"), preset=str(preset.id), owner="bob"),
        ]
        answers = await asyncio.gather(*batches, return_exceptions=True)
        claimed, missed = sorted(answers, key=lambda a: isinstance(a, BaseException))
        assert isinstance(claimed, ClaimsResult)
        assert isinstance(missed, NoClaimablePrebuiltWorkspaces)
        await do(engine, "UPDATE workspaces SET claimable_preset_id = NULL, claim_build_id = NULL")
    assert store.deadlocks == 0


async def test_batches_with_the_same_names_in_another_order_never_deadlock(
    engine: AsyncEngine, store: WatchedStore, desk: Desk
) -> None:
    """Each would hold names that the other waits for."""
    await apply_file(engine, {"name": "small", "instances": 1}, {"name": "large", "instances": 1})
    for n in range(3):
        await ready(engine, 40)
        await ready(engine, 40, preset="large")
        wanted = names(40, f"w{n}-")
        answers = await asyncio.gather(
            desk.ask_all(f"small-{n}", wanted),
            desk.ask_all(f"large-{n}", wanted[::-1], preset="acme/python/large"),
            return_exceptions=True,
        )
        claimed, refused = sorted(answers, key=lambda a: isinstance(a, BaseException))
        assert isinstance(claimed, ClaimsResult), refused
        assert isinstance(refused, NameTaken)
        await do(engine, "UPDATE workspaces SET claimable_preset_id = NULL, claim_build_id = NULL")
    assert store.deadlocks == 0


async def test_a_pass_and_a_batch_take_turns(engine: AsyncEngine, desk: Desk, database_url: str) -> None:
    """A pass holds its preset's row before it locks prebuilds in an order of its own."""
    preset = await make_preset(engine)
    await ready(engine, 4)
    other = await asyncpg.connect(dsn_of(database_url))
    try:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("UPDATE presets SET last_pass = last_pass WHERE id = $1", preset.id)
        batch = asyncio.create_task(desk.ask_all("class", names(4)))
        await until_blocked(other)
        locked = await other.fetch("SELECT id FROM workspaces ORDER BY id FOR UPDATE NOWAIT")
        assert len(locked) == 4, "it holds no prebuild while it waits"
        await transaction.rollback()
        assert len(ids(await batch)) == 4
    finally:
        await other.close()


async def test_a_batch_is_of_one_version(engine: AsyncEngine, desk: Desk) -> None:
    await make_preset(engine)
    for n in range(6):
        await ready(engine, 60)
        applying = apply_file(engine, {"name": "small", "instances": 1, "parameters": {"n": str(n)}})
        answer, _ = await asyncio.gather(
            desk.ask_all(f"class-{n}", names(60, f"w{n}-"), on_empty="create"), applying, return_exceptions=True
        )
        assert isinstance(answer, ClaimsResult)
        assert len({c.preset_id for c in answer.claims}) == 1
        assert {c.source for c in answer.claims} in ({"prebuilt"}, {"created"})
        await do(engine, "UPDATE workspaces SET claimable_preset_id = NULL, claim_build_id = NULL")


async def test_a_batch_serves_nobody_who_waits_and_waits_for_nobody(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine, instances=0)
    await desk.wait("first")
    [made] = await make_ready(engine, preset, 1)
    with pytest.raises(NoClaimablePrebuiltWorkspaces):
        await desk.ask_all("class", names(1))
    place = await desk.look("first")
    assert isinstance(place.result, ClaimResult)
    assert place.result.workspace_id == made
