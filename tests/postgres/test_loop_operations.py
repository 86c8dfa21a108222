"""Pause and resume for every caller: one result type, and effective although Temporal is unreachable."""

from __future__ import annotations

from typing import Any, cast

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from prebuilds.api import InvalidInput, WrongDeployment
from prebuilds.operations.context import Context
from prebuilds.operations.loop import LoopOperations
from prebuilds.settings import Settings
from prebuilds.vocabulary.actors import Actor
from tests.postgres.pool_steps import NotedDispatcher
from tests.rows import one

OPS = Actor("ops")


class Refuses:
    """A Temporal that refuses every call, like one that belongs to another deployment."""

    def __init__(self, fault: Exception) -> None:
        self._fault = fault

    def get_workflow_handle(self, _: str) -> Any:
        return self

    async def describe(self, **_: Any) -> None:
        raise self._fault

    async def signal(self, *_: Any, **__: Any) -> None:
        raise self._fault


@pytest.mark.parametrize(
    "fault",
    [
        WrongDeployment("the namespace belongs to deployment X"),
        RPCError("away", RPCStatusCode.UNAVAILABLE, b""),
        ValueError("invalid target"),
    ],
    ids=["wrong", "away", "no-address"],
)
async def test_a_committed_change_is_answered_although_temporal_refuses(engine: AsyncEngine, fault: Exception) -> None:
    loop = LoopOperations(Context(engine, cast("Client", Refuses(fault)), NotedDispatcher(), Settings()))
    with pytest.raises(InvalidInput, match="reason"):
        await loop.pause(OPS, " ")
    paused = [await loop.pause(OPS, "upgrade") for _ in range(2)]
    assert [(p.changed, p.paused, p.paused_by, p.state) for p in paused] == [
        (True, True, "ops", "never_started"),
        (False, True, "ops", "never_started"),
    ]
    assert "Temporal" in str(paused[0].note)
    resumed = await loop.resume(OPS)
    assert (resumed.changed, resumed.paused, resumed.paused_reason) == (True, False, None)
    assert (await one(engine, "SELECT count(*) AS recorded FROM events WHERE actor = 'ops'")).recorded == 2
