"""The inventory of an engine: every container and volume that carries this deployment's labels."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import UUID

from prebuilds.provisioners.base import InventoryItem
from prebuilds.provisioners.container.engine import Engine
from prebuilds.provisioners.container.mark import OWNER_LABEL, mark_in
from prebuilds.provisioners.container.record import Seen
from prebuilds.provisioners.container.spec import BUILD_LABEL, DEPLOYMENT_LABEL, EPOCH_LABEL, WORKSPACE_LABEL
from prebuilds.provisioners.kit.marks import inventory_fields, read_inventory_fields


async def list_items(engine: Engine, deployment_id: UUID, seen: Seen) -> list[InventoryItem]:
    """Return one item for each workspace, sorted by id, and forget what *seen* keeps of workspaces long gone."""
    ours = {DEPLOYMENT_LABEL: str(deployment_id)}
    containers, volumes = await engine.tagged(ours), await engine.volumes(ours)
    # Volumes come first, so that a container replaces them. A crash between making the two leaves volumes alone.
    things = [(volume["Labels"], False, _time(volume.get("CreatedAt"))) for volume in volumes] + containers
    marks = [mark_in(volume["Name"], volume["Labels"]) for volume in volumes if OWNER_LABEL in volume["Labels"]]
    claimed = {mark.workspace_id: mark for mark in marks}
    items: dict[UUID, InventoryItem] = {}
    for labels, running, created_at in things:
        workspace_id = UUID(labels[WORKSPACE_LABEL])
        items[workspace_id] = InventoryItem(
            workspace_id=workspace_id,
            build_number=max(int(labels[BUILD_LABEL]), seen.number(workspace_id)),
            running=running,
            created_at=created_at,
            epoch=_epoch(labels.get(EPOCH_LABEL)),
            **inventory_fields(claimed.get(workspace_id)) or read_inventory_fields(seen.owner(workspace_id)),
        )
    await asyncio.to_thread(seen.forget_old, items)
    return [items[workspace_id] for workspace_id in sorted(items)]


def _epoch(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text is not None else None
    except ValueError:
        return None


def _time(text: str | None) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC) if text else datetime.fromtimestamp(0, UTC)
