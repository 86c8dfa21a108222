"""A change that is committed does not fail because the nudge after it does."""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from prebuilds.api import WrongDeployment
from prebuilds.background.dispatch import Dispatcher
from prebuilds.operations.context import Context
from prebuilds.settings import Settings

FAULTS = [
    RPCError("away", RPCStatusCode.UNAVAILABLE, b""),
    RPCError("no loop", RPCStatusCode.NOT_FOUND, b""),
    RPCError("not allowed", RPCStatusCode.PERMISSION_DENIED, b""),
    RuntimeError("Failed client connect: refused"),
    ValueError("invalid target"),
    WrongDeployment("the namespace is another one's by now"),
    OSError("the certificate's file is gone"),
]


class Broken:
    """A Temporal that takes no signal."""

    def __init__(self, fault: Exception) -> None:
        self._fault = fault

    def get_workflow_handle(self, _: str) -> Any:
        return self

    async def signal(self, *_: Any) -> None:
        raise self._fault


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{type(fault).__name__} {fault}")
async def test_a_nudge_that_is_lost_fails_nothing(fault: Exception) -> None:
    client = cast("Client", Broken(fault))
    context = Context(cast("AsyncEngine", None), client, cast("Dispatcher", None), Settings())
    await context.nudge([UUID(int=1)])
