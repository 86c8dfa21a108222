"""How recorded builds are started: people's at once, the pools' one after the other with rests, none twice."""

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

from prebuilds import dispatch
from prebuilds.dispatch import Dispatcher
from prebuilds.vocabulary import Transition, build_workflow_id
from tests.unit.skipped_time import skip_time

START_S = 0.03
PEOPLE, POOL = range(100, 200), range(100)


class Server:
    """Temporal, as far as a start sees it: slow, and it notes when each start came."""

    def __init__(self) -> None:
        self.started: dict[str, list[float]] = {}
        self.at_once, self.at_once_max = 0, 0
        self.away = False
        self.deletions: set[int] = set()

    async def start(self, *_: Any, id: str, **__: Any) -> None:
        self.started.setdefault(id, []).append(asyncio.get_running_loop().time())
        self.at_once += 1
        self.at_once_max = max(self.at_once, self.at_once_max)
        await asyncio.sleep(START_S)
        self.at_once -= 1
        if self.away:
            raise RPCError("away", RPCStatusCode.UNAVAILABLE, b"")

    async def read(self, _: Any, ids: Sequence[UUID]) -> list[Any]:
        return [
            SimpleNamespace(
                id=one,
                pool=one.int in POOL,
                transition=Transition.DELETE if one.int in self.deletions else Transition.START,
                status=SimpleNamespace(ended=False),
                build_timeout=SimpleNamespace(total_seconds=lambda: 60.0),
                **dict.fromkeys(("organization", "template", "preset", "initiator", "owner", "queue"), "x"),
                preset_id=None,
                workspace_id=one,
            )
            for one in sorted(ids)
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


async def test_a_pools_builds_start_one_at_a_time_with_rests_as_long(server: Server, dispatcher: Dispatcher) -> None:
    dispatcher.start_builds(ids(1, 2, 3))
    await asyncio.sleep(START_S)
    dispatcher.start_builds(ids(4))
    await until_started(server, 4)
    assert server.at_once_max == 1
    gaps = [server.came(n + 1) - server.came(n) for n in (1, 2, 3)]
    assert gaps == pytest.approx([2 * START_S] * 3, abs=0.001)


async def test_people_do_not_wait_for_the_pools(server: Server, dispatcher: Dispatcher) -> None:
    dispatcher.start_builds(ids(*range(50), *PEOPLE[:3]))
    await asyncio.sleep(START_S)
    dispatcher.start_builds(ids(PEOPLE[3]))
    await until_started(server, 54)
    assert max(server.came(n) for n in PEOPLE[:4]) < server.came(2)


async def test_deletions_go_first(server: Server, dispatcher: Dispatcher) -> None:
    server.deletions = {2}
    dispatcher.start_builds(ids(1, 2))
    await until_started(server, 2)
    assert server.came(2) < server.came(1)


async def test_what_waits_for_its_turn_is_not_started_twice(server: Server, dispatcher: Dispatcher) -> None:
    for _ in range(5):
        dispatcher.start_builds(ids(*range(20)))
        await asyncio.sleep(2 * START_S)
    await dispatcher.drain()
    assert [len(times) for times in server.started.values()] == [1] * 20
    dispatcher.start_builds(ids(1))
    await dispatcher.drain()
    assert len(server.started[build_workflow_id(UUID(int=1))]) == 2, "the relay repeats what has been lost"


async def test_while_temporal_is_away_nothing_piles_up(server: Server, dispatcher: Dispatcher) -> None:
    server.away = True
    dispatcher.start_builds(ids(*range(20), PEOPLE[0]))
    await dispatcher.drain()
    assert len(server.started) == 2, "the first of the pool's, and the person's"
    server.away = False
    dispatcher.start_builds(ids(*range(20)))
    await dispatcher.drain()
    assert len(server.started) == 21


async def test_who_ends_does_not_rest(server: Server, dispatcher: Dispatcher) -> None:
    dispatcher.start_builds(ids(1, 2))
    await dispatcher.drain()
    assert server.came(2) - server.came(1) == pytest.approx(START_S, abs=0.001)
