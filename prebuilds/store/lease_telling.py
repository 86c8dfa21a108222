"""Announces that leases end: by an event of the workspace and by a notification, once for each announced release."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from prebuilds.store.notifications import Subject, record_notifications
from prebuilds.vocabulary import PREBUILDS_USER

ENDING = "lease_ending"
"""The kind of the event and of the notification."""

SET_ANNOUNCED = text("UPDATE workspaces SET lease_told_at = now() WHERE id = ANY(CAST(:ids AS uuid[]))")
RECORD_EVENTS = text("""
    INSERT INTO events (kind, actor, workspace_id, data)
    SELECT :kind, :actor, n.id, jsonb_build_object('lease_until', n.lease_until, 'release_at', n.release_at)
      FROM unnest(CAST(:ids AS uuid[]), CAST(:untils AS timestamptz[]), CAST(:releases AS timestamptz[]))
           WITH ORDINALITY AS n (id, lease_until, release_at, position)
     ORDER BY n.position
""")


@dataclass(frozen=True, slots=True)
class EndingLease:
    """A lease whose end is to be announced."""

    workspace_id: UUID
    build_id: UUID
    """The workspace's latest build."""
    lease_until: datetime
    release_at: datetime
    """When the workspace is released unless the lease is renewed; never before `lease_until`."""


async def tell_leases(connection: AsyncConnection, ending: Sequence[EndingLease]) -> None:
    """Announce that leases end. The caller's transaction must have locked the workspaces' rows."""
    ids = [one.workspace_id for one in ending]
    untils, releases = [one.lease_until for one in ending], [one.release_at for one in ending]
    await connection.execute(SET_ANNOUNCED, {"ids": ids})
    values = {"kind": ENDING, "actor": PREBUILDS_USER, "ids": ids, "untils": untils, "releases": releases}
    await connection.execute(RECORD_EVENTS, values)
    subjects = [
        Subject(
            one.workspace_id,
            one.build_id,
            key=one.release_at.isoformat(),
            facts={"lease_until": one.lease_until, "release_at": one.release_at},
        )
        for one in ending
    ]
    await record_notifications(connection, ENDING, subjects)
