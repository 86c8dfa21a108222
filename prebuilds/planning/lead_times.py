"""How long somebody who finds a pool empty has to wait, from what is known of the pool."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from prebuilds.planning.plan import state_of
from prebuilds.planning.sizing.tiers import PAUSED_COST, Spares
from prebuilds.planning.snapshot import PresetSnapshot, is_expired
from prebuilds.planning.state import PoolState, desired_at
from prebuilds.planning.tiers import NO_STANDBY
from prebuilds.vocabulary import Transition

LEADS_MAX = 20
"""Creations whose durations are looked at, the newest ones: a template changes, and so does what it waits for."""
LEAD_SHARE = 0.9
"""The share of creations that are ready within the lead time. Who comes back at the median comes too early every second
time."""
HEAD_START_MAX = timedelta(days=1)
PASS_MARGIN = timedelta(seconds=30)
"""Margin for the next pass, at which a window's creations begin. By default, passes run every 15 seconds."""
KEPT_SHARE = 0.8
"""A head start falls only if it would be below this share of its previous value, so that it does not fluctuate."""
AHEAD_MAX_MIN = 60
"""How far a schedule is read ahead, in minutes. A caller who comes back after that gets the rest."""
OVERDUE = timedelta(seconds=1)
"""Assumed rest of a creation that has taken longer than its lead time: its end is unknown, but it is at work."""


def head_start(lead: timedelta, before: timedelta = timedelta(0)) -> timedelta:
    """Return how long before a window its creations should begin, so that its prebuilds are ready in time.

    Args:
        lead: The lead time.
        before: The previous head start; zero if there was none.
    Returns:
        Whole minutes: at least the lead time plus the margin for the next pass, and at most `HEAD_START_MAX`.
    """
    minutes = math.ceil((lead + PASS_MARGIN) / timedelta(minutes=1))
    needed = min(timedelta(minutes=minutes), HEAD_START_MAX)
    return before if needed <= before <= HEAD_START_MAX and needed >= KEPT_SHARE * before else needed


@dataclass(frozen=True, slots=True)
class Measured:
    """How long the newest builds of a pool took from their record to their success, by kind and in any order."""

    creations: Sequence[timedelta] = ()
    promotions: Sequence[timedelta] = ()
    """Hand-overs of paused prebuilds to claims."""
    resumes: Sequence[timedelta] = ()
    """Durations of resumes that made paused prebuilds ready in the pool."""

    @property
    def lead(self) -> timedelta | None:
        """The time within which a creation is ready; None when none was measured."""
        return lead_time(self.creations)

    @property
    def resume_lead(self) -> timedelta | None:
        """The lead time of a resume. Before one was measured, it is that of a creation, since a resume may have to
        create what was lost."""
        return lead_time(self.resumes or self.promotions or self.creations)

    @property
    def promotion(self) -> timedelta | None:
        """The median wait of a claim of a paused prebuild; before one was measured, the lead time."""
        found = self.promotions or self.resumes
        return timedelta(seconds=statistics.median(one.total_seconds() for one in found)) if found else self.lead

    @property
    def has_resumed(self) -> bool:
        """Whether a promotion or a resume was measured, so that the two figures above are not those of a creation."""
        return bool(self.promotions or self.resumes)

    def spares(self, most: int, cost: float = PAUSED_COST) -> Spares | None:
        """Return the paused prebuilds that a pool may have, with their measured times; None if nothing was measured."""
        promotion, resume = self.promotion, self.resume_lead
        if promotion is None or resume is None:
            return None
        return Spares(most, promotion.total_seconds(), resume.total_seconds(), cost)


