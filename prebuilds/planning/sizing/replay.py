"""What would have become of the claims of the past, had a pool held certain sizes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prebuilds.planning.sizing.demand import Demand
from prebuilds.planning.sizing.shrinking import WARRANTED_LEADS

REFILL_SPACING_S = 1.0
"""The shortest time between two reconciles that claims of one pool cause, in seconds. The first claim causes one at
once, and those within a second after it one together, so that a burst of 300 claims causes two. A reconcile costs as
much as two claims: four a second for each of four busy pools took a third of a machine with two cores."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a size must keep to, and how it may change."""

    min: int = 0
    max: int = 1000
    cool_down_min: int = 10
    """A size falls only to the largest one wanted within these minutes at least (`cool_down`)."""

    def clamp(self, size: int) -> int:
        """The nearest size within the bounds."""
        return min(max(size, self.min), self.max)

    def cool_down(self, lead_s: float) -> int:
        """The minutes for which a larger size is held, so that no member is deleted while it is too young, given its
        cost."""
        return max(self.cool_down_min, math.ceil(WARRANTED_LEADS * lead_s / 60))

    def settle(self, sizes: Sequence[int], lead_s: float) -> list[int]:
        """The sizes that a pool follows: it grows at once, and shrinks after the cool-down.

        A member that is deleted for its pool's size was so of no use for a whole cool-down, and a rule that sways
        neither deletes nor makes one.
        """
        cool_down_min = self.cool_down(lead_s)
        settled: list[int] = []
        candidates: deque[int] = deque()
        for n, size in enumerate(sizes):
            while candidates and candidates[0] < n - cool_down_min:
                candidates.popleft()
            while candidates and sizes[candidates[-1]] <= size:
                candidates.pop()
            candidates.append(n)
            settled.append(self.clamp(sizes[candidates[0]]))
        return settled


@dataclass(frozen=True, slots=True)
class Paused:
    """The paused prebuilds that a pool keeps beside its ready ones."""

    count: int
    promotion_s: float
    """Seconds that a claim of a paused prebuild waits."""
    resume_s: float
    """Seconds until one of them is a ready one of the pool."""


@dataclass(frozen=True, slots=True)
class Score:
    """The result of a replay."""

    claims: int
    hits: int
    """Claims that found one ready."""
    waits_s: Sequence[float]
    """What each of the other claims waited, in rising order. Where a miss leaves, those that took a paused one."""
    minutes: int
    idle_s: float
    """Seconds of all members that were ready and not claimed."""
    member_s: float
    """Seconds of all members, those being made among them."""
    idle_peak: int
    missed_at: Sequence[float]
    """When each claim came that found none ready, in seconds from the demand's beginning."""
    paused_s: float = 0.0
    """Seconds of all paused prebuilds, which are in none of the figures above."""

    @property
    def hit_rate(self) -> float:
        """Between 0 and 1; 1 where nobody claimed."""
        return self.hits / self.claims if self.claims else 1.0

    @property
    def idle_mean(self) -> float:
        """Members that were ready on average."""
        return self.idle_s / (self.minutes * 60) if self.minutes else 0.0

    @property
    def member_hours(self) -> float:
        """The cost of the pool, in hours of one member."""
        return self.member_s / 3600

    def priced_s(self, paused_cost: float) -> float:
        """Return the cost of the pool in seconds of one member, including paused prebuilds.

        Args:
            paused_cost: What one of these costs, as a share of a ready one.
        """
        return self.member_s + paused_cost * self.paused_s

    def wait_s(self, quantile: float) -> float:
        """The wait within which this share of all claims was served, in seconds; hits waited for nothing."""
        place = math.ceil(quantile * self.claims) - 1 - self.hits
        return self.waits_s[min(place, len(self.waits_s) - 1)] if place >= 0 and self.waits_s else 0.0


def replay(
    demand: Demand,
    sizes: Sequence[int],
    lead_s: float,
    *,
    waits: bool = False,
    score_from: int = 0,
    paused: Paused | None = None,
) -> Score:
    """Run a pool of these sizes through a demand.

    The pool is as the loop keeps it: what is claimed is created again at once, or `REFILL_SPACING_S` after the last
    refill; a higher size is created at once; a lower one deletes what is ready and lets what is being made end.

    Args:
        sizes: One for each minute of the demand.
        lead_s: Seconds from the start of a creation until its prebuild is ready.
        waits: Whether a claim that finds none ready waits in line, and one more is created for it.
        score_from: The minute from which claims and idle members count. The earlier ones only bring the pool into the
            state that it has then.
        paused: What it keeps paused at all times; None for none.
    """
    pool = _Pool(lead_s) if paused is None else _PoolWithPaused(lead_s, paused)
    arrivals = iter(demand.arrivals)
    arrival = next(arrivals, math.inf)
    for minute, size in _changes(sizes[: demand.minutes], score_from):
        while arrival < minute * 60:
            pool.claim(arrival, waits=waits)
            arrival = next(arrivals, math.inf)
        pool.resize(minute * 60, size)
        if minute == score_from:
            pool.forget_score()
    while arrival < math.inf:
        pool.claim(arrival, waits=waits)
        arrival = next(arrivals, math.inf)
    pool.go_on_until(demand.minutes * 60)
    return Score(
        claims=pool.claims,
        hits=pool.hits,
        waits_s=sorted(pool.waits_s),
        minutes=demand.minutes - score_from,
        idle_s=pool.idle_s,
        member_s=pool.member_s,
        idle_peak=pool.idle_peak,
        missed_at=pool.missed_at,
        paused_s=pool.paused_s,
    )


