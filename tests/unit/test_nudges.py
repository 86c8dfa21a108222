"""The loop is nudged at once the first time, then at most once a second for each preset."""

from __future__ import annotations

import asyncio
from typing import Any, cast
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from prebuilds.background.dispatch import NUDGE_SPACING_S, NUDGE_WINDOW_S, NUDGED_MAX, Dispatcher
from tests.unit.skipped_time import skip_time

A, B = UUID(int=1), UUID(int=2)


class Loop:
    """The loop's workflow, as far as a nudge sees it."""

    def __init__(self) -> None:
        self.nudged: list[tuple[float, list[str]]] = []

    def get_workflow_handle(self, workflow_id: str) -> Loop:
        assert workflow_id == "prebuilds-orchestrator"
        return self

    async def signal(self, name: str, presets: list[str], **_: Any) -> None:
        assert name == "nudge"
        self.nudged.append((asyncio.get_running_loop().time(), presets))

    async def until(self, number: int) -> None:
        async with asyncio.timeout(5 * NUDGE_SPACING_S):
            while len(self.nudged) < number:
                await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
async def _skipped_time(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_time(monkeypatch)


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def dispatcher(loop: Loop) -> Dispatcher:
    return Dispatcher(cast("AsyncEngine", None), cast("Client", loop))


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_a_burst_is_one_nudge_at_once_and_one_a_second_later(loop: Loop, dispatcher: Dispatcher) -> None:
    begun = now()
    for _ in range(50):
        dispatcher.nudge([A])
    await loop.until(1)
    for _ in range(50):
        dispatcher.nudge([A])
    await loop.until(2)
    (first, presets), (second, again) = loop.nudged
    assert presets == again == [str(A)]
    assert NUDGE_WINDOW_S - 0.01 <= first - begun < NUDGE_SPACING_S / 2
    assert second - first >= NUDGE_SPACING_S - 0.02


async def test_one_busy_preset_delays_no_other(loop: Loop, dispatcher: Dispatcher) -> None:
    dispatcher.nudge([A])
    await loop.until(1)
    dispatcher.nudge([A])
    dispatcher.nudge([B])
    await loop.until(3)
    assert [presets for _, presets in loop.nudged] == [[str(A)], [str(B)], [str(A)]]
    assert loop.nudged[1][0] - loop.nudged[0][0] < NUDGE_SPACING_S / 2


async def test_an_urgent_nudge_does_not_wait(loop: Loop, dispatcher: Dispatcher) -> None:
    dispatcher.nudge([A])
    await loop.until(1)
    dispatcher.nudge([A])
    dispatcher.nudge([A], urgent=True)
    await loop.until(2)
    assert loop.nudged[1][0] - loop.nudged[0][0] < NUDGE_SPACING_S / 2


async def test_waiting_nudges_are_sent_before_the_process_ends(loop: Loop, dispatcher: Dispatcher) -> None:
    dispatcher.nudge([A])
    await loop.until(1)
    dispatcher.nudge([A, B])
    begun = now()
    await dispatcher.drain()
    assert loop.nudged[1][1] == [str(A), str(B)]
    assert now() - begun < NUDGE_SPACING_S / 2
    await dispatcher.drain()
    assert len(loop.nudged) == 2, "and nothing more"


@pytest.mark.parametrize(("number", "named"), [(NUDGED_MAX, NUDGED_MAX), (NUDGED_MAX + 1, 0)])
async def test_very_many_presets_are_a_nudge_for_all(
    loop: Loop, dispatcher: Dispatcher, number: int, named: int
) -> None:
    dispatcher.nudge([UUID(int=n) for n in range(number)])
    await loop.until(1)
    assert len(loop.nudged[0][1]) == named
