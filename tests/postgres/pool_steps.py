"""A pool brought to a state by the store's own steps, with no provisioner."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.payloads import BuildStatus, ClaimRequest, build_id_of
from prebuilds.planning.plan import prebuild_id
from prebuilds.planning.rules import Rules
from prebuilds.planning.snapshot import PresetSnapshot
from prebuilds.provisioners.base import Provisioned
from prebuilds.store.build_end import end_build
from prebuilds.store.builds import begin_build
from prebuilds.store.claims import Claimed, ClaimStore, ClaimTarget, request_hash
from prebuilds.store.pool import create_prebuilds
from prebuilds.store.snapshots import next_pass_number, snapshot_preset, snapshot_transaction
from tests.builders import MadePreset
from tests.rows import do, one

RULES = Rules()

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
    """So many prebuilds, ready to be claimed."""
    ids = await record_prebuilds(engine, preset, number)
    for workspace_id in ids:
        await begin_build(engine, build_id_of(workspace_id, 1))
        made = Provisioned(address=f"http://{workspace_id}")
        await end_build(engine, build_id_of(workspace_id, 1), BuildStatus.SUCCEEDED, provisioned=made)
    return ids


async def claim(store: ClaimStore, target: ClaimTarget | MadePreset, claim_id: str = "", **changes: object) -> Claimed:
    """One claim by alice under a name of its own."""
    if isinstance(target, MadePreset):
        target = ClaimTarget("acme/python/small", preset_id=target.id)
    asked = {"preset": "acme/python/small", "owner": "alice", "name": f"n{next(_names)}"} | changes
    request = ClaimRequest.model_validate(asked)
    return await store.claim(claim_id or f"c{next(_names)}", request, target, request_hash(request))


def workspace_ids(claims: Sequence[Claimed]) -> list[UUID]:
    return [c.result.workspace_id for c in claims if c.result is not None]
