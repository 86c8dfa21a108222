"""Recorded builds are started: a pool's creations one after the other with rests, all others at once, none twice."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from prebuilds.background import dispatch
from prebuilds.background.dispatch import CREATIONS_READ, STARTS_AT_ONCE, Dispatcher
from prebuilds.vocabulary import Transition, build_workflow_id
from tests.unit.skipped_time import skip_time

START_S = 0.03
CREATIONS, PERSON, DELETION = range(100), 100, 200


class Server:
    """Temporal and the database, as far as a start sees them: slow, and they note when each start came."""

    def __init__(self) -> None:
        self.started: dict[str, list[float]] = {}
        self.at_once, self.at_once_max = 0, 0
        self.refused: dict[str, RPCStatusCode] = {}
        self.ended: set[UUID] = set()

    async def start(self, *_: Any, id: str, **__: Any) -> None:
        self.started.setdefault(id, []).append(asyncio.get_running_loop().time())
        self.at_once += 1
        self.at_once_max = max(self.at_once, self.at_once_max)
        await asyncio.sleep(START_S)
        self.at_once -= 1
        if id in self.refused:
            raise RPCError("no", self.refused[id], b"")

    async def read(self, _: Any, ids: Sequence[UUID]) -> list[Any]:
        return [
            SimpleNamespace(
                id=one,
                pool=one.int != PERSON,
                transition=Transition.DELETE if one.int == DELETION else Transition.START,
                status=SimpleNamespace(ended=one in self.ended),
                build_timeout=SimpleNamespace(total_seconds=lambda: 60.0),
                **dict.fromkeys(("organization", "template", "preset", "initiator", "owner", "name", "queue"), "x"),
                preset_id=None,
                workspace_id=one,
                traceparent=None,
            )
            for one in ids
        ]

    def came(self, number: int) -> float:
        [when] = self.started[build_workflow_id(UUID(int=number))]
        return when


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr(dispatch, "start_short", server.start)
    monkeypatch.setattr(dispatch.builds, "read_builds", server.read)
    return server


@pytest.fixture
def dispatcher(server: Server) -> Dispatcher:
    return Dispatcher(cast("AsyncEngine", None), cast("Client", None))


@pytest.fixture(autouse=True)
async def _skipped_time(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_time(monkeypatch)


async def until_started(server: Server, number: int) -> None:
    async with asyncio.timeout(60):
        while len(server.started) < number or server.at_once:
            await asyncio.sleep(0.005)


def ids(*numbers: int) -> list[UUID]:
    return [UUID(int=number) for number in numbers]


async def test_creations_start_one_at_a_time_with_rests_as_long(server: Server, dispatcher: Dispatcher) -> None:
    dispatcher.start_builds(ids(1, 2, 3))
    await asyncio.sleep(START_S)
    dispatcher.start_builds(ids(4))
    await until_started(server, 4)
    assert server.at_once_max == 1
    gaps = [server.came(n + 1) - server.came(n) for n in (1, 2, 3)]
    assert gaps == pytest.approx([2 * START_S] * 3, abs=0.001)


@pytest.mark.parametrize("other", [PERSON, DELETION])
async def test_other_starts_do_not_wait_behind_creations(server: Server, dispatcher: Dispatcher, other: int) -> None:
    dispatcher.start_builds(ids(*range(50)))
    await asyncio.sleep(START_S)
    dispatcher.start_builds(ids(other))
    await until_started(server, 51)
    assert server.came(other) < server.came(2)


async def test_repeated_starts_skip_the_line_and_run_once(server: Server, dispatcher: Dispatcher) -> None:
    dispatcher.start_builds(ids(*range(40)))
    await asyncio.sleep(START_S)
    dispatcher.repeat_starts(ids(*range(50)))
    await until_started(server, 50)
    assert [len(times) for times in server.started.values()] == [1] * 50
    assert max(server.came(n) for n in range(40, 50)) < server.came(3)
    await dispatcher.drain()
    dispatcher.repeat_starts(ids(1))
    await dispatcher.drain()
    assert len(server.started[build_workflow_id(UUID(int=1))]) == 2


async def test_repeats_do_not_pile_up_while_starts_hang(
    server: Server, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = asyncio.Event()

    async def hang(*_: Any, id: str, **__: Any) -> None:
        server.started.setdefault(id, []).append(0.0)
        await answered.wait()

    monkeypatch.setattr(dispatch, "start_short", hang)
    for _ in range(20):
        dispatcher.repeat_starts(ids(*range(30)))
        await asyncio.sleep(2.0)
    dispatcher.repeat_starts(ids(30))
    answered.set()
    await dispatcher.drain()
    assert [len(times) for times in server.started.values()] == [1] * 31


async def test_a_build_that_ended_in_the_line_is_not_started(server: Server, dispatcher: Dispatcher) -> None:
    dispatcher.start_builds(ids(*range(50)))
    await asyncio.sleep(START_S)
    server.ended = set(ids(*range(CREATIONS_READ, 50)))
    await dispatcher.drain()
    assert len(server.started) == CREATIONS_READ


async def test_the_line_is_left_to_the_relay_during_a_temporal_outage(server: Server, dispatcher: Dispatcher) -> None:
    server.refused[build_workflow_id(UUID(int=1))] = RPCStatusCode.UNAVAILABLE
    dispatcher.start_builds(ids(1, 2, 3))
    await asyncio.sleep(10 * START_S)
    assert len(server.started) == 1
    dispatcher.repeat_starts(ids(1, 2, 3))
    await dispatcher.drain()
    assert len(server.started) == 3
    dispatcher.start_builds(ids(4, 5))
    await until_started(server, 5)


async def test_a_refused_start_stops_no_other(server: Server, dispatcher: Dispatcher) -> None:
    server.refused[build_workflow_id(UUID(int=1))] = RPCStatusCode.INVALID_ARGUMENT
    dispatcher.start_builds(ids(1, 2, 3))
    await until_started(server, 3)


async def test_an_ending_process_starts_its_whole_line_concurrently(server: Server, dispatcher: Dispatcher) -> None:
    dispatcher.start_builds(ids(*range(100)))
    await dispatcher.drain()
    assert len(server.started) == 100
    assert server.at_once_max == STARTS_AT_ONCE


class Away:
    """A Temporal that does not answer."""

    def __init__(self) -> None:
        self.canceled: list[str] = []

    def get_workflow_handle(self, id: str) -> Any:
        return SimpleNamespace(cancel=lambda **_: self.cancel(id))

    async def cancel(self, id: str) -> None:
        self.canceled.append(id)
        await asyncio.sleep(0)
        raise RPCError("away", RPCStatusCode.UNAVAILABLE, b"")


async def test_cancellations_do_not_ask_a_temporal_that_is_away_for_each_build() -> None:
    temporal = Away()
    dispatcher = Dispatcher(cast("AsyncEngine", None), cast("Client", temporal))
    dispatcher.cancel_builds(UUID(int=n) for n in range(500))
    await dispatcher.drain()
    assert len(temporal.canceled) == STARTS_AT_ONCE
