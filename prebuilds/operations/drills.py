"""Operations on drills: start, list and show them."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from uuid import UUID

from temporalio.service import RPCError

from prebuilds.api import InvalidInput
from prebuilds.background.drilling import start_drill
from prebuilds.operations.context import Context
from prebuilds.planning.policy import EVERYWHERE, Reach
from prebuilds.store import drill_list, drills
from prebuilds.store.paging import LIMIT_DEFAULT
from prebuilds.store.presets import find_preset
from prebuilds.store.templates import find_live_template
from prebuilds.views import DrillPage, DrillRow, Page
from prebuilds.vocabulary.actors import Actor

logger = logging.getLogger(__name__)

DRILLS_PAGE_MAX = 50
"""Drills in one answer of an `OperatorRequest`. Each has at most 20 KB of evidence, and an answer at most 2 MB."""
START_S = 5.0
"""Time limit of a start, in seconds. If it takes longer, for instance while Temporal is away, a control worker starts
the drill."""


@dataclass(frozen=True, slots=True)
class DrillOperations:
    """Operations on drills."""

    context: Context

    async def run(self, actor: Actor, target: str) -> DrillRow:
        """Start a drill now. The template needs no schedule of drills.

        While a drill of the same target that somebody has requested runs, no second one starts, so a repeated request
        is safe.

        Args:
            target: `organization/template`, whose presets take turns, or `organization/template/preset`.
        Returns:
            The drill as it starts, or the one that runs already; `show` returns its later state.
        Raises:
            InvalidInput: *target* is no such path.
            TemplateNotFound, PresetNotFound: There is no such template or preset.
        """
        parts = target.split("/")
        if len(parts) not in (2, 3):
            raise InvalidInput.field(
                "target", "must be organization/template or organization/template/preset", "such as acme/python"
            )
        async with self.context.engine.begin() as connection:
            if len(parts) == 3:
                await find_preset(connection, target)
            template = await find_live_template(connection, "/".join(parts[:2]))
            preset = parts[2] if len(parts) == 3 else None
            drill_id = await drills.request_drill(connection, template.id, actor.name, preset)
        try:
            async with asyncio.timeout(START_S):
                await start_drill(self.context.client, drill_id)
        except (RPCError, RuntimeError, OSError) as error:  # the drill is recorded, so a control worker starts it
            logger.warning("A drill's start failed; it is tried again", extra={"error": repr(error)})
        return await self.show(drill_id)

    async def list(
        self,
        template: str | None = None,
        *,
        reach: Reach = EVERYWHERE,
        limit: int = LIMIT_DEFAULT,
        after: str | None = None,
    ) -> Page[DrillRow]:
        """List a page of the drills, newest first.

        Args:
            template: Only those of this template, by id or path; None for all.
            reach: Only those within it.
            after: The `next` of the previous page; None for the first page.
        """
        return await drill_list.list_drills(self.context.engine, template, reach=reach, limit=limit, after=after)

    async def page(self, template: str | None, *, after: str | None, limit: int | None) -> DrillPage:
        """List a page of the drills that fits into one Temporal payload, newest first.

        Args:
            template, after: As of `list`.
            limit: Maximum number of rows; None or a larger number means `DRILLS_PAGE_MAX`.
        """
        page = await self.list(template, limit=min(limit or DRILLS_PAGE_MAX, DRILLS_PAGE_MAX), after=after)
        return DrillPage(drills=page.rows, next=page.next)

    async def show(self, drill: UUID) -> DrillRow:
        """Read one drill.

        Raises:
            DrillNotFound: There is no such drill.
        """
        return await drill_list.read_drill(self.context.engine, drill)
