"""Each outcome of a rollout or a canary is notified once, and the log has one line for it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.background.notifying import Notifier
from prebuilds.store.rollout_changes import undo_rollout
from tests.postgres.canary_steps import version
from tests.postgres.pool_steps import make_ready
from tests.postgres.rollout_steps import roll


async def read_notifications(engine: AsyncEngine) -> list[tuple[str, str, dict[str, Any]]]:
    """Each notification: its kind, by which notifier, and its body."""
    async with engine.connect() as connection:
        found = await connection.execute(
            text("SELECT kind, notifier, body FROM notifications ORDER BY body ->> 'at', kind, notifier")
        )
        return [(row.kind, row.notifier, row.body) for row in found]


async def test_rollout_outcomes_are_notified(engine: AsyncEngine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await make_ready(engine, await version(engine, 1, 2, canary=None), 2)
    await version(engine, 2, 2, canary=None)
    await roll(engine, bad_version=2, error_type="InvalidSource")
    await version(engine, 3, 2, canary=None)
    await undo_rollout(engine, "acme/python", "ops")
    await roll(engine)
    both = ("log", "webhook")
    found = await read_notifications(engine)
    assert [(kind, notifier, body["to"]) for kind, notifier, body in found] == [
        *(("rollout_failed", notifier, 2) for notifier in both),
        *(("rollout_superseded", notifier, 2) for notifier in both),
        *(("rollout_undone", notifier, 3) for notifier in both),
        ("rollout_succeeded", "log", 1),
    ]
    failed, undone = found[0][2], found[4][2]
    assert (failed["organization"], failed["template"], failed["preset"]) == ("acme", "python", None)
    assert (failed["from"], failed["reason"]) == (1, "small: validation_failed")
    assert (undone["by"], undone["by_version"]) == ("ops", 1)
    assert await Notifier(engine, None).sweep() == 4
    lines = [record for record in caplog.records if "rollout" in record.message.lower()]
    assert {record.message for record in lines} == {
        "A rollout has failed, and the old version stays",
        "A rollout was ended before it was done",
        "A rollout was undone, and the version before is active again",
        "A rollout has succeeded",
    }
    assert {record.preset for record in lines} == {"acme/python/-"}  # type: ignore[attr-defined]


async def test_each_failed_canary_is_notified_once(engine: AsyncEngine) -> None:
    await make_ready(engine, await version(engine, 1, 2), 2)
    for _ in range(2):
        await version(engine, 2, 2)
        await roll(engine, bad_version=2, error_type="InvalidSource")
        await roll(engine)  # ends the way back
    kinds = [(kind, notifier) for kind, notifier, _ in await read_notifications(engine) if notifier == "webhook"]
    assert kinds == [("canary_failed", "webhook")] * 2
