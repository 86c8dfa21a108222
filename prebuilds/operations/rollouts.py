"""Rollouts: listed, shown, paused, resumed and undone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from prebuilds.operations.context import Context
from prebuilds.planning.policy import EVERYWHERE, Reach
from prebuilds.store import rollout_changes, rollout_list
from prebuilds.store.paging import LIMIT_DEFAULT, check_limit, make_page
from prebuilds.views import Page
from prebuilds.views.rollouts import RolloutRow
from prebuilds.vocabulary.actors import Actor


@dataclass(frozen=True, slots=True)
class RolloutOperations:
    """Operations on rollouts. A rollout is given by its template, `organization/template` or an id: the newest one."""

    context: Context

    async def list(
        self,
        template: str | None = None,
        *,
        reach: Reach = EVERYWHERE,
        limit: int = LIMIT_DEFAULT,
        after: str | None = None,
    ) -> Page[RolloutRow]:
        """List a page of the rollouts, newest first.

        Args:
            template: Only those of this template, by id or path; None for all.
            reach: Only those within it.
            after: The `next` of the previous page; None for the first page.
        """
        one_more = check_limit(limit) + 1
        rows = await rollout_list.list_rollouts(self.context.engine, template, reach=reach, limit=one_more, after=after)
        return make_page(rows, limit, rollout_list.rollout_cursor)

    async def show(self, template: str) -> RolloutRow:
        """Read the newest rollout of a template, with its pools as they are now.

        Raises:
            TemplateNotFound: There is no such template.
            InvalidInput: It had no rollout yet.
        """
        return await rollout_list.read_rollout(self.context.engine, template, await self.context.rules())

    async def pause(self, actor: Actor, template: str) -> RolloutRow:
        """Pause the open rollout: the new version gets no more members, and none is removed for the rollout's sake.

        Raises:
            InvalidInput: No rollout of it is open.
        """
        changed = await rollout_changes.pause_rollout(self.context.engine, template, actor.name)
        return await self._show_after(template, changed)

    async def resume(self, actor: Actor, template: str) -> RolloutRow:
        """Let a paused rollout go on.

        Raises:
            InvalidInput: No rollout of it is open.
        """
        changed = await rollout_changes.pause_rollout(self.context.engine, template, actor.name, resume=True)
        return await self._show_after(template, changed)

    async def undo(self, actor: Actor, template: str) -> RolloutRow:
        """Activate the version again from which the newest rollout began. The way back is a rollout of its own.

        Raises:
            InvalidInput: Its version is not active any more, or the one before was removed.
        """
        changed = await rollout_changes.undo_rollout(self.context.engine, template, actor.name)
        return await self._show_after(template, changed)

    async def _show_after(self, template: str, changed: Sequence[UUID]) -> RolloutRow:
        if changed:
            await self.context.nudge(list(changed))
        return await self.show(template)
