"""Pools of one template without a database: passes plan them, and claims, failures and rollouts happen to them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID

import pytest

from prebuilds.planning.limits import member_shares
from prebuilds.planning.pass_plan import PassPlan, plan_pass
from prebuilds.planning.plan import ReconcilePlan, deletions, plan_preset
from prebuilds.planning.rollout_outcomes import judge_rollouts
from prebuilds.planning.rollouts import OPEN, Rollout, RolloutPolicy, RolloutState, Strategy
from prebuilds.planning.rules import Rules
from prebuilds.planning.snapshot import (
    Creation,
    CreationHistory,
    GenerationRows,
    GlobalSnapshot,
    Prebuild,
    Preset,
    PresetCounts,
    PresetSnapshot,
    count_prebuilds,
)
from tests.unit.pools import DELETE, EPOCH, FAILED, NOW, PAUSE, PENDING, PRESET, RUNNING, START, SUCCEEDED, begin_moves

BUILD = timedelta(seconds=5)
TEMPLATE = UUID(int=50)
RULES = Rules(backoff_interval=timedelta(seconds=1), failure_hard_limit=3, failed_retention=timedelta(minutes=1))
NAMES = ("a", "b")
Key = tuple[str, int]
"""A generation: the preset's name and version."""


@dataclass
class Pools:
    """The pools of one organization with one template, and no database."""

    policy: RolloutPolicy
    desired: dict[str, int]
    standby: dict[str, int]
    limit: int | None
    """Pool members of the organization."""
    concurrent: int | None
    now: datetime = NOW
    passes: int = 0
    version: int = 1
    """The newest."""
    active: int = 1
    came_from: int = 1
    bad: bool = False
    """Whether creations of the active version fail."""
    bad_names: tuple[str, ...] = NAMES
    """The presets whose creations fail while `bad` is set."""
    rollout: Rollout | None = None
    waiting: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NAMES, 0))
    rows: dict[Key, dict[UUID, Prebuild]] = field(default_factory=lambda: defaultdict(dict))
    made: dict[Key, list[Creation]] = field(default_factory=lambda: defaultdict(list))
    claimed: dict[Key, list[datetime]] = field(default_factory=lambda: defaultdict(list))
    begun: dict[UUID, datetime] = field(default_factory=dict)
    took: dict[str, timedelta] = field(default_factory=lambda: dict.fromkeys(NAMES, BUILD))
    """How long the newest creation has taken from its record."""
    writes: int = 0

    # --- Reading ---

    def keys(self) -> list[Key]:
        return [
            (name, version)
            for name in NAMES
            for version in range(1, self.version + 1)
            if version == self.active
            or self.rows[name, version]
            or (self.rollout is not None and version == self.came_from)
        ]

    def preset(self, key: Key) -> Preset:
        name, version = key
        return replace(
            PRESET,
            id=UUID(int=100 * version + NAMES.index(name)),
            name=name,
            version=version,
            active=version == self.active,
            base_instances=self.desired[name],
            standby=self.standby[name],
            max_concurrent=self.concurrent,
            pool_members=self.limit,
            waiting=self.waiting[name] if version == self.active else 0,
            rollout=self.rollout,
            rolled_from=version == self.came_from,
            template_id=TEMPLATE,
            serves=version == self.active,
        )

    def generation(self, key: Key) -> GenerationRows:
        made = tuple(self.made[key])
        history = CreationHistory()
        if any(one.failed for one in made):
            succeeded = max((one.created_at for one in made if not one.failed), default=None)
            history = CreationHistory(made, sum(one.failed for one in made), succeeded_at=succeeded)
        return GenerationRows(self.preset(key), list(self.rows[key].values()), history)

    def lately(self, name: str, version: int | None = None) -> int:
        keys = [key for key in self.claimed if key[0] == name and version in (None, key[1])]
        return (
            0
            if self.rollout is None
            else sum(at > self.now - self.took[name] for key in keys for at in self.claimed[key])
        )

    def whole(self) -> GlobalSnapshot:
        at = PresetSnapshot(taken_at=self.now, epoch=EPOCH, rules=RULES, preset=PRESET)
        found = []
        for key in self.keys():
            one = self.generation(key)
            counts = count_prebuilds(one.preset, one.prebuilds, at)
            own = self.lately(key[0], key[1])
            found.append(PresetCounts(one.preset, counts, one.history, self.lately(key[0]), own))
        return GlobalSnapshot(taken_at=self.now, rules=RULES, passes=self.passes, presets=found)

    def one(self, key: Key) -> PresetSnapshot:
        subject = self.generation(key)
        others = [self.generation(other) for other in self.keys() if other[0] == key[0] and other != key]
        active = self.preset((key[0], self.active)).id
        requested_id = active if self.rollout is not None else subject.preset.id
        return PresetSnapshot(
            taken_at=self.now,
            epoch=EPOCH,
            rules=RULES,
            preset=subject.preset,
            prebuilds=subject.prebuilds,
            history=subject.history,
            share=member_shares(self.whole()).get(requested_id),
            others=others if self.rollout is not None or self.concurrent is not None else [],
            lately=self.lately(key[0]),
        )

    def members(self, name: str | None = None) -> int:
        return sum(
            row.running or row.paused or row.in_progress in (START, PAUSE)
            for key, rows in self.rows.items()
            for row in rows.values()
            if name in (None, key[0])
        )

    def fresh_members(self, name: str) -> int:
        """Return the rows that nothing but the rollout deletes. `recreate` waits for no old build either."""
        waits = self.policy.strategy is not Strategy.RECREATE
        rows = [(key[1], row) for key, found in self.rows.items() if key[0] == name for row in found.values()]
        return self.members(name) - sum(
            (row.running and row.probe_failures > 1)
            or not (waits or version == self.version or row.in_progress not in (START, PAUSE))
            for version, row in rows
        )

    def under_way(self, key: Key) -> int:
        return sum(row.in_progress in (START, DELETE) for row in self.rows[key].values())

    def ready(self, name: str) -> int:
        return sum(row.claimable for key, rows in self.rows.items() for row in rows.values() if key[0] == name)

    def idle(self, name: str) -> dict[int, int]:
        """Return the paused prebuilds by version."""
        found = {key[1]: sum(row.paused for row in rows.values()) for key, rows in self.rows.items() if key[0] == name}
        return {version: count for version, count in found.items() if count}

    # --- What happens ---

    def happen(self, kind: str, name: str, number: int) -> None:  # noqa: PLR0912 - one case for each kind
        match kind:
            case "claim":
                for _ in range(number % 4 + 1):
                    self.claim(name)
            case "pass":
                self.reconcile(lost=("", "", "delete", "create")[number % 4])
            case "time":
                self.finish(timedelta(seconds=number))
            case "fail":
                running = [r for r in self.rows[name, self.active].values() if r.in_progress is START]
                for row in running[: number % 3]:
                    self.end((name, self.active), row, failed=True)
            case "version":
                self.activate()
            case "bad":
                self.bad = not self.bad
            case "desired":
                self.desired[name] = number % 8
            case "standby":
                self.standby[name] = number % 4
            case "wait":
                self.waiting[name] = number % 3
            case "limit" if self.limit is not None:
                self.limit = number
            case "invalidate":
                for key in self.keys():
                    for row in [r for r in self.rows[key].values() if key[0] == name and r.running]:
                        self.rows[key][row.id] = replace(row, probe_failures=2, claimable=False)
            case "pause" if self.rollout is not None:
                self.rollout = replace(self.rollout, state=(RolloutState.PAUSED, RolloutState.RUNNING)[number % 2])

    def activate(self) -> None:
        if self.rollout is None:
            self.came_from = self.active
        self.version += 1
        self.active = self.version
        self.bad = False
        self.rollout = Rollout(UUID(int=self.version), self.policy, RolloutState.RUNNING)

    def claim(self, name: str) -> None:
        for kind in ("claimable", "paused"):
            for version in range(self.version, 0, -1):
                rows = self.rows[name, version]
                found = sorted((r for r in rows.values() if getattr(r, kind)), key=lambda r: (r.created_at, r.id))
                if found:
                    del rows[found[0].id]
                    self.claimed[name, version].append(self.now)
                    return

    def finish(self, time: timedelta) -> None:
        """Let time pass; builds begin at once and last as long as `BUILD`."""
        self.now += time
        for key, rows in self.rows.items():
            for row in list(rows.values()):
                if row.status is PENDING:
                    rows[row.id] = replace(row, status=RUNNING)
                    self.begun[row.id] = self.now
                elif row.status is RUNNING and self.begun[row.id] <= self.now - BUILD:
                    creation = row.build_number == 1 and row.transition is START
                    self.end(key, row, failed=creation and self._is_bad(key))

    def _is_bad(self, key: Key) -> bool:
        return self.bad and key[0] in self.bad_names and key[1] == self.active

    def end(self, key: Key, row: Prebuild, *, failed: bool) -> None:
        rows = self.rows[key]
        if row.transition is DELETE:
            del rows[row.id]
            return
        if row.build_number == 1 and row.transition is START:
            self.made[key].insert(0, Creation(row.created_at, failed=failed))
            self.took[key[0]] = self.took[key[0]] if failed else self.now - row.created_at
        status = FAILED if failed else SUCCEEDED
        claimable = not failed and row.transition is START
        rows[row.id] = replace(row, status=status, claimable=claimable, ended_at=self.now)

    # --- Passes ---

    def reconcile(self, lost: str = "") -> PassPlan:
        """Run a pass over all presets. Their deletions or creations are lost when *lost* says so."""
        self.passes += 1
        plan = plan_pass(self.whole())
        ids = {self.preset(key).id: key for key in self.keys()}
        for decision in plan.decisions:
            child = plan_preset(self.one(ids[decision.item.preset.id]), self.passes)
            led = decision.generations is None or decision.generations.new is decision.item
            if led:
                assert decision.has_work is not child.empty, "a pass finds what a preset's plan does"
            else:
                assert not decision.has_work
        for outcome in judge_rollouts(plan):
            assert self.rollout is not None
            self.rollout = replace(self.rollout, state=outcome.state, progress=outcome.progress)
        if self.rollout is not None and self.rollout.state not in OPEN:
            self.rollout = None
        for preset_id in plan.presets_to_reconcile(100):
            if ids[preset_id] in self.keys():
                self.carry_out(ids[preset_id], lost)
        return plan

    def carry_out(self, key: Key, lost: str) -> None:
        """Carry the plan of one preset out, each step after a look at what there is then."""
        name = key[0]
        plan = plan_preset(self.one(key), self.passes)
        self.writes += len(plan.create) + len(plan.delete) + len(plan.cancel) + len(plan.resume) + len(plan.pause)
        for one in [k for k in self.keys() if k[0] == name]:
            self.rows[one] = {row.id: row for row in begin_moves(plan, self.move(one, plan))}
        if lost != "delete":
            self.delete(key, plan)
            canceled = {*plan.cancel} & {*plan_preset(self.one(key), self.passes).cancel} if plan.cancel else set()
            for rows in self.rows.values():
                for workspace in canceled & rows.keys():
                    del rows[workspace]
        if plan.create and lost != "create":
            again = plan_preset(self.one(key), self.passes, as_it_stands=True)
            allowed = len(again.create) if again.create_for == plan.create_for else 0
            share = self.one(key).share
            allowed = allowed if share is None else min(allowed, max(share.room, 0))
            number = plan.create_for.int // 100 if plan.create_for is not None else key[1]
            before = self.fresh_members(name)
            for workspace in plan.create[:allowed]:
                self.rows[name, number][workspace] = Prebuild(workspace, self.now, 1, START, PENDING)
            assert self.limit is None or not allowed or self.members() <= self.limit
            desired, standby = self.desired[name] + self.waiting[name], self.standby[name]
            most = desired + self.policy.surge(self.desired[name]) + standby + self.policy.surge(standby)
            surges = self.rollout is not None and self.policy.strategy is Strategy.SURGE
            assert not surges or self.fresh_members(name) <= max(before, most), "never more than two surges"
            if allowed:
                self.check_concurrent(name)

    def check_concurrent(self, name: str) -> None:
        under_way = sum(self.under_way(key) for key in self.keys() if key[0] == name)
        assert self.concurrent is None or under_way <= self.concurrent, "in all generations together"

    def move(self, key: Key, plan: ReconcilePlan) -> list[Prebuild]:
        moved = {*plan.resume, *plan.pause}
        return [replace(r, claimable=r.claimable and r.id not in moved) for r in self.rows[key].values()]

    def delete(self, key: Key, plan: ReconcilePlan) -> None:
        found = self.one(key)
        due = deletions(found)
        still_due = [i for i in plan.delete if i in due]
        if found.others or found.preset.max_concurrent is not None:
            still_due = still_due[: len(plan_preset(found, self.passes).delete)]
        for rows in self.rows.values():
            for workspace in set(still_due) & rows.keys():
                row = rows[workspace]
                rows[workspace] = replace(
                    row, transition=DELETE, status=PENDING, build_number=row.build_number + 1, claimable=False
                )
        if still_due:
            self.check_concurrent(key[0])

    def settle(self) -> PassPlan:
        """Run passes until nothing is under way and nothing is left to do, and return the last."""
        for _ in range(150):
            before = self.rollout
            plan = self.reconcile()
            unfinished = any(row.in_progress for rows in self.rows.values() for row in rows.values())
            if not unfinished and self.rollout == before and not any(one.has_work for one in plan.decisions):
                return plan
            self.finish(timedelta(seconds=6))
        pytest.fail("it does not come to rest")
