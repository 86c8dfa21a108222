"""Events: who did what to which, and why. Written in the transaction of what they tell about, never changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

RECORD_EVENT = text("""
    INSERT INTO events (kind, actor, preset_id, workspace_id, build_id, claim_id, data)
    VALUES (:kind, :actor, :preset_id, :workspace_id, :build_id, :claim_id, CAST(:data AS jsonb))
""")


async def record_event(
    connection: AsyncConnection,
    kind: str,
    actor: str,
    *,
    preset_id: UUID | None = None,
    workspace_id: UUID | None = None,
    build_id: UUID | None = None,
    claim_id: str | None = None,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Append one event. *kind* is a verb in the past (`prebuild_deleted`); *actor* is a user's name or a cause."""
    await connection.execute(
        RECORD_EVENT,
        {
            "kind": kind,
            "actor": actor,
            "preset_id": preset_id,
            "workspace_id": workspace_id,
            "build_id": build_id,
            "claim_id": claim_id,
            "data": json.dumps(data or {}, default=str),
        },
    )