def _changes(sizes: Sequence[int], score_from: int) -> Iterator[tuple[int, int]]:
    """The minutes at which the size changes, with the new one, and the minute from which is scored."""
    before = None
    for minute, size in enumerate(sizes):
        if size != before or minute == score_from:
            yield minute, size
        before = size


class _Pool:
    """The pool of a replay. Each creation takes the same time, so that the oldest is always the next to be ready."""

    def __init__(self, lead_s: float) -> None:
        self.lead_s = lead_s
        self.now = 0.0
        self.size = 0
        self.ready = 0
        self.due: deque[float] = deque()
        """When each creation under way is ready."""
        self.promised = 0
        """How many of those, the next ones, go to claims that wait."""
        self.refilled_at = -math.inf
        """When claims have last caused a reconcile."""
        self.refill_at = math.inf
        """When the next one is due that they have caused."""
        self.forget_score()

    def forget_score(self) -> None:
        self.claims = self.hits = 0
        self.waits_s: list[float] = []
        self.missed_at: list[float] = []
        self.idle_s = self.member_s = self.paused_s = 0.0
        self.idle_peak = self.ready

    def go_on_until(self, at: float) -> None:
        """Let what is being made become ready, and refill the pool when that is due."""
        if self.refill_at <= at:
            self._let_ready(self.refill_at)
            self._refill()
        self._let_ready(at)

    def _let_ready(self, at: float) -> None:
        while self.due and self.due[0] <= at:
            self._count(self.due[0])
            self.due.popleft()
            if self.promised:
                self.promised -= 1
            elif self.ready + len(self.due) < self.size:
                self.ready += 1
                self.idle_peak = max(self.idle_peak, self.ready)
        self._count(at)

    def resize(self, at: float, size: int) -> None:
        self.go_on_until(at)
        self.size = size
        self.ready -= min(max(self.ready + len(self.due) - self.promised - size, 0), self.ready)
        self._create()

    def claim(self, at: float, *, waits: bool) -> None:
        self.go_on_until(at)
        self.claims += 1
        hit = self.ready > 0
        if hit:
            self.ready -= 1
            self.hits += 1
        else:
            self.missed_at.append(at)
        if hit:
            self._ask_for_refill()
        elif waits:
            self.promised += 1
            self._refill()
            self.waits_s.append(self._next(self.promised - 1) - at)

    def _next(self, place: int) -> float:
        """When the creation at this place among those under way is ready."""
        return self.due[place]

    def _ask_for_refill(self) -> None:
        """Refill the pool as soon as the spacing allows."""
        due_at = self.refilled_at + REFILL_SPACING_S
        if due_at <= self.now:
            self._refill()
        else:
            self.refill_at = due_at

    def _refill(self) -> None:
        self.refilled_at, self.refill_at = self.now, math.inf
        self._create()

    def _create(self) -> None:
        for _ in range(self.size + self.promised - self.ready - len(self.due)):
            self.due.append(self.now + self.lead_s)

    def _count(self, at: float) -> None:
        past_s = at - self.now
        self.idle_s += self.ready * past_s
        self.member_s += (self.ready + len(self.due)) * past_s
        self.now = at


class _PoolWithPaused(_Pool):
    """A pool that also has paused prebuilds, as `plan_standby` keeps them. A pause takes no time."""

    def __init__(self, lead_s: float, paused: Paused) -> None:
        self._paused = paused
        self._idle = 0
        self._resumed: deque[float] = deque()
        """When each resume under way is ready."""
        super().__init__(lead_s)

    def _let_ready(self, at: float) -> None:
        due, resumed = self.due, self._resumed
        while True:
            created = due[0] if due else math.inf
            first = min(created, resumed[0]) if resumed else created
            if first > at:
                break
            self._count(first)
            (due if created == first else resumed).popleft()
            if self.promised:
                self.promised -= 1
            else:
                self.ready += 1
                self._put_surplus_away()
                self.idle_peak = max(self.idle_peak, self.ready)
        self._count(at)

    def resize(self, at: float, size: int) -> None:
        self.go_on_until(at)
        self.size = size
        self._put_surplus_away()
        self._create()

    def claim(self, at: float, *, waits: bool) -> None:
        self.go_on_until(at)
        if self.ready or not self._idle:
            super().claim(at, waits=waits)
            return
        self.claims += 1
        self.missed_at.append(at)
        self._idle -= 1
        self.waits_s.append(self._paused.promotion_s)
        self._ask_for_refill()

    def _next(self, place: int) -> float:
        if not self._resumed:
            return self.due[place]
        return sorted([*self.due, *self._resumed])[place]

    def _put_surplus_away(self) -> None:
        surplus = max(self.ready - self.size, 0)
        self.ready -= surplus
        self._idle = min(self._idle + surplus, max(self._idle, self._paused.count))

    def _create(self) -> None:
        target, starting = self.size + self.promised, len(self.due) + len(self._resumed)
        missing = target + self._paused.count - self.ready - starting - self._idle
        resumes = min(max(target - self.ready - len(self._resumed), 0), self._idle)
        self._idle -= resumes
        self._resumed.extend([self.now + self._paused.resume_s] * resumes)
        missing = max(missing, target - self.ready - starting - resumes)
        self.due.extend([self.now + self.lead_s] * missing)

    def _count(self, at: float) -> None:
        past_s = at - self.now
        self.paused_s += self._idle * past_s
        self.member_s += len(self._resumed) * past_s
        super()._count(at)
