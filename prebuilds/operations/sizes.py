"""What a preset's pool would have held, hit and cost under each rule of its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from prebuilds.api import InvalidInput
from prebuilds.failures.database import reaching
from prebuilds.operations.context import Context
from prebuilds.operations.replaying import check_room, in_turn
from prebuilds.planning.coming import with_windows
from prebuilds.planning.lead_times import Measured
from prebuilds.planning.schedule import zone_or_utc
from prebuilds.planning.sizing.choosing import Target
from prebuilds.planning.sizing.demand import Demand
from prebuilds.planning.sizing.question import SizeQuestion, check_question, demand_of
from prebuilds.planning.sizing.replay import Bounds
from prebuilds.planning.sizing.target import SizeTarget
from prebuilds.planning.sizing.tiers import PAUSED_COST, Spares
from prebuilds.planning.sizing.what_if import Line, WhatIf, what_if
from prebuilds.planning.snapshot import Preset
from prebuilds.store.demand import find_pool, read_demand
from prebuilds.store.outlooks import read_measured
from prebuilds.store.preset_list import window_rows
from prebuilds.store.presets import find_preset
from prebuilds.store.snapshots import snapshot_preset, snapshot_transaction
from prebuilds.views.sizes import SizeLine, SizePart, SizeReport, SizeWanted

CLAIMS_MAX = 20_000
"""Maximum number of claims, the newest ones, that are replayed; ten times as many for a busy day (`Demand.newest`). It
bounds the cost of one question: two seconds of CPU, and eight for the busiest pool. To try paused prebuilds costs as
much again."""
BOUNDS = Bounds(min=0, max=500)
HIT_RATE = 0.99
"""Hit rate in a what-if question for a preset that has no target."""


@dataclass(frozen=True, slots=True)
class SizeOperations:
    """Operations on the sizes of pools. They change nothing."""

    context: Context

    async def size(self, preset: str, question: SizeQuestion) -> SizeReport:
        """Replay the demand of a preset under each rule.

        Raises:
            InvalidInput: The question is not valid, or needs a measurement that does not exist yet. Names the field.
            PresetNotFound: No live template has this preset.
            RateLimited: Too many questions wait for their turn.
            StackUnreachable: The database went away.
        """
        check_question(question)
        check_room()
        with reaching("the demand was read"):
            rules = await self.context.rules()
            async with snapshot_transaction(self.context.engine) as connection:
                found = await find_preset(connection, preset)
                snapshot = await snapshot_preset(connection, found.id, rules)
                pool = await find_pool(connection, found.id)
                wanted = _wanted(question, snapshot.preset)
                with_paused = [found.id] if snapshot.preset.standby or wanted.max_paused else []
                measured = (await read_measured(connection, [found.id], with_paused))[found.id]
                if question.times is None:
                    minutes = int(question.last.total_seconds() // 60)
                    ends_at = snapshot.taken_at.replace(second=0, microsecond=0)
                    begins_at = ends_at - timedelta(minutes=minutes)
                    pool_of = (pool.template_id, pool.preset_name)
                    demand = await read_demand(connection, *pool_of, begins_at, minutes, snapshot.preset.timezone)
                else:
                    demand = replace(demand_of(question.times), zone=zone_or_utc(snapshot.preset.timezone))
        lead = question.lead or measured.lead
        if lead is None:
            raise InvalidInput.field(
                "lead", "is needed: no creation of this preset was measured yet", "give one, such as 60s"
            )
        demand = demand.newest(CLAIMS_MAX)
        spares = _spares(question, wanted, measured, lead) if with_paused else None
        found_out = await in_turn(_replayed, demand, wanted, snapshot.preset, lead.total_seconds(), spares)
        return _report(snapshot.preset, demand, wanted, lead, found_out, pool.cost_per_hour, spares)


def _wanted(question: SizeQuestion, preset: Preset) -> SizeTarget:
    """Return the preset's own target, as far as the question does not ask for another one."""
    wanted, own = _target(question, preset), preset.target
    most = 0 if own is None else own.max_paused
    cost = PAUSED_COST if own is None else own.paused_cost
    return replace(
        wanted,
        max_paused=question.max_paused or most,
        paused_cost=cost if question.paused_cost is None else question.paused_cost,
    )


def _target(question: SizeQuestion, preset: Preset) -> SizeTarget:
    own = preset.target
    bounds = own.bounds if own is not None else BOUNDS
    idle_max = own.target.idle_max if own is not None else None
    if question.wait_p95 is not None:
        return SizeTarget(Target(wait_p95_s=question.wait_p95.total_seconds(), idle_max=idle_max), bounds, acts=False)
    if question.hit_rate is None and own is not None:
        return own
    return SizeTarget(Target(hit_rate=question.hit_rate or HIT_RATE, idle_max=idle_max), bounds, acts=False)


