"""Presets, their lint, and templates, over HTTP."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from prebuilds.api import InvalidInput
from prebuilds.operations.remote.base import Remote
from prebuilds.remote import routes
from prebuilds.views import (
    DrillPage,
    DrillRow,
    InvalidateResult,
    LiftResult,
    LimitPage,
    LimitRow,
    LintReport,
    Page,
    PresetInfo,
    PresetPage,
    SizeReport,
    TemplateChange,
    TemplatePage,
    TemplateRow,
)
from prebuilds.views.paging import LIMIT_DEFAULT
from prebuilds.views.rollouts import RolloutPage, RolloutRow
from prebuilds.vocabulary.actors import Actor

if TYPE_CHECKING:
    from prebuilds.planning.sizing.question import SizeQuestion
    from prebuilds.templates import ApplyResult, TemplateFile


class RemotePresets(Remote):
    """As `PresetOperations`."""

    async def list(
        self, template: str | None = None, *, limit: int = LIMIT_DEFAULT, after: str | None = None
    ) -> Page[PresetInfo]:
        page = await self.page(routes.LIST_PRESETS, PresetPage, template=template, limit=limit, after=after)
        return Page(page.presets, page.next)

    async def invalidate(
        self, actor: Actor, *, preset: str | None = None, template: str | None = None
    ) -> InvalidateResult:
        if preset is not None and template is None:
            return await self.transport.ask(routes.INVALIDATE_PRESET, InvalidateResult, preset=preset)
        if preset is None and template is not None:
            return await self.transport.ask(routes.INVALIDATE_TEMPLATE, InvalidateResult, template=template)
        raise InvalidInput.field("preset", "give exactly one of preset and template")

    async def lift_holds(self, actor: Actor, preset: str) -> LiftResult:
        return await self.transport.ask(routes.RESUME_PRESET, LiftResult, preset=preset)


class RemoteLimits(Remote):
    """As `LimitOperations`."""

    async def list(self, *, limit: int = LIMIT_DEFAULT, after: str | None = None) -> Page[LimitRow]:
        page = await self.page(routes.LIST_LIMITS, LimitPage, limit=limit, after=after)
        return Page(page.limits, page.next)


class RemoteLint(Remote):
    """As `LintOperations`."""

    async def preset(self, preset: str) -> LintReport:
        return await self.transport.ask(routes.LINT_PRESET, LintReport, preset=preset)


class RemoteSizes(Remote):
    """As `SizeOperations`."""

    async def size(self, preset: str, question: SizeQuestion) -> SizeReport:
        from prebuilds.planning.sizing.question import check_question

        check_question(question)
        if question.times is not None:
            raise InvalidInput.field(
                "csv", "can only be replayed beside the database", "run the command without PREBUILDS_URL"
            )
        return await self.transport.ask(
            routes.SIZE_PRESET,
            SizeReport,
            preset=preset,
            hit_rate=question.hit_rate,
            wait_p95_seconds=None if question.wait_p95 is None else question.wait_p95.total_seconds(),
            last_seconds=question.last.total_seconds(),
            lead_seconds=None if question.lead is None else question.lead.total_seconds(),
            max_paused=question.max_paused or None,
            paused_cost=question.paused_cost,
            promotion_seconds=None if question.promotion is None else question.promotion.total_seconds(),
        )


class RemoteDrills(Remote):
    """As `DrillOperations`."""

    async def run(self, actor: Actor, target: str) -> DrillRow:
        return await self.transport.ask(routes.RUN_DRILL, DrillRow, target=target)

    async def list(
        self, template: str | None = None, *, limit: int = LIMIT_DEFAULT, after: str | None = None
    ) -> Page[DrillRow]:
        page = await self.page(routes.LIST_DRILLS, DrillPage, template=template, limit=limit, after=after)
        return Page(page.drills, page.next)

    async def show(self, drill: UUID) -> DrillRow:
        return await self.transport.ask(routes.SHOW_DRILL, DrillRow, drill=drill)


class RemoteRollouts(Remote):
    """As `RolloutOperations`."""

    async def list(
        self, template: str | None = None, *, limit: int = LIMIT_DEFAULT, after: str | None = None
    ) -> Page[RolloutRow]:
        page = await self.page(routes.LIST_ROLLOUTS, RolloutPage, template=template, limit=limit, after=after)
        return Page(page.rollouts, page.next)

    async def show(self, template: str) -> RolloutRow:
        return await self.transport.ask(routes.SHOW_ROLLOUT, RolloutRow, template=template)

    async def pause(self, actor: Actor, template: str) -> RolloutRow:
        return await self.transport.ask(routes.PAUSE_ROLLOUT, RolloutRow, template=template)

    async def resume(self, actor: Actor, template: str) -> RolloutRow:
        return await self.transport.ask(routes.RESUME_ROLLOUT, RolloutRow, template=template)

    async def undo(self, actor: Actor, template: str) -> RolloutRow:
        return await self.transport.ask(routes.UNDO_ROLLOUT, RolloutRow, template=template)


class RemoteTemplates(Remote):
    """As `TemplateOperations`."""

    async def apply(self, actor: Actor, file: TemplateFile, *, dry_run: bool = False) -> ApplyResult:
        from prebuilds.templates import ApplyResult

        sent = self.transport.send(
            routes.APPLY_TEMPLATES,
            {"dry_run": dry_run},
            content=file_as_json(file),
        )
        return self.transport.read(await sent, ApplyResult)

    async def list(self, *, limit: int = LIMIT_DEFAULT, after: str | None = None) -> Page[TemplateRow]:
        page = await self.page(routes.LIST_TEMPLATES, TemplatePage, limit=limit, after=after)
        return Page(page.templates, page.next)

    async def deprecate(self, actor: Actor, template: str, *, undo: bool = False) -> TemplateChange:
        return await self.transport.ask(routes.DEPRECATE_TEMPLATE, TemplateChange, template=template, undo=undo)

    async def delete(self, actor: Actor, template: str) -> TemplateChange:
        return await self.transport.ask(routes.DELETE_TEMPLATE, TemplateChange, template=template)


def file_as_json(file: TemplateFile) -> str:
    """Write a template file that means the same. What it leaves out stays left out."""
    return json.dumps(file.model_dump(exclude_unset=True, by_alias=True), default=_write_duration)


def _write_duration(value: timedelta) -> str:
    return f"{value.total_seconds():.6f}s"
