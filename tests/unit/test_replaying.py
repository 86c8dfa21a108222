"""Long computations run in turns, and a bounded number of them waits."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

import pytest

from prebuilds.api import RateLimited
from prebuilds.operations.replaying import AT_ONCE_MAX, check_room, in_turn


async def test_a_full_waiting_line_refuses_and_a_departure_makes_room() -> None:
    begun, go_on, at_once, most = threading.Event(), threading.Event(), 0, 0

    def work(number: int) -> int:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        begun.set()
        go_on.wait(10)
        at_once -= 1
        return number

    tasks = [asyncio.create_task(in_turn(work, number)) for number in range(AT_ONCE_MAX)]
    try:
        assert await asyncio.to_thread(begun.wait, 10)
        with pytest.raises(RateLimited) as refused:
            await in_turn(work, 99)
        with pytest.raises(RateLimited):
            check_room()
        assert refused.value.details["retry_after_seconds"] > 0
        for gone in (tasks[0], tasks.pop()):  # one that is under way, and one that waits
            gone.cancel()
            with suppress(asyncio.CancelledError):
                await gone
        tasks.append(asyncio.create_task(in_turn(work, 42)))
        await asyncio.sleep(0)
        with pytest.raises(RateLimited):  # the one under way cannot be ended, and keeps its place
            await in_turn(work, 99)
    finally:
        go_on.set()
    assert await asyncio.gather(*tasks[1:]) == [*range(1, AT_ONCE_MAX - 1), 42]
    assert most == 1
    check_room()


def test_several_event_loops_share_the_turns() -> None:
    async def several() -> list[int]:
        return await asyncio.gather(*(in_turn(abs, -n) for n in range(3)))

    assert [asyncio.run(several()) for _ in range(2)] == [[0, 1, 2]] * 2
