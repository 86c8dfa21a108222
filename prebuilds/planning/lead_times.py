"""How long somebody who finds a pool empty has to wait, from what is known of the pool."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from prebuilds.planning.plan import state_of
from prebuilds.planning.snapshot import PresetSnapshot
from prebuilds.planning.state import PoolState, desired_at
from prebuilds.vocabulary import Transition

LEADS_MAX = 20
"""Creations whose durations are looked at, the newest ones: a template changes, and so does what it waits for."""
LEAD_SHARE = 0.9
"""The share of creations that are ready within the lead time. Who comes back at the median comes too early every second
time."""
HEAD_START_MAX = timedelta(days=1)
PASS_MARGIN = timedelta(seconds=30)
"""A window's creations begin at a pass, and passes come every 15 seconds unless an operator says otherwise."""
KEPT_SHARE = 0.8
"""A head start falls only when it would be below this share of what it was, so that it does not sway."""
AHEAD_MAX_MIN = 60
"""How far a schedule is looked ahead, in minutes. Who is told to come back then is told the rest."""
OVERDUE = timedelta(seconds=1)
"""What is left of a creation that has taken its lead time already. When it ends is not known, but it is at work."""


def head_start(lead: timedelta, before: timedelta = timedelta(0)) -> timedelta:
    """How long before a window its creations begin, so that its prebuilds are ready when it does.

    Args:
        lead: The lead time.
        before: The head start so far; zero when there was none.
    Returns:
        Whole minutes: at least the lead time and a margin for the next pass, and at most `HEAD_START_MAX`.
    """
    minutes = math.ceil((lead + PASS_MARGIN) / timedelta(minutes=1))
    needed = min(timedelta(minutes=minutes), HEAD_START_MAX)
    return before if needed <= before <= HEAD_START_MAX and needed >= KEPT_SHARE * before else needed


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
    durations: Sequence[timedelta],
    *,
    ahead: int,
    waits: bool = False,
    stopped: bool = False,
) -> Outlook:
    """What one more claim of an empty pool can expect.

    Prebuilds that are being made go to the claims that wait, first come, first served. Whatever is missing is created
    at the loop's next pass, which a claim brings about; all of it at the same time.

    Args:
        snapshot: The preset's pool.
        durations: Of its newest creations that have succeeded (`lead_time`).
        ahead: How many claims get a prebuild before this one.
        waits: Whether the claim stands in the queue itself. Then a prebuild is created for it, also while the schedule
            desires none.
        stopped: Whether the loop was stopped, so that nothing is created but what is begun.
    """
    begun = [p.created_at for p in snapshot.prebuilds if p.in_progress is Transition.START]
    state = state_of(snapshot)
    if stopped:
        state = replace(state, active=False)
    found = forecast(state, begun, snapshot.taken_at, durations, ahead=ahead, waits=waits)
    if found.wait is not None or stopped:
        return replace(found, idle=found.wait is None)
    if state.active and state.held is None and state.desired == 0 and not waits:
        opens = _until_desired(snapshot)
        return replace(found, wait=opens and opens + (lead_time(durations) or timedelta(0)))
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
    begun: Sequence[datetime],
    taken_at: datetime,
    durations: Sequence[timedelta],
    *,
    ahead: int,
    waits: bool = False,
) -> Outlook:
    """The same as `outlook`, from a pool's figures.

    Args:
        begun: When each of the starts that are under way was recorded, in any order.
        taken_at: The time of the figures.
    """
    held_until = state.held.until if state.held is not None else None
    lead = lead_time(durations)
    if lead is None:
        return Outlook(None, held_until)
    due = sorted(max(at + lead - taken_at, OVERDUE) for at in begun)
    if ahead < len(due):
        return Outlook(due[ahead], held_until)
    comes = state.active and state.held is None and state.room != 0 and (waits or state.desired > 0)
    return Outlook(lead if comes else None, held_until)
