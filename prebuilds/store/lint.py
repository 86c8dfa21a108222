"""Ready prebuilds for `LintPreset`, and the made-up claims that are planned for them. Nothing here writes."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import NoClaimablePrebuiltWorkspaces
from prebuilds.provisioners.base import Provision
from prebuilds.store.build_begin import READ_PARAMETERS, READ_PROVISIONER_STATE
from prebuilds.store.builds import READ_BUILD, provisioning_queue
from prebuilds.store.presets import find_preset
from prebuilds.store.template_files import read_files
from prebuilds.vocabulary import build_id_of

CANDIDATES_MAX = 3
"""Prebuilds that are read. One claim is planned; the others are for when the first is claimed or its host is away."""
OWNER = NAME = "prebuilds-lint"
MADE_UP = "1029384756"
"""The value for every claim parameter: a text that is also a number, for modules that expect one."""

# The newest prebuilds come first. Claims take the oldest ones, so they seldom wait for the plan.
LIST_READY = text(f"""
    SELECT w.id, w.latest_build, w.host, v.queue
      FROM workspaces w JOIN template_versions v ON v.id = w.template_version_id
     WHERE w.claimable_preset_id = :preset_id ORDER BY w.created_at DESC, w.id LIMIT {CANDIDATES_MAX}
""")
IS_READY = text("""
    SELECT EXISTS (SELECT FROM workspaces
                    WHERE id = :id AND claimable_preset_id IS NOT NULL AND latest_build = :number)
""")
CLAIM_PARAMETERS = text("SELECT claim_parameters FROM presets WHERE id = :preset_id")


@dataclass(frozen=True)
class Candidate:
    """A ready prebuild for which a claim can be planned."""

    workspace_id: UUID
    build_number: int
    queue: str
    """The task queue of people's builds that reaches it, since a person waits for the plan."""


@dataclass(frozen=True)
class Candidates:
    """Ready prebuilds of one preset."""

    preset_id: UUID
    path: str
    prebuilds: list[Candidate]


async def find_candidates(engine: AsyncEngine, preset: str) -> Candidates:
    """Find some ready prebuilds of a preset.

    Args:
        preset: An id, or a path in a live template.
    Raises:
        PresetNotFound: No live template has the preset.
        NoClaimablePrebuiltWorkspaces: The preset has no ready prebuild.
    """
    async with engine.connect() as connection:
        found = await find_preset(connection, preset)
        rows = (await connection.execute(LIST_READY, {"preset_id": found.id})).all()
    if not rows:
        raise NoClaimablePrebuiltWorkspaces(
            f"{found.path} has no ready prebuild whose claim could be planned",
            {"preset_id": str(found.id)},
            remedy="wait until `prebuilds status` shows one",
        )
    prebuilds = [
        Candidate(row.id, row.latest_build, provisioning_queue(row.queue, pool=False, host=row.host)) for row in rows
    ]
    return Candidates(found.id, found.path, prebuilds)


async def is_ready(engine: AsyncEngine, candidate: Candidate) -> bool:
    """Return whether the prebuild can still be claimed."""
    async with engine.connect() as connection:
        values = {"id": candidate.workspace_id, "number": candidate.build_number}
        return bool(await connection.scalar(IS_READY, values))


async def read_claim(engine: AsyncEngine, candidate: Candidate) -> tuple[str, Provision] | None:
    """Read the driver's name and the driver's input for a claim with made-up values; None when it was claimed.

    The input has the number of the build that made the prebuild. A real claim has a higher number, so a driver refuses
    the made-up claim after a real one.
    """
    if not await is_ready(engine, candidate):
        return None
    number = {"workspace_id": candidate.workspace_id, "number": candidate.build_number}
    async with engine.connect() as connection:
        build_id = build_id_of(candidate.workspace_id, candidate.build_number)
        row = (await connection.execute(READ_BUILD, {"build_id": build_id})).one()
        parameters = await connection.execute(READ_PARAMETERS, {"preset_id": row.preset_id})
        settable = await connection.scalar(CLAIM_PARAMETERS, {"preset_id": row.preset_id})
        return row.provisioner, Provision(
            deployment_id=row.deployment_id,
            epoch=row.epoch,
            workspace_id=candidate.workspace_id,
            build_number=candidate.build_number,
            name=NAME,
            owner=OWNER,
            organization=row.organization,
            template=row.template,
            preset=row.preset,
            source=row.source,
            files=await read_files(connection, row.files_digest),
            parameters={p.name: p.value for p in parameters},
            claim_parameters=dict.fromkeys(settable or (), MADE_UP),
            claimed=True,
            ready_timeout_s=row.ready_timeout.total_seconds(),
            state=await connection.scalar(READ_PROVISIONER_STATE, number),
            trial=True,
        )
