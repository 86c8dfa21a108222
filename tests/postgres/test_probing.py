"""The effect of a probe's answer on an idle prebuild, and of a missing answer."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from prebuilds.api import ProvisionerUnavailable
from prebuilds.background import probing
from prebuilds.background.dispatch import Dispatcher
from prebuilds.background.probing import Prober
from prebuilds.provisioners.base import NotMadeHere
from prebuilds.store.workspaces import show_workspace
from prebuilds.vocabulary import PROVISIONER_QUEUE
from tests.builders import make_preset
from tests.postgres.pool_steps import Workflows, make_ready


class Probed:
    """A driver with only the probe."""

    def __init__(self, answer: bool | Exception | None) -> None:
        self.answer = answer
        """None: its engine hangs."""
        self.probes = 0

    async def probe(self, _: UUID) -> bool:
        self.probes += 1
        if self.answer is None:
            await asyncio.Event().wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return bool(self.answer)


@pytest.mark.parametrize(
    ("error", "warnings"), [(NotMadeHere("another host's"), 0), (ProvisionerUnavailable("no engine"), 1)]
)
async def test_a_failed_probe_is_logged_at_most_once(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture, error: Exception, warnings: int
) -> None:
    await make_ready(engine, await make_preset(engine), 1)
    dispatcher, driver = Dispatcher(engine, cast("Client", Workflows())), cast("Any", Probed(error))
    prober = Prober(engine, dispatcher, lambda _: driver, [PROVISIONER_QUEUE], "here", interval=timedelta(0))
    for _ in range(3):
        await prober.sweep()
    records = [record for record in caplog.records if record.message == "A prebuild could not be probed"]
    assert len([record for record in records if record.levelname == "WARNING"]) == warnings
    driver.answer = True
    await prober.sweep()
    driver.answer = error
    await prober.sweep()
    again = [r for r in caplog.records if r.levelname == "WARNING" and "probed" in r.message]
    assert len(again) == 2 * warnings, "it could be asked in between, so it is news again"


@pytest.mark.parametrize(
    ("answer", "ready"),
    [(True, True), (False, False), (None, True), (ProvisionerUnavailable("no engine"), True)],
    ids=["ready", "not ready", "hangs", "away"],
)
async def test_only_a_drivers_explicit_answer_makes_a_prebuild_unhealthy(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, answer: bool | Exception | None, ready: bool
) -> None:
    monkeypatch.setattr(probing, "PROBE_TIMEOUT_S", 0.05)
    [prebuild] = await make_ready(engine, await make_preset(engine), 1)
    dispatcher, driver = Dispatcher(engine, cast("Client", Workflows())), cast("Any", Probed(answer))
    prober = Prober(engine, dispatcher, lambda _: driver, [PROVISIONER_QUEUE], "here", interval=timedelta(0))
    for _ in range(2):
        await prober.sweep()
    await dispatcher.drain()
    assert driver.probes == 2
    assert (await show_workspace(engine, str(prebuild))).ready is ready
