"""Templates: apply template files, list templates, deprecate and delete them."""

from __future__ import annotations

from dataclasses import dataclass

from prebuilds.operations.context import Context
from prebuilds.planning.policy import EVERYWHERE, Reach
from prebuilds.store import templates
from prebuilds.store.paging import LIMIT_DEFAULT, page_by_path
from prebuilds.store.templates import ChangedTemplate
from prebuilds.templates import ApplyResult, TemplateFile, apply
from prebuilds.views import Page, TemplateChange, TemplateRow
from prebuilds.vocabulary.actors import Actor


@dataclass(frozen=True, slots=True)
class TemplateOperations:
    """Operations on templates. A template is given as `organization/template` or by id."""

    context: Context

    async def apply(self, actor: Actor, file: TemplateFile, *, dry_run: bool = False) -> ApplyResult:
        """Change the stored organizations and templates to match *file*, then nudge the loop.

        Args:
            dry_run: Report what would change without changing it.
        """
        done = await apply(self.context.engine, file, actor=actor.name, dry_run=dry_run)
        if done.changed and not dry_run:
            await self.context.nudge()
        return done

    async def list(
        self, *, reach: Reach = EVERYWHERE, limit: int = LIMIT_DEFAULT, after: str | None = None
    ) -> Page[TemplateRow]:
        """List one page of the live templates, by path.

        Args:
            reach: Only templates within it.
            after: The `next` of the previous page; None for the first page.
        """
        rows = [
            row for row in await templates.list_templates(self.context.engine) if reach.has_all_of(row.organization)
        ]
        return page_by_path(rows, lambda row: f"{row.organization}/{row.template}", limit, after)

    async def deprecate(self, actor: Actor, template: str, *, undo: bool = False) -> TemplateChange:
        """Take a template out of use: nobody can claim from it and its pools are emptied; claimed workspaces go on.

        Args:
            undo: Put the template back into use instead.
        """
        done = await templates.deprecate_template(self.context.engine, template, actor.name, undo=undo)
        return await self._nudge_after(done)

    async def delete(self, actor: Actor, template: str) -> TemplateChange:
        """Delete a template and empty its pools; claimed workspaces stay with their owners."""
        return await self._nudge_after(await templates.delete_template(self.context.engine, template, actor.name))

    async def _nudge_after(self, done: ChangedTemplate) -> TemplateChange:
        """Nudge the loop for the presets whose pools must be emptied or filled."""
        if done.preset_ids:
            await self.context.nudge(done.preset_ids)
        return done.change