@dataclass(frozen=True, slots=True)
class Begun:
    """When the starts that are under way in a pool were recorded, in any order."""

    creations: Sequence[datetime] = ()
    resumes: Sequence[datetime] = ()


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a claim that finds nothing ready can expect."""

    wait: timedelta | None
    """Until a prebuild is there for it. None: nothing is on its way, or no creation of the preset was ever measured."""
    held_until: datetime | None = None
    """When the hold on creation ends by itself; None when there is no hold, or only an operator ends it."""
    idle: bool = False
    """Whether nothing is created until an operator starts the loop again."""


def lead_time(durations: Sequence[timedelta]) -> timedelta | None:
    """The time within which nine of ten creations were ready; None when none was measured.

    Args:
        durations: From the record of a creation to its success, in any order.
    """
    if not durations:
        return None
    return sorted(durations)[math.ceil(LEAD_SHARE * len(durations)) - 1]


def outlook(
    snapshot: PresetSnapshot,
    measured: Measured,
    *,
    ahead: int,
    waits: bool = False,
    stopped: bool = False,
    resumes_begun: Sequence[datetime] = (),
) -> Outlook:
    """Estimate the wait of one more claim of an empty pool.

    A claim takes a paused prebuild at once, and waits until it is ready again. Prebuilds that are being made go to
    waiting claims, first come, first served. All missing ones are resumed or created together at the loop's next pass,
    which a claim triggers.

    Args:
        snapshot: The preset's pool.
        measured: Durations of the pool's newest builds.
        ahead: Number of claims that get a prebuild before this one.
        waits: Whether the claim itself is in the queue. Then a prebuild is created for it even if the schedule desires
            none.
        stopped: Whether the loop was stopped, so that no further creation begins.
        resumes_begun: Times at which the resumes under way were recorded.
    """
    made = [p.created_at for p in snapshot.prebuilds if p.in_progress is Transition.START and p.build_number == 1]
    state = state_of(snapshot)
    if stopped:
        state = replace(state, active=False, standby=NO_STANDBY)
    idle = any(
        p.paused and not is_expired(snapshot.preset, p.created_at, snapshot.taken_at) for p in snapshot.prebuilds
    )
    if idle and not waits and snapshot.preset.active:
        return Outlook(measured.promotion)
    found = forecast(state, Begun(made, resumes_begun), snapshot.taken_at, measured, ahead=ahead, waits=waits)
    if found.wait is not None or stopped:
        return replace(found, idle=found.wait is None)
    if state.active and state.held is None and state.desired == 0 and not waits:
        opens = _until_desired(snapshot)
        return replace(found, wait=opens and opens + (measured.lead or timedelta(0)))
    return found


def _until_desired(snapshot: PresetSnapshot) -> timedelta | None:
    """The time until the schedule desires prebuilds again, at most `AHEAD_MAX_MIN`; None without a schedule."""
    if not snapshot.preset.windows:
        return None
    minute = snapshot.taken_at.replace(second=0, microsecond=0)
    for n in range(1, AHEAD_MAX_MIN + 1):
        at = minute + timedelta(minutes=n)
        if desired_at(snapshot.preset, at).instances:
            return at - snapshot.taken_at
    return timedelta(minutes=AHEAD_MAX_MIN)


def forecast(
    state: PoolState,
    begun: Begun,
    taken_at: datetime,
    measured: Measured,
    *,
    ahead: int,
    waits: bool = False,
) -> Outlook:
    """Estimate as `outlook` does, from a pool's figures.

    Args:
        taken_at: The time of the figures.
    """
    held_until = state.held.until if state.held is not None else None
    lead, resume_lead = measured.lead, measured.resume_lead
    if lead is None or resume_lead is None:
        return Outlook(None, held_until)
    due = [max(at + lead - taken_at, OVERDUE) for at in begun.creations]
    due += [max(at + resume_lead - taken_at, OVERDUE) for at in begun.resumes]
    due = sorted([*due, *[resume_lead] * state.standby.resumes])
    if ahead < len(due):
        return Outlook(due[ahead], held_until)
    comes = state.active and state.held is None and state.room != 0 and (waits or state.desired > 0)
    return Outlook(lead if comes else None, held_until)
