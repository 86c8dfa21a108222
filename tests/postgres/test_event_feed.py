"""The feed of events: each event comes exactly once, in the order of the numbers, whatever the order of commits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import InvalidInput
from prebuilds.operations import event_feed
from prebuilds.operations.event_feed import EventFeed, EventPart
from prebuilds.planning.policy import Reach
from prebuilds.store.events import record_event
from prebuilds.store.restoring import restored
from prebuilds.views import EventRecord
from tests.builders import make_preset
from tests.postgres.pool_steps import record_prebuilds
from tests.rows import one

READ_WITHIN_S = 20


async def record(engine: AsyncEngine, kind: str) -> None:
    async with engine.begin() as connection:
        await record_event(connection, kind, "tester")


async def read(parts: AsyncIterator[EventPart], until: str) -> tuple[list[str], str]:
    """Read a feed until an event of one kind has come; returns all kinds that came, and the cursor."""
    kinds: list[str] = []
    async with asyncio.timeout(READ_WITHIN_S):
        while until not in kinds:
            part = await anext(parts)
            kinds += [event.kind for event in part.events]
    return kinds, part.cursor


async def test_an_event_that_commits_late_comes_in_its_place_and_none_twice(engine: AsyncEngine) -> None:
    feed = EventFeed(engine)
    async with aclosing(feed.follow(None)) as parts, engine.connect() as late, engine.connect() as later:
        first = await anext(parts)
        assert first.events == []
        await late.begin()
        await record_event(late, "late", "tester")
        await later.begin()
        await record_event(later, "later", "tester")
        await record(engine, "early")
        coming = asyncio.create_task(anext(parts))
        await until_looked(feed, 3)
        assert not coming.done(), "an earlier number may still commit"
        await late.commit()
        await until_looked(feed, 3)
        assert not coming.done()
        await later.rollback()
        part = await coming
        assert [event.kind for event in part.events] == ["late", "early"], (
            "a number that is never committed blocks none"
        )
        await record(engine, "end")
        assert (await read(parts, "end"))[0] == ["end"]
    async with aclosing(EventFeed(engine).follow(first.cursor)) as again:  # another server, too
        assert (await read(again, "end"))[0] == ["late", "early", "end"]


async def until_looked(feed: EventFeed, times: int) -> None:
    """Wait until a feed has looked for events so many times more."""
    looks = 0
    look = feed._engine.connect

    def counted() -> Any:
        nonlocal looks
        looks += 1
        return look()

    feed._engine = type("Counted", (), {"connect": staticmethod(counted)})()  # type: ignore[assignment]
    async with asyncio.timeout(READ_WITHIN_S):
        while looks < times:
            await asyncio.sleep(0.01)


async def test_reconnecting_readers_see_every_event_of_many_writers(engine: AsyncEngine) -> None:
    """Each reader disconnects after every part and continues at another server."""
    feeds = [EventFeed(engine), EventFeed(engine)]

    async def write(name: int) -> None:
        for n in range(15):
            async with engine.begin() as connection:
                await record_event(connection, f"{name}.{n}", "tester")
                await connection.execute(text("SELECT pg_sleep(:s)"), {"s": 0.02 * ((name + n) % 3)})
                if (name + n) % 5 == 0:
                    await connection.rollback()

    async def follow(cursor: str) -> list[int]:
        seen: list[int] = []
        for n in range(1000):
            async with aclosing(feeds[n % 2].follow(cursor)) as parts:
                async for part in parts:
                    seen += [event.id for event in part.events]
                    cursor = part.cursor
                    if any(event.kind == "end" for event in part.events):
                        return seen
                    if part.events:
                        break
        raise AssertionError("it never ended")

    async with aclosing(feeds[0].follow(None)) as parts:
        start = (await anext(parts)).cursor
        readers = [asyncio.create_task(follow(start)) for _ in range(3)]
        await asyncio.gather(*[write(n) for n in range(4)])
        await record(engine, "end")
        async with asyncio.timeout(READ_WITHIN_S):
            found = await asyncio.gather(*readers)
    recorded = await one(engine, "SELECT array_agg(id ORDER BY id) AS ids FROM events WHERE id > :n", n=number(start))
    assert found == [recorded.ids] * 3


def number(cursor: str) -> int:
    return int(cursor.partition(".")[2])


async def test_a_reader_far_behind_reads_everything_in_parts(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_feed, "PART_MAX", 3)
    for n in range(8):
        await record(engine, f"e{n}")
    async with aclosing(EventFeed(engine).follow("0")) as parts:
        assert (await read(parts, "e7"))[0][-8:] == [f"e{n}" for n in range(8)]


async def test_after_a_restore_a_cursor_goes_on_where_the_histories_part(engine: AsyncEngine) -> None:
    async with aclosing(EventFeed(engine).follow(None)) as parts:
        cursor = (await anext(parts)).cursor
    epoch, last = cursor.split(".")
    await record(engine, "before")
    await restored(engine, "ops", dry_run=False)
    for n in range(5):
        await record(engine, f"after{n}")
    lost = f"{epoch}.{int(last) + 4}"  # the reader had read events that the restore has undone
    async with aclosing(EventFeed(engine).follow(lost)) as parts:
        kinds, _ = await read(parts, "after4")
    assert kinds == ["restored", *[f"after{n}" for n in range(5)]]
    async with aclosing(EventFeed(engine).follow(cursor)) as parts:
        assert (await read(parts, "after4"))[0][0] == "before"


@pytest.mark.parametrize("cursor", ["", "x", "1", "00000000.1", "0.1", "-1", "aaaaaaaa.", "aaaaaaaa.\u0661", "a" * 90])
async def test_an_invalid_cursor_is_refused(engine: AsyncEngine, cursor: str) -> None:
    with pytest.raises(InvalidInput, match="after: is no cursor"):
        await anext(EventFeed(engine).follow(cursor))


async def test_a_reader_of_one_organization_gets_its_events(engine: AsyncEngine) -> None:
    acme, beta = await make_preset(engine), await make_preset(engine, organization="beta")
    feed = EventFeed(engine)
    near = feed.follow(None, Reach(frozenset({"beta"})))
    async with aclosing(near):
        await anext(near)
        for preset in (acme, beta):
            await record_prebuilds(engine, preset, 1)
        await record(engine, "of_the_deployment")
        behind = EventFeed(engine).follow("0", Reach(frozenset({"beta"})))
        async with aclosing(behind):
            for parts in (near, behind):
                seen: list[EventRecord] = []
                async with asyncio.timeout(READ_WITHIN_S):
                    while not any(event.kind == "prebuilds_created" for event in seen):
                        seen += (await anext(parts)).events
                assert {event.organization for event in seen} == {"beta"}
                assert {event.preset_id for event in seen} == {beta.id}
