"""Operations on rollouts: list, show, pause, resume and undo them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from prebuilds.operations.context import Context
from prebuilds.planning.policy import EVERYWHERE, Reach
from prebuilds.store import rollout_changes, rollout_list
from prebuilds.store.paging import LIMIT_DEFAULT
from prebuilds.views import Page
from prebuilds.views.rollouts import RolloutRow
from prebuilds.vocabulary.actors import Actor


@dataclass(frozen=True, slots=True)
class RolloutOperations:
    """Operations on rollouts. A rollout is named by its template, `organization/template` or an id, whose newest
    rollout is meant."""

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
        return await rollout_list.list_rollouts(self.context.engine, template, reach=reach, limit=limit, after=after)

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
        """Resume a paused rollout.

        Raises:
            InvalidInput: No rollout of it is open.
        """
        changed = await rollout_changes.pause_rollout(self.context.engine, template, actor.name, resume=True)
        return await self._show_after(template, changed)

    async def undo(self, actor: Actor, template: str) -> RolloutRow:
        """Activate again the version from which the newest rollout began. The way back is a new rollout.

        Raises:
            InvalidInput: Its version is not active any more, or the one before was removed.
        """
        changed = await rollout_changes.undo_rollout(self.context.engine, template, actor.name)
        return await self._show_after(template, changed)

    async def _show_after(self, template: str, changed: Sequence[UUID]) -> RolloutRow:
        if changed:
            await self.context.nudge(list(changed))
        return await self.show(template)
