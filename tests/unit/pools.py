"""Pools for tests of planning: makes presets, rows and histories in one line each, or draws them at random."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from hypothesis import strategies as st

from prebuilds.planning.plan import ReconcilePlan
from prebuilds.planning.rules import Rules
from prebuilds.planning.snapshot import (
    Creation,
    CreationHistory,
    GlobalSnapshot,
    Instant,
    Prebuild,
    Preset,
    PresetCounts,
    PresetSnapshot,
    count_prebuilds,
)
from prebuilds.vocabulary import BuildStatus, Transition

EPOCH = UUID(int=7)
NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
"""A Monday."""
TICK = timedelta(microseconds=1)
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
START, STOP, PAUSE, DELETE = Transition.START, Transition.STOP, Transition.PAUSE, Transition.DELETE
PENDING, RUNNING, SUCCEEDED = BuildStatus.PENDING, BuildStatus.RUNNING, BuildStatus.SUCCEEDED
FAILED, CANCELING, CANCELED = BuildStatus.FAILED, BuildStatus.CANCELING, BuildStatus.CANCELED

PRESET = Preset(
    id=UUID(int=1), organization="acme", template="python", version=1, name="small", active=True, base_instances=3
)
UNREADABLE: dict[str, Any] = {"timezone": "Mars/Olympus", "windows": (("* 8 * * *", 7),)}


def prebuild(n: int, transition: Transition = START, status: BuildStatus = SUCCEEDED, **changes: Any) -> Prebuild:
    """Make the *n*th prebuild, 1 to 99; higher numbers are younger."""
    ready = transition is START and status is SUCCEEDED
    made = Prebuild(UUID(int=n), NOW - timedelta(hours=100 - n), 1, transition, status, claimable=ready)
    return replace(made, **changes)


def prebuilds(count: int) -> list[Prebuild]:
    """Make *count* ready prebuilds, oldest first."""
    return [prebuild(n, created_at=NOW - HOUR + n * SECOND) for n in range(1, count + 1)]


def creations(count: int) -> list[Prebuild]:
    """Make *count* prebuilds whose creation has not begun."""
    return [prebuild(n, status=PENDING, created_at=NOW - HOUR) for n in range(1001, 1001 + count)]


def snapshot(
    *rows: Prebuild,
    paused: bool = False,
    rules: Rules | None = None,
    history: CreationHistory | None = None,
    **changes: Any,
) -> PresetSnapshot:
    """Make a snapshot of `PRESET` with these rows and with *changes* to the preset."""
    return PresetSnapshot(
        taken_at=NOW,
        epoch=EPOCH,
        paused=paused,
        rules=rules or Rules(),
        preset=replace(PRESET, **changes),
        prebuilds=list(rows),
        history=history or CreationHistory(),
    )


def pool(n: int, *rows: Prebuild, **changes: Any) -> PresetSnapshot:
    """Make a snapshot of the *n*th preset, as `snapshot` does."""
    return snapshot(*rows, id=UUID(int=n), **changes)


def whole(*pools: PresetSnapshot, paused: bool = False, rules: Rules | None = None, passes: int = 0) -> GlobalSnapshot:
    """Combine pools into the snapshot that a pass takes: counted, and all at one instant."""
    at = Instant(taken_at=NOW, paused=paused, rules=rules or Rules())
    return GlobalSnapshot(
        taken_at=at.taken_at,
        paused=at.paused,
        rules=at.rules,
        passes=passes,
        presets=[
            PresetCounts(pool.preset, count_prebuilds(pool.preset, pool.prebuilds, at), pool.history) for pool in pools
        ],
    )


def failed(ago: timedelta) -> Creation:
    return Creation(NOW - ago, failed=True)


def succeeded(ago: timedelta) -> Creation:
    return Creation(NOW - ago, failed=False)


def history_of(*made: Creation, lookback: timedelta = HOUR, **changes: Any) -> CreationHistory:
    """Summarize creations, given newest first, as the snapshot's statement does."""
    return replace(
        CreationHistory(
            newest=made,
            failures=sum(c.failed and c.created_at >= NOW - lookback for c in made),
            succeeded_at=max((c.created_at for c in made if not c.failed), default=None),
        ),
        **changes,
    )


