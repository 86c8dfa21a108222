"""Membership of the prebuilds user in every organization with pools: an owner of workspaces has to be a member."""

from __future__ import annotations

import logging
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.planning.snapshot import GlobalSnapshot
from prebuilds.store.events import record_event
from prebuilds.vocabulary import PREBUILDS_USER, PREBUILDS_USER_ID

logger = logging.getLogger(__name__)

JOIN = text(f"""
    INSERT INTO organization_members (organization_id, user_id) VALUES (:id, '{PREBUILDS_USER_ID}')
        ON CONFLICT DO NOTHING RETURNING organization_id
""")


async def join_organizations(engine: AsyncEngine, snapshot: GlobalSnapshot) -> set[UUID]:
    """Make the prebuilds user a member of each organization with an active preset.

    Returns:
        The organizations where that failed. Only their presets are left alone, until it succeeds.
    """
    missing = {
        item.preset.organization_id: item.preset.organization
        for item in snapshot.presets
        if item.preset.active and not item.preset.member and item.preset.organization_id is not None
    }
    barred: set[UUID] = set()
    for organization_id, name in sorted(missing.items(), key=lambda found: found[1]):
        try:
            async with engine.begin() as connection:
                if await connection.scalar(JOIN, {"id": organization_id}) is not None:
                    await record_event(connection, "member_added", PREBUILDS_USER, data={"organization": name})
        except SQLAlchemyError as error:
            logger.error(
                "The prebuilds user cannot join an organization; its presets wait",
                extra={"organization": name, "error": str(error)},
            )
            barred.add(organization_id)
    return barred
