"""Templates: apply template files, list templates, take them out of use."""

from __future__ import annotations

from dataclasses import dataclass

from prebuilds import templates
from prebuilds.operations.context import Context
from prebuilds.store import retiring
from prebuilds.store.paging import LIMIT_DEFAULT, page_by_path
from prebuilds.store.retiring import ChangedTemplate
from prebuilds.templates import ApplyResult, TemplateFile
from prebuilds.views import Page, TemplateChange, TemplateRow
from prebuilds.vocabulary.actors import Actor


@dataclass(frozen=True, slots=True)
class TemplateOperations:
    context: Context

    async def apply(self, actor: Actor, file: TemplateFile, *, dry_run: bool = False) -> ApplyResult:
        """Make what is stored as *file* says, then have the loop act on it now.

        Args:
            dry_run: Find out what would change, and change nothing.
        """
        done = await templates.apply(self.context.engine, file, actor=actor.name, dry_run=dry_run)
        if done.changed and not dry_run:
            await self.context.nudge()
        return done

    async def list(self, *, limit: int = LIMIT_DEFAULT, after: str | None = None) -> Page[TemplateRow]:
        """A part of the live templates, by path; *after* is the `next` of the part before."""
        rows = await retiring.list_templates(self.context.engine)
        return page_by_path(rows, lambda row: f"{row.organization}/{row.template}", limit, after)

    async def deprecate(self, actor: Actor, template: str, *, undo: bool = False) -> TemplateChange:
        """Let nobody claim from a template any more, and empty its pools; claimed workspaces go on.

        Args:
            undo: Put it back into use instead.
        """
        return await self._changed(
            await retiring.deprecate_template(self.context.engine, template, actor.name, undo=undo)
        )

    async def delete(self, actor: Actor, template: str) -> TemplateChange:
        """Delete a template and empty its pools; claimed workspaces stay with their owners."""
        return await self._changed(await retiring.delete_template(self.context.engine, template, actor.name))

    async def _changed(self, done: ChangedTemplate) -> TemplateChange:
        if done.preset_ids:
            await self.context.nudge(done.preset_ids)
        return done.change
