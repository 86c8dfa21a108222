"""A scripted driver, attempts of a build with it, and the build's log afterwards."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from activities.builds import BuildOutcome
from activities.provisioning import ProvisioningActivities
from prebuilds.background.dispatch import Dispatcher
from prebuilds.payloads import Replacement
from prebuilds.provisioners.base import Locality, Progress, Provision, Provisioned
from prebuilds.store.logs import read_log
from prebuilds.vocabulary import build_id_of
from tests.builders import make_preset
from tests.postgres.pool_steps import Workflows, record_prebuilds

Act = Callable[[Provision, Progress], Awaitable[None]]


class Telling:
    """A driver whose behaviour the test scripts."""

    locality = Locality.SHARED

    def __init__(self, act: Act, replacements: list[Replacement] | None = None) -> None:
        self.act = act
        self.replacements = replacements or []

    async def plan(self, wanted: Provision) -> list[Replacement]:
        return self.replacements

    async def apply(self, wanted: Provision, progress: Progress) -> Provisioned:
        await self.act(wanted, progress)
        return Provisioned(address="http://there")

    claim = apply


async def run(engine: AsyncEngine, driver: Telling, build_id: UUID) -> BuildOutcome:
    """Run one attempt of a build, as a provisioner worker does."""
    dispatcher = Dispatcher(engine, cast("Client", Workflows()))
    activities = ProvisioningActivities(engine, dispatcher, lambda _: cast("Any", driver), "host")
    outcome: BuildOutcome = await ActivityEnvironment().run(activities.run_build, build_id)
    await dispatcher.drain()
    return outcome


def telling(*lines: str, error: Exception | None = None) -> Telling:
    async def act(_: Provision, progress: Progress) -> None:
        for line in lines:
            progress(line)
        if error is not None:
            raise error

    return Telling(act)


async def recorded(engine: AsyncEngine) -> UUID:
    preset = await make_preset(engine)
    [workspace_id] = await record_prebuilds(engine, preset, 1)
    return build_id_of(workspace_id, 1)


async def log_of(engine: AsyncEngine, build_id: UUID) -> list[str]:
    return [line.line for line in (await read_log(engine, build_id))[0]]