def _spares(question: SizeQuestion, wanted: SizeTarget, measured: Measured, lead: timedelta) -> Spares:
    """Before a promotion was measured, one takes as long as a creation, so that paused prebuilds show no gain."""
    given = () if question.promotion is None else (question.promotion,)
    known = replace(measured, promotions=given, resumes=given) if given else measured
    known = known if known.has_resumed else replace(known, resumes=[lead])
    spares = known.spares(wanted.max_paused, wanted.paused_cost)
    assert spares is not None  # noqa: S101 - a resume is known
    return spares


def _replayed(
    demand: Demand, wanted: SizeTarget, preset: Preset, lead_s: float, spares: Spares | None = None
) -> WhatIf:
    def windowed(sizes: Sequence[int]) -> list[int]:
        return with_windows(preset, demand.begins_at, sizes)

    today = windowed([preset.base_instances or 0] * (demand.minutes + 1))
    return what_if(demand, wanted, today, lead_s, windowed, spares, preset.standby)


def _report(
    preset: Preset,
    demand: Demand,
    wanted: SizeTarget,
    lead: timedelta,
    found: WhatIf,
    cost_per_hour: float | None,
    spares: Spares | None,
) -> SizeReport:
    target = SizeWanted(
        hit_rate=wanted.target.hit_rate,
        wait_p95_seconds=wanted.target.wait_p95_s,
        min=wanted.bounds.min,
        max=wanted.bounds.max,
        max_idle=wanted.target.idle_max,
        max_paused=wanted.max_paused,
    )
    return SizeReport(
        preset=preset.path,
        preset_id=preset.id,
        begins_at=demand.begins_at,
        ends_at=demand.minute_at(demand.minutes),
        scored_from=found.scored_from,
        claims=demand.claims,
        lead_seconds=lead.total_seconds(),
        target=target,
        windows=window_rows(preset),
        met=found.met,
        enough_history=found.enough_history,
        lines=[_line(line, cost_per_hour, spares) for line in found.lines],
        promotion_seconds=None if spares is None else spares.promotion_s,
        paused_cost=None if spares is None else spares.cost,
        parts=[
            SizePart(
                begins_at=part.begins_at,
                claims=part.claims,
                size=part.size,
                missed=part.missed,
                today_size=part.today_size,
                today_missed=part.today_missed,
            )
            for part in found.parts
        ],
        suggestion=_suggestion(wanted, found),
    )


def _line(line: Line, cost_per_hour: float | None, spares: Spares | None) -> SizeLine:
    score = line.score
    priced_hours = score.priced_s(0.0 if spares is None else spares.cost) / 3600
    return SizeLine(
        rule=line.rule,
        today=line.today,
        chosen=line.chosen,
        met=line.met,
        hit_rate=score.hit_rate,
        wait_p95_seconds=score.wait_s(0.95),
        wait_p99_seconds=score.wait_s(0.99),
        idle_mean=score.idle_mean,
        idle_peak=score.idle_peak,
        member_hours=score.member_hours,
        cost=None if cost_per_hour is None else priced_hours * cost_per_hour,
        size_now=line.size_now,
        paused=line.paused,
        paused_hours=score.paused_s / 3600,
    )


def _suggestion(wanted: SizeTarget, found: WhatIf) -> str:
    """The target as a line of YAML, its largest size twice the peak that the replay came to; with the paused prebuilds
    to begin with, where some were chosen."""
    target, bounds = wanted.target, wanted.bounds
    chosen = next(line for line in found.lines if line.chosen)
    wish = f"hit_rate: {target.hit_rate:g}" if target.hit_rate is not None else f"wait_p95: {target.wait_p95_s:g}s"
    largest = min(max(2 * chosen.score.idle_peak, bounds.min, 1), bounds.max)
    idle = "" if target.idle_max is None else f", max_idle: {target.idle_max:g}"
    paused, standby = "", ""
    if wanted.max_paused and chosen.paused:
        cost = "" if wanted.paused_cost == PAUSED_COST else f", paused_cost: {wanted.paused_cost:g}"
        paused = f", max_paused: {wanted.max_paused}{cost}"
        standby = f"\nstandby: {{paused: {chosen.paused}}}"
    return f"target: {{{wish}, min: {bounds.min}, max: {largest}{idle}{paused}, mode: suggest}}{standby}"
