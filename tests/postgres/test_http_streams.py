"""Streams over HTTP: a log continues where it broke off, and each stream ends in time."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.http import streams, waiting
from prebuilds.operations.access import CACHE_S, Gate
from prebuilds.operations.tokens import TokenOperations
from prebuilds.store.events import record_event
from prebuilds.store.logs import Line, append_lines
from prebuilds.vocabulary import build_id_of
from prebuilds.vocabulary.actors import OPERATOR, Actor
from tests.builders import make_preset
from tests.postgres.http_steps import Server, serving
from tests.postgres.pool_steps import begin_prebuilds, finish, record_prebuilds
from tests.rows import one

READ_WITHIN_S = 20


@pytest.fixture
async def server(engine: AsyncEngine, database_url: str) -> AsyncIterator[Server]:
    async with serving(engine, database_url) as server:
        yield server


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
    as_json = await server.http.get(f"/v1/logs/{workspace}", headers={"Accept": "application/json"})
    assert [line["line"] for line in as_json.json()["lines"]] == ["line 1", "line 2"]

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
            while server.service.held_of.total() < 2:
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
        assert server.service.held_of.total() == 1
        server.service.draining.set()
        async with asyncio.timeout(READ_WITHIN_S):
            body = (await staying).text
        assert body.startswith("retry: ")
        assert ": still there" in body, "it is never silent for long"
        assert dict(server.service.held_of) == {}
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
            while server.service.held_of.total() < 2:
                await asyncio.sleep(0.01)
            server.service.draining.set()
            for stream in (waiting, silent):
                assert (await stream).text.startswith("retry: ")
    assert not server.service.held_of


async def test_the_streams_of_a_token_and_of_a_server_are_bounded(
    engine: AsyncEngine, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "OF_TOKEN_MAX", 1)
    following = asyncio.create_task(server.http.get("/v1/events"))
    async with asyncio.timeout(READ_WITHIN_S):
        while not server.service.held_of:
            await asyncio.sleep(0.01)
    more = await server.http.get("/v1/events")
    assert (more.status_code, more.headers["retry-after"]) == (503, "1")
    following.cancel()  # its reader has gone
    await asyncio.wait({following})
    assert not server.service.held_of
