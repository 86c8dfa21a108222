"""A pool brought to a state by the store's own steps, with no provisioner."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.testing import ActivityEnvironment

from activities.claims import ClaimActivities
from prebuilds.dispatch import Dispatcher
from prebuilds.payloads import (
    BuildStatus,
    ClaimPlace,
    ClaimQueued,
    ClaimRequest,
    ClaimResult,
    ClaimsResult,
    build_id_of,
)
from prebuilds.planning.plan import prebuild_id
from prebuilds.planning.rules import Rules
from prebuilds.planning.snapshot import PresetSnapshot
from prebuilds.provisioners.base import Provisioned
from prebuilds.store.build_end import BuildEnd, end_build
from prebuilds.store.builds import begin_build
from prebuilds.store.claim_refusals import ClaimTarget
from prebuilds.store.claims import Claimed, ClaimStore, request_hash
from prebuilds.store.pool import create_prebuilds
from prebuilds.store.snapshots import next_pass_number, snapshot_preset, snapshot_transaction
from tests.builders import MadePreset
from tests.rows import do, one

RULES = Rules()
T = TypeVar("T")

_names = count(1)


async def record_prebuilds(engine: AsyncEngine, preset: MadePreset, number: int) -> list[UUID]:
    """So many creations, recorded and not begun, whatever the preset's count and holds are."""
    wanted = await one(engine, "SELECT desired_instances, limit_reset_at FROM presets WHERE id = :id", id=preset.id)
    await do(
        engine, "UPDATE presets SET desired_instances = 10000, limit_reset_at = now() WHERE id = :id", id=preset.id
    )
    pass_number = await next_pass_number(engine)
    ids = [prebuild_id(preset.id, pass_number, n) for n in range(number)]
    assert (await create_prebuilds(engine, preset.id, pass_number, ids, RULES)).workspace_ids == ids
    await do(
        engine,
        "UPDATE presets SET desired_instances = :desired_instances, limit_reset_at = :limit_reset_at WHERE id = :id",
        id=preset.id,
        **wanted._mapping,
    )
    return ids


async def fail(engine: AsyncEngine, preset: MadePreset, number: int, error_type: str = "ProvisionFailed") -> list[UUID]:
    """So many creations that failed."""
    ids = await record_prebuilds(engine, preset, number)
    for workspace_id in ids:
        await begin_build(engine, build_id_of(workspace_id, 1))
        await end_build(engine, build_id_of(workspace_id, 1), BuildStatus.FAILED, error="no", error_type=error_type)
    return ids


async def snapshot_of(engine: AsyncEngine, preset: MadePreset, rules: Rules = RULES) -> PresetSnapshot:
    async with snapshot_transaction(engine) as connection:
        return await snapshot_preset(connection, preset.id, rules)


async def make_ready(engine: AsyncEngine, preset: MadePreset, number: int) -> list[UUID]:
    """So many prebuilds, ready to be claimed, unless somebody waits for them."""
    ids = await begin_prebuilds(engine, preset, number)
    for workspace_id in ids:
        await finish(engine, workspace_id)
    return ids


async def begin_prebuilds(engine: AsyncEngine, preset: MadePreset, number: int) -> list[UUID]:
    """So many prebuilds, being made."""
    ids = await record_prebuilds(engine, preset, number)
    for workspace_id in ids:
        await begin_build(engine, build_id_of(workspace_id, 1))
    return ids


async def finish(engine: AsyncEngine, workspace_id: UUID) -> BuildEnd:
    """A prebuild that is being made becomes ready."""
    made = Provisioned(address=f"http://{workspace_id}")
    return await end_build(engine, build_id_of(workspace_id, 1), BuildStatus.SUCCEEDED, provisioned=made)


async def claim(store: ClaimStore, target: ClaimTarget | MadePreset, claim_id: str = "", **changes: object) -> Claimed:
    """One claim by alice under a name of its own."""
    if isinstance(target, MadePreset):
        target = ClaimTarget("acme/python/small", preset_id=target.id)
    asked = {"preset": "acme/python/small", "owner": "alice", "name": f"n{next(_names)}"} | changes
    request = ClaimRequest.model_validate(asked)
    return await store.claim(claim_id or f"c{next(_names)}", request, target, request_hash(request), held=False)


def workspace_ids(claims: Sequence[Claimed]) -> list[UUID]:
    return [c.result.workspace_id for c in claims if c.result is not None]


class NotedDispatcher(Dispatcher):
    """Starts nothing, and notes what it was asked for."""

    def __init__(self) -> None:
        self.started: list[UUID] = []
        self.nudged: list[UUID] = []

    def start_builds(self, build_ids: Iterable[UUID]) -> None:
        self.started += build_ids

    def nudge(self, preset_ids: Iterable[UUID]) -> None:
        self.nudged += preset_ids


class Desk:
    """Where people claim: the activities of a claim's workflow, each run as that workflow would run it."""

    def __init__(self, engine: AsyncEngine, store: ClaimStore, rules: Rules = RULES) -> None:
        self.dispatcher = NotedDispatcher()
        self._activities = ClaimActivities(engine, store, self.dispatcher, rules)

    async def ask(self, claim_id: str, **changes: Any) -> ClaimResult | ClaimQueued:
        """A claim by alice of acme/python/small under a name of its own, unless *changes* say otherwise."""
        asked = {"preset": "acme/python/small", "owner": "alice", "name": f"n{next(_names)}"} | changes
        return await self._run(claim_id, self._activities.claim, asked, claim_id)

    async def wait(self, claim_id: str, **changes: Any) -> ClaimQueued:
        """The same, of one that has to wait."""
        waiting = await self.ask(claim_id, on_empty="wait", **changes)
        assert isinstance(waiting, ClaimQueued)
        return waiting

    async def ask_all(self, claim_id: str, names: Sequence[str], **changes: Any) -> ClaimsResult:
        asked = {"preset": "acme/python/small", "owner": "alice", "names": list(names)} | changes
        return await self._run(claim_id, self._activities.claim_all, asked, claim_id)

    async def look(self, claim_id: str) -> ClaimPlace:
        return await self._run(claim_id, self._activities.look_in_queue, claim_id)

    async def leave(self, claim_id: str) -> ClaimPlace:
        return await self._run(claim_id, self._activities.leave_queue, claim_id)

    async def create_instead(self, claim_id: str, **changes: Any) -> ClaimResult:
        asked = {"preset": "acme/python/small", "owner": "alice", "on_empty": "wait", "on_timeout": "create"} | changes
        return await self._run(claim_id, self._activities.create_instead, asked, claim_id)

    async def _run(self, claim_id: str, step: Callable[..., Awaitable[T]], *args: Any) -> T:
        environment = ActivityEnvironment()
        environment.info = replace(environment.info, workflow_id=f"claim-workspace/{claim_id}")
        return await environment.run(step, *args)
