"""Time that passes as soon as everybody waits for it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest


def skip_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's event loop waits for no time to pass, so that a busy machine is not taken for a late step."""
    running, past = cast("Any", asyncio.get_running_loop()), asyncio.get_running_loop().time()
    select = running._selector.select

    def skip(timeout_s: float | None) -> list[Any]:
        nonlocal past
        events: list[Any] = select(0 if timeout_s else timeout_s)
        if timeout_s and not events:
            past += timeout_s
        return events

    monkeypatch.setattr(running, "time", lambda: past)
    monkeypatch.setattr(running._selector, "select", skip)
