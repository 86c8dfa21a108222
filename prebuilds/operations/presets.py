"""Presets: list them, replace their prebuilds, and lift holds on their creations."""

from __future__ import annotations

from dataclasses import dataclass

from prebuilds.api import InvalidInput
from prebuilds.operations.context import Context
from prebuilds.planning.policy import EVERYWHERE, Reach
from prebuilds.store import preset_list, presets
from prebuilds.store.paging import LIMIT_DEFAULT, page_by_path
from prebuilds.views import InvalidateResult, LiftResult, Page, PresetInfo
from prebuilds.vocabulary.actors import Actor


@dataclass(frozen=True, slots=True)
class PresetOperations:
    """Operations on presets."""

    context: Context

    async def list(
        self,
        template: str | None = None,
        *,
        reach: Reach = EVERYWHERE,
        limit: int = LIMIT_DEFAULT,
        after: str | None = None,
    ) -> Page[PresetInfo]:
        """List one page of the active versions' presets, by path.

        Args:
            template: Only presets of this template, by `organization/template` or id; None for all.
            reach: Only presets within it.
            after: The `next` of the previous page; None for the first page.
        Raises:
            TemplateNotFound: No such template has ever existed, or it is of an organization beyond *reach*.
        """
        found = await preset_list.list_presets(self.context.engine, await self.context.rules(), template, reach)
        rows = [row for row in found if reach.has_all_of(row.organization)]
        return page_by_path(rows, lambda row: f"{row.organization}/{row.template}/{row.preset}", limit, after)

    async def invalidate(
        self, actor: Actor, *, preset: str | None = None, template: str | None = None
    ) -> InvalidateResult:
        """Replace the prebuilds of one preset, or of all active presets of a template. From the commit on, nobody can
        claim one of the old prebuilds.

        Raises:
            InvalidInput: Both or neither of *preset* and *template* are given.
        """
        if (preset is None) == (template is None):
            raise InvalidInput.field("preset", "give exactly one of preset and template")
        done = await presets.invalidate(self.context.engine, actor.name, preset=preset, template=template)
        if done.preset_ids:
            await self.context.nudge(done.preset_ids)
        return InvalidateResult(presets=len(done.preset_ids), prebuilds=done.prebuilds)

    async def lift_holds(self, actor: Actor, preset: str) -> LiftResult:
        """Lift the hold that failed creations put on a preset, so that the next pass creates again."""
        done = await presets.lift_holds(self.context.engine, preset, await self.context.rules(), actor.name)
        if done.hold is not None:
            await self.context.nudge([done.preset.id])
        return LiftResult(preset_id=done.preset.id, preset=done.preset.path, lifted=done.hold)