def begin_moves(plan: ReconcilePlan, rows: Iterable[Prebuild]) -> list[Prebuild]:
    """Return *rows* with the plan's resumes and pauses recorded."""
    moves = dict.fromkeys(plan.resume, START) | dict.fromkeys(plan.pause, PAUSE)
    return [
        replace(p, transition=moves[p.id], status=PENDING, build_number=p.build_number + 1) if p.id in moves else p
        for p in rows
    ]


def ids(*numbers: int) -> list[UUID]:
    return [UUID(int=n) for n in numbers]


# --- At random ---


def ago(hours_max: int) -> st.SearchStrategy[timedelta]:
    """Draw durations, often whole hours: limits are whole hours, so that equality is tested, too."""
    return st.integers(0, hours_max).map(lambda n: n * HOUR) | st.timedeltas(timedelta(0), hours_max * HOUR)


def moments(hours_max: int) -> st.SearchStrategy[datetime]:
    return ago(hours_max).map(lambda before: NOW - before)


ROWS = st.lists(
    st.builds(
        Prebuild,
        id=st.integers(1, 10_000).map(lambda n: UUID(int=n)),
        created_at=moments(60),
        build_number=st.integers(1, 3),
        transition=st.sampled_from(Transition),
        status=st.sampled_from(BuildStatus),
        ended_at=st.none() | moments(3),
        claimable=st.booleans(),
        probe_failures=st.integers(0, 3),
        kept=st.booleans(),
    ),
    max_size=20,
    unique_by=lambda row: row.id,
)
PRESETS = st.builds(
    replace,
    st.just(PRESET),
    active=st.booleans(),
    base_instances=st.integers(0, 12),
    standby=st.sampled_from([0, 0, 1, 4]),
    expire_after=st.none() | ago(50),
    last_invalidated_at=st.none() | moments(60),
    timezone=st.sampled_from([None, "UTC", "Nowhere/Else"]),
    windows=st.sampled_from([(), (("* 12 * * *", 0),), (("* 12-13 * * 1", 9), ("* 14 * * *", 2))]),
)
RULES = st.builds(
    Rules,
    backoff_interval=st.sampled_from([timedelta(0), MINUTE]),
    failure_hard_limit=st.integers(0, 3),
    failed_retention=ago(3),
    max_pending_builds=st.none() | st.integers(1, 40),
)


@st.composite
def histories(draw: st.DrawFn) -> CreationHistory:
    """Draw a history, mostly without failures: otherwise creations would be held too often to be tested."""
    if draw(st.integers(0, 2)):
        return CreationHistory()
    made = draw(st.lists(st.builds(Creation, moments(2), st.booleans()), max_size=8))
    made.sort(key=lambda creation: creation.created_at, reverse=True)
    invalid = [c.created_at for c in made if c.failed]
    return history_of(*made, invalid_at=draw(st.sampled_from([None, *invalid])))


@st.composite
def pools(draw: st.DrawFn) -> PresetSnapshot:
    """Draw one pool that is not paused."""
    return PresetSnapshot(
        taken_at=NOW,
        epoch=EPOCH,
        paused=False,
        rules=draw(RULES),
        preset=draw(PRESETS),
        prebuilds=draw(ROWS),
        history=draw(histories()),
    )


@st.composite
def deployments(draw: st.DrawFn) -> list[PresetSnapshot]:
    """Draw pools of several presets at one instant, with the same rules."""
    rules, paused = draw(RULES), draw(st.integers(0, 5)) == 5
    found = draw(st.lists(pools(), min_size=1, max_size=5))
    return [
        replace(pool, rules=rules, paused=paused, preset=replace(pool.preset, id=UUID(int=n)))
        for n, pool in enumerate(found, 1)
    ]


def by_id(rows: Iterable[Prebuild]) -> dict[UUID, Prebuild]:
    return {row.id: row for row in rows}
