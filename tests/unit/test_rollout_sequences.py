"""The bounds of a rollout hold for any sequence of claims, failures, versions and clock steps, and it ends."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from prebuilds.planning.generations import generations_of
from prebuilds.planning.plan import plan_preset
from prebuilds.planning.rollouts import Rollout, RolloutPolicy, RolloutState
from prebuilds.planning.rules import Rules
from prebuilds.planning.snapshot import (
    Creation,
    CreationHistory,
    GenerationRows,
    Prebuild,
    Preset,
    PresetSnapshot,
)
from tests.unit.pools import DELETE, EPOCH, FAILED, NOW, PENDING, PRESET, RUNNING, START, SUCCEEDED

BUILD = timedelta(seconds=5)
POLICIES = st.builds(
    RolloutPolicy, max_surge=st.sampled_from(["25%", 1, 4]), max_unavailable=st.sampled_from([0, 1, "30%"])
)
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), st.integers(1, 4)),
        st.tuples(st.just("pass"), st.integers(0, 2)),
        st.tuples(st.just("begin"), st.just(0)),
        st.tuples(st.just("time"), st.integers(1, 10)),
        st.tuples(st.just("fail"), st.integers(0, 20)),
        st.tuples(st.just("version"), st.just(0)),
        st.tuples(st.just("desired"), st.integers(0, 9)),
        st.tuples(st.just("pause"), st.booleans().map(int)),
        st.tuples(st.just("clock"), st.integers(-100, 100)),
    ),
    max_size=40,
)


@dataclass
class Pool:
    """A pool with the events that happen to it, and no database."""

    policy: RolloutPolicy
    desired: int
    now: datetime = NOW
    passes: int = 0
    paused: bool = False
    rows: dict[int, dict[UUID, Prebuild]] = field(default_factory=lambda: {1: {}})
    """By version."""
    made: dict[int, list[Creation]] = field(default_factory=lambda: {1: []})
    claimed: list[datetime] = field(default_factory=list)
    begun: dict[UUID, datetime] = field(default_factory=dict)

    @property
    def active(self) -> int:
        return max(self.rows)

    def snapshot(self) -> PresetSnapshot:
        state = RolloutState.PAUSED if self.paused else RolloutState.RUNNING
        rollout = Rollout(UUID(int=9), self.policy, state)
        found = {
            number: GenerationRows(self._preset(number, rollout), list(rows.values()), self._history(number))
            for number, rows in self.rows.items()
            if rows or number >= self.active - 1
        }
        new = found.pop(self.active)
        return PresetSnapshot(
            taken_at=self.now,
            epoch=EPOCH,
            rules=Rules(backoff_interval=timedelta(seconds=1)),
            preset=new.preset,
            prebuilds=new.prebuilds,
            history=new.history,
            others=list(found.values()),
            lately=sum(at > self.now - BUILD for at in self.claimed),
        )

    def happen(self, kind: str, number: int) -> None:  # noqa: PLR0912 - one case for each kind
        match kind:
            case "claim":
                for _ in range(number):
                    self.claim()
            case "pass":
                self.reconcile(late=number)
            case "begin":
                for rows in self.rows.values():
                    for row in [r for r in rows.values() if r.creation_pending]:
                        rows[row.id] = replace(row, status=RUNNING)
            case "time":
                self.now += timedelta(seconds=number)
                self.finish()
            case "fail":
                running = [r for r in self.rows[self.active].values() if r.in_progress is START and r.status is RUNNING]
                for row in running[:number]:
                    self.end(self.active, row, success=False)
            case "version":
                self.rows[self.active + 1] = {}
                self.made[self.active] = []
            case "desired":
                self.desired = number
            case "pause":
                self.paused = bool(number)
            case "clock":
                self.now += timedelta(seconds=number)

    def claim(self) -> None:
        for number in sorted(self.rows, reverse=True):
            ready = sorted((r for r in self.rows[number].values() if r.claimable), key=lambda r: r.created_at)
            if ready:
                del self.rows[number][ready[0].id]
                self.claimed.append(self.now)
                return

    def finish(self) -> None:
        for number, rows in self.rows.items():
            for row in [r for r in rows.values() if r.status is RUNNING and self.begun[r.id] <= self.now - BUILD]:
                self.end(number, row, success=True)

    def end(self, number: int, row: Prebuild, *, success: bool) -> None:
        self.made[number].insert(0, Creation(row.created_at, failed=not success))
        status = SUCCEEDED if success else FAILED
        self.rows[number][row.id] = replace(row, status=status, claimable=success, ended_at=self.now)

    def reconcile(self, late: int = 0) -> bool:
        """Run a pass. Its deletions are lost when *late* is 1; its creations are when it is 2."""
        self.passes += 1
        snapshot = self.snapshot()
        plan = plan_preset(snapshot, self.passes)
        found = generations_of(snapshot)
        if late != 1:
            ready = sum(r.claimable for rows in self.rows.values() for r in rows.values())
            self.delete([*plan.delete, *plan.cancel])
            left = sum(r.claimable for rows in self.rows.values() for r in rows.values())
            if found is not None:
                least = self.desired - self.policy.unavailable(self.desired) - snapshot.lately
                assert left == ready or left >= min(least, self.desired)
        if late != 2:
            again = plan_preset(self.snapshot(), self.passes, as_it_stands=True)
            number = self._version_of(plan.create_for)
            before = self.total
            wanted = plan.create[: len(again.create)] if again.create_for == plan.create_for else []
            for workspace in wanted:
                self.rows[number][workspace] = Prebuild(workspace, self.now, 1, START, PENDING)
                self.begun[workspace] = self.now
            limit = self.desired + self.policy.surge(self.desired)
            assert self.total == before or self.total <= limit, "never more than the surge allows"
        return not plan.empty

    @property
    def total(self) -> int:
        return sum(r.running or r.in_progress is START for rows in self.rows.values() for r in rows.values())

    def delete(self, ids: list[UUID]) -> None:
        for rows in self.rows.values():
            for workspace in ids:
                rows.pop(workspace, None)

    def _version_of(self, preset_id: UUID | None) -> int:
        return self.active if preset_id is None else preset_id.int

    def _preset(self, number: int, rollout: Rollout) -> Preset:
        return replace(
            PRESET,
            id=UUID(int=number),
            version=number,
            active=number == self.active,
            base_instances=self.desired,
            rollout=rollout,
            rolled_from=number == self.active - 1,
            template_id=UUID(int=5),
        )

    def _history(self, number: int) -> CreationHistory:
        made = tuple(self.made[number])
        if not any(one.failed for one in made):
            return CreationHistory()
        return CreationHistory(newest=made, failures=sum(one.failed for one in made))


@given(POLICIES, st.integers(0, 9), EVENTS)
@settings(deadline=None, max_examples=150)
def test_bounds_hold_and_the_rollout_ends(policy: RolloutPolicy, desired: int, events: list[tuple[str, int]]) -> None:
    pool = Pool(policy, desired)
    for kind, number in events:
        pool.happen(kind, number)
    pool.paused, pool.claimed = False, []
    for number in pool.made:
        pool.made[number] = []  # what holds creations is lifted
    pool.rows = {n: {i: r for i, r in rows.items() if r.status is not FAILED} for n, rows in pool.rows.items()}
    pool.now = max([pool.now, *pool.begun.values()])
    for _ in range(60):
        unfinished = any(r.in_progress for rows in pool.rows.values() for r in rows.values())
        if not pool.reconcile() and not unfinished:
            break
        pool.happen("begin", 0)
        pool.happen("time", 6)
    else:
        raise AssertionError("it does not end")
    ready = {number: sum(r.claimable for r in rows.values()) for number, rows in pool.rows.items()}
    assert ready == {number: pool.desired if number == pool.active else 0 for number in pool.rows}
    assert not any(r.transition is DELETE for rows in pool.rows.values() for r in rows.values())


@given(POLICIES, st.integers(1, 12), st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_a_pool_that_is_claimed_from_all_the_time_is_replaced(policy: RolloutPolicy, desired: int, rate: int) -> None:
    """With claims that never pause, and builds that take five seconds."""
    pool = Pool(policy, desired)
    for _ in range(12):
        pool.reconcile()
        pool.happen("begin", 0)
        pool.happen("time", 1)
    pool.happen("version", 0)
    for _ in range(400):
        pool.happen("claim", rate)
        pool.reconcile()
        pool.happen("begin", 0)
        pool.happen("time", 1)
        if not any(row.running for row in pool.rows[1].values()):
            return
    raise AssertionError("the old version stays")
