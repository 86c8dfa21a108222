"""Streams over HTTP: none misses an event or hears it twice, and each ends when it has to."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import InvalidInput
from prebuilds.http import streams
from prebuilds.operations import event_feed
from prebuilds.operations.access import CACHE_S, Gate
from prebuilds.operations.event_feed import EventFeed, EventPart
from prebuilds.operations.tokens import TokenOperations
from prebuilds.planning.policy import EVERYWHERE, Reach
from prebuilds.store.events import record_event
from prebuilds.store.logs import Line, append_lines
from prebuilds.store.restoring import restored
from prebuilds.views import EventRecord
from prebuilds.vocabulary import build_id_of
from prebuilds.vocabulary.actors import OPERATOR, Actor
from tests.builders import make_preset
from tests.postgres.http_steps import Server, serving
from tests.postgres.pool_steps import begin_prebuilds, finish, record_prebuilds
from tests.rows import do, one

READ_WITHIN_S = 20


@pytest.fixture
async def server(engine: AsyncEngine, database_url: str) -> AsyncIterator[Server]:
    async with serving(engine, database_url) as server:
        yield server


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
        assert [event.kind for event in part.events] == ["late", "early"], "a number that nobody commits holds up none"
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


async def test_many_writers_and_readers_that_come_back(engine: AsyncEngine) -> None:
    """Each reader breaks off after every part and goes on elsewhere."""
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


async def test_who_is_far_behind_reads_all_in_parts(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
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
async def test_what_is_no_cursor_is_refused(engine: AsyncEngine, cursor: str) -> None:
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
    assert EVERYWHERE.has_all_of("acme")


def frames_of(body: str) -> list[dict[str, str]]:
    """The fields of each event of a stream."""
    return [
        dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        for block in body.split("\n\n")
        if block and not block.startswith((":", "retry"))
    ]


async def test_a_log_is_text_json_and_a_stream_that_is_read_on(engine: AsyncEngine, server: Server) -> None:
    preset = await make_preset(engine)
    [workspace] = await begin_prebuilds(engine, preset, 1)
    build = build_id_of(workspace, 1)
    at = (await one(engine, "SELECT now() AS at")).at
    await append_lines(engine, build, 1, [Line(n, at, f"line {n}") for n in (1, 2)])
    path = f"/v1/logs/{build}"
    texted = await server.http.get(path)
    assert texted.headers["content-type"].startswith("text/plain")
    assert [line.split(" ", 1)[1] for line in texted.text.splitlines()] == ["line 1", "line 2"]
    asked = await server.http.get(f"/v1/logs/{workspace}", headers={"Accept": "application/json"})
    assert [line["line"] for line in asked.json()["lines"]] == ["line 1", "line 2"]

    following = asyncio.create_task(server.http.get(path, headers={"Accept": "text/event-stream"}))
    await append_lines(engine, build, 2, [Line(1, at, "line 3")])
    await finish(engine, workspace)
    begin, *frames = frames_of((await following).text)
    assert begin == {"id": "0.0"}, "a build that nobody has begun has no line for long, and its stream has begun"
    lines = [line["line"] for frame in frames if frame["event"] == "lines" for line in json.loads(frame["data"])]
    assert lines == ["line 1", "line 2", "line 3"]
    assert (frames[-1]["event"], json.loads(frames[-1]["data"])["status"]) == ("end", "succeeded")
    rest = await server.http.get(f"{path}?follow=true", headers={"Last-Event-ID": "1.2"})
    assert [frame["id"] for frame in frames_of(rest.text)] == ["1.2", "2.1", "end"]
    assert (await server.http.get(f"{path}?follow=true", headers={"Last-Event-ID": "end"})).status_code == 204
    assert (await server.http.get(f"{path}?follow=true", headers={"Last-Event-ID": "x"})).status_code == 422
    assert (await server.http.get("/v1/logs/alice%2Fnone")).status_code == 404


async def test_a_stream_ends_with_its_token_and_when_the_server_ends(
    engine: AsyncEngine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "CHECK_S", 0.05)
    monkeypatch.setattr(streams, "HEARTBEAT_S", 0.0)
    now = 0.0
    looks: Counter[str | None] = Counter()

    class CountingGate(Gate):
        async def authenticate(self, token: str | None) -> Actor:
            looks[token] += 1
            return await super().authenticate(token)

    gate = CountingGate(engine, lambda: now)
    tokens = TokenOperations(engine)
    good, doomed = [(await tokens.create(OPERATOR, name, ["read"])).token for name in ("good", "doomed")]
    async with serving(engine, database_url, gate) as server:

        def follow(token: str) -> asyncio.Task[Any]:
            return asyncio.create_task(server.http.get("/v1/events", headers={"Authorization": f"Bearer {token}"}))

        staying, ending = follow(good), follow(doomed)
        async with asyncio.timeout(READ_WITHIN_S):
            while server.service.held < 2:
                await asyncio.sleep(0.01)
            await tokens.revoke(OPERATOR, "doomed")
            now += CACHE_S
            ended = await ending
        assert ended.status_code == 200
        async with asyncio.timeout(READ_WITHIN_S):
            seen = looks[good]
            while looks[good] < seen + 3:
                await asyncio.sleep(0.01)
        assert not staying.done()
        assert server.service.held == 1
        server.service.draining.set()
        async with asyncio.timeout(READ_WITHIN_S):
            body = (await staying).text
        assert body.startswith("retry: ")
        assert ": still there" in body, "it is never silent for long"
        assert (server.service.held, dict(server.service.streams)) == (0, {})
    await gate.drain()


async def test_a_stream_with_nothing_to_say_ends_with_its_server(
    engine: AsyncEngine, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "FIRST_S", 0.0)
    [workspace] = await record_prebuilds(engine, await make_preset(engine), 1)
    waiting = asyncio.create_task(server.http.get(f"/v1/logs/{workspace}?follow=true"))
    async with engine.begin() as writer:  # no event is settled, so that the stream of events has no first one
        await record_event(writer, "uncommitted", "tester")
        silent = asyncio.create_task(server.http.get("/v1/events"))
        async with asyncio.timeout(READ_WITHIN_S):
            while server.service.held < 2:
                await asyncio.sleep(0.01)
            server.service.draining.set()
            for stream in (waiting, silent):
                assert (await stream).text.startswith("retry: ")
    assert server.service.held == 0


async def test_the_streams_of_a_token_and_of_a_server_are_bounded(
    engine: AsyncEngine, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "STREAMS_MAX", 1)
    following = asyncio.create_task(server.http.get("/v1/events"))
    async with asyncio.timeout(READ_WITHIN_S):
        while not server.service.held:
            await asyncio.sleep(0.01)
    more = await server.http.get("/v1/events")
    assert (more.status_code, more.headers["retry-after"]) == (503, "1")
    following.cancel()  # its reader has gone
    await asyncio.wait({following})
    assert server.service.held == 0
    await do(engine, "SELECT 1")
