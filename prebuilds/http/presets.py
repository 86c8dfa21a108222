"""Presets over HTTP: list them with what a claim can expect, explain and lint them, and steer their pools."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import AwareDatetime, Field

from prebuilds.http import examples
from prebuilds.http.documents import DECODED, PageQuery, RequestFields, TemplateQuery, answers, in_path
from prebuilds.http.guard import Guarded
from prebuilds.http.page.size_chart import draw_sizes, stand_alone
from prebuilds.planning.policy import Action
from prebuilds.planning.sizing.question import LAST_MAX, PAUSED_MAX, SizeQuestion
from prebuilds.views import InvalidateResult, LiftResult, LintReport, PresetExplanation, PresetPage, SizeReport

router = APIRouter(prefix="/v1/presets", tags=["presets"])

Preset = Annotated[str, in_path("`organization/template/preset`, or an id", "acme/python/small"), DECODED]


class ExplainQuery(PageQuery):
    """Which time, and which events."""

    at: AwareDatetime | None = Field(
        None, description="The time to explain; without it now, with the hold that is in force"
    )


class SizeQuery(RequestFields):
    """What the size is to reach, and which past is replayed."""

    hit_rate: float | None = Field(
        None, gt=0, lt=1, description="The share of claims that are to find one ready; the preset's own target"
    )
    wait_p95_seconds: float | None = Field(
        None, gt=0, le=86400, description="The wait within which 19 of 20 claims are to be served"
    )
    last_seconds: float = Field(
        LAST_MAX.total_seconds(), ge=60, le=LAST_MAX.total_seconds(), description="How much of the past is replayed"
    )
    lead_seconds: float | None = Field(
        None, gt=0, le=86400, description="The lead time to assume; without it, as it was measured"
    )

    max_paused: int = Field(
        0,
        ge=0,
        le=PAUSED_MAX,
        description="Up to how many paused prebuilds are tried; 0: as many as the preset's target allows",
    )
    paused_cost: float | None = Field(
        None,
        ge=0,
        le=1,
        description="What a paused prebuild costs, as a share of a ready one; without it, the target's, or 0.1",
    )
    promotion_seconds: float | None = Field(
        None, gt=0, le=86400, description="How long a paused prebuild takes to be ready; without it, as it was measured"
    )

    format: Literal["json", "svg"] = Field("json", description="`svg`: the chart of the report alone")

    def question(self) -> SizeQuestion:
        """Return the query as the operation's argument."""
        return SizeQuestion(
            hit_rate=self.hit_rate,
            wait_p95=None if self.wait_p95_seconds is None else timedelta(seconds=self.wait_p95_seconds),
            last=timedelta(seconds=self.last_seconds),
            lead=None if self.lead_seconds is None else timedelta(seconds=self.lead_seconds),
            max_paused=self.max_paused,
            paused_cost=self.paused_cost,
            promotion=None if self.promotion_seconds is None else timedelta(seconds=self.promotion_seconds),
        )


@router.get(
    "",
    summary="List presets, with what a claim can expect",
    operation_id="list_presets",
    responses=answers({"presets": [examples.PRESET], "next": None}, 404, on_404="No such template"),
)
async def list_presets(guard: Guarded, query: Annotated[TemplateQuery, Query()]) -> PresetPage:
    """The presets of the active versions that the token may see, by path. A token that may claim sees them too."""
    reach = guard.reach(Action.SEE_AVAILABILITY)
    page = await guard.operations.presets.list(query.template, reach=reach, limit=query.limit, after=query.after)
    return PresetPage(presets=page.rows, next=page.next)


@router.get(
    "/{preset}/explain",
    summary="Explain the size of a preset's pool",
    operation_id="explain_preset",
    responses=answers(examples.EXPLAINED, 404),
)
async def explain_preset(guard: Guarded, preset: Preset, query: Annotated[ExplainQuery, Query()]) -> PresetExplanation:
    """The decisions behind it now or at a past time, with the newest events, oldest first. `after` gets older ones."""
    found = await guard.preset(preset, Action.SEE_PRESETS)
    return await guard.operations.explain.preset(found, query.at, limit=query.limit, after=query.after)


SIZE_ANSWERS = answers(examples.SIZED, 404)
SIZE_ANSWERS[200]["content"]["image/svg+xml"] = {"schema": {"type": "string"}}  # with `format=svg`


@router.get(
    "/{preset}/size",
    summary="Say what each rule of its size would have come to",
    operation_id="size_preset",
    response_model=SizeReport,
    responses=SIZE_ANSWERS,
)
async def size_preset(guard: Guarded, preset: Preset, query: Annotated[SizeQuery, Query()]) -> SizeReport | Response:
    """Past claims are replayed under today's policy and under each rule, and scored on their second half. Nothing is
    changed."""
    found = await guard.preset(preset, Action.SEE_PRESETS)
    report = await guard.operations.sizes.size(found, query.question())
    if query.format == "svg":
        return Response(stand_alone(draw_sizes(report)), media_type="image/svg+xml")
    return report


@router.post(
    "/{preset}:invalidate",
    summary="Replace a preset's prebuilds",
    operation_id="invalidate_preset",
    responses=answers(examples.INVALIDATED, 404),
)
async def invalidate_preset(guard: Guarded, preset: Preset) -> InvalidateResult:
    """From now on nobody can claim one that exists now."""
    found = await guard.preset(preset, Action.INVALIDATE_PRESET)
    return await guard.operations.presets.invalidate(guard.actor, preset=found)


@router.post(
    "/{preset}:resume",
    summary="Lift the hold that failures put on a preset",
    operation_id="resume_preset",
    responses=answers(examples.LIFTED, 404),
)
async def resume_preset(guard: Guarded, preset: Preset) -> LiftResult:
    """The next pass creates again."""
    found = await guard.preset(preset, Action.LIFT_HOLDS)
    return await guard.operations.presets.lift_holds(guard.actor, found)


@router.post(
    "/{preset}:lint",
    summary="Say what a claim would replace",
    operation_id="lint_preset",
    responses=answers(examples.LINTED, 404, 409),
)
async def lint_preset(guard: Guarded, preset: Preset) -> LintReport:
    """A claim of one ready prebuild is planned by its provisioner with made-up inputs, and not applied. Empty
    `replacements`: it would replace nothing."""
    found = await guard.preset(preset, Action.LINT_PRESET)
    return await guard.operations.lint.preset(found)
