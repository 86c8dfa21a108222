"""The invariants of a simulated deployment: after each step, around a write of the pool, and once no faults occur."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any, ClassVar
from uuid import UUID

from hypothesis.stateful import RuleBasedStateMachine, invariant

from prebuilds.payloads import ClaimResult
from prebuilds.planning.capacity import Shares
from prebuilds.planning.generations import generations_of
from prebuilds.planning.pass_plan import PassPlan, plan_pass
from prebuilds.planning.plan import deletions, plan_preset, state_of
from prebuilds.planning.snapshot import PresetSnapshot, count_prebuilds
from prebuilds.store import loop
from prebuilds.vocabulary import PREBUILDS_USER_ID, BuildStatus, Transition
from tests.simulation.world import BUILDS, CANARIES, QUEUE, WORKSPACES, World

UNFINISHED = ("pending", "running", "canceling")
COUNTED = (Transition.START, Transition.DELETE)
CLEARING_ROUNDS, SETTLING_ROUNDS = 3, 200


class Checked(RuleBasedStateMachine):
    """A deployment without rules of its own, checked after each step."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.policies: dict[str, dict[str, Any]] = {}
        self.template: dict[str, Any] = {}
        """Its rollout and canary."""
        self.pool_members: int | None = None
        self.claimed: dict[UUID, tuple[str, str]] = {}
        """Workspace -> who claimed it under which claim id; released ones are taken out."""
        self.released: set[UUID] = set()
        self.decided: set[str] = set()
        """Claims in the queue that have their answer."""

    @invariant()
    def claimed_workspaces_are_their_owners_alone(self) -> None:
        if not self.claimed:
            return
        rows = {w.id: w for w in self._workspaces()}
        for workspace, (owner, _) in self.claimed.items():
            assert rows[workspace].owner == owner
            assert rows[workspace].deleted_at is None
        claimed_at = {b.workspace_id: b.number for b in self.world.rows(BUILDS) if b.stage == "claim"}
        for build in self.world.rows(BUILDS):
            assert not build.pool or build.number < claimed_at.get(build.workspace_id, build.number + 1)

    @invariant()
    def the_queue_is_served_in_its_order(self) -> None:
        queue = self.world.rows(QUEUE)
        for row in queue:
            if row.decided and row.claim_id not in self.decided:
                before = [q for q in queue if (q.template_id, q.preset_name) == (row.template_id, row.preset_name)]
                assert not [q for q in before if not q.decided and q.live and q.position < row.position]
        self.decided = {row.claim_id for row in queue if row.decided}

    @invariant()
    def a_workspace_repeats_its_latest_build(self) -> None:
        for w in self._workspaces():
            assert (w.latest_build, w.latest_transition, w.latest_status) == (w.number, w.transition, w.status)
            ready = w.claimable_preset_id is not None
            if ready:
                assert (w.transition, w.status, w.owner_id) == ("start", "succeeded", PREBUILDS_USER_ID)

    @invariant()
    def canaries_serve_their_share(self) -> None:
        for canary in self.world.rows(CANARIES) if "canary" in self.template else ():
            assert 100 * canary.new_claims <= canary.percent * canary.claims

    @invariant()
    def counts_and_rows_decide_alike(self) -> None:
        """A preset is skipped exactly when its plan would be empty."""
        plan = self._plan()
        for turn in plan.decisions:
            if turn.generations is not None and turn.generations.new is not turn.item:
                assert not turn.has_work, "the newest generation has the work of all"
                continue
            rows = self.world.preset(turn.item.preset.id)
            assert count_prebuilds(rows.preset, rows.prebuilds, rows) == turn.item.counts
            child = plan_preset(rows, 0, share_of(plan.shares, rows.preset.id))
            assert turn.has_work is not child.empty
            assert child.held == (turn.held.reason if turn.held and not child.more else child.held)

    def teardown(self) -> None:
        """Without further faults the deployment reaches its desired state and then does nothing more."""
        if not self.policies:
            return
        self.world.run(loop.resume(self.world.engine, "ops"))
        # Builds that wait for claims, or for an operator who makes room, wait no longer.
        self.template = {key: value for key, value in self.template.items() if key != "canary"}
        self.pool_members = None
        self._apply()
        for round_ in range(SETTLING_ROUNDS):
            if (
                round_ < CLEARING_ROUNDS
            ):  # past every backoff, retry and retention; holds that need an operator are lifted
                self.world.let_pass(timedelta(hours=2))
                self.world.execute("UPDATE presets SET limit_reset_at = now()")
            self.world.relay()
            worked = self.world.full_pass()
            unfinished = [b for b in self.world.rows(BUILDS) if b.status in UNFINISHED]
            for build in unfinished:
                if build.status == "pending":
                    self.world.begin_build(build.id)
                self.world.end_build(build.id, BuildStatus.SUCCEEDED)
            if worked or unfinished or round_ < CLEARING_ROUNDS:
                continue
            if not any(turn.has_work for turn in self._plan().decisions):  # as when the pass has ended a rollout
                break
        else:
            raise AssertionError("it does not come to rest")
        for turn in self._plan().decisions:
            state = turn.state
            assert (state.missing, state.extraneous, state.expired, state.starting) == (0, 0, 0, 0), turn
            assert state.eligible == state.desired
            counts, standby = turn.item.counts, turn.item.preset.standby if state.active else 0
            assert (counts.paused, counts.pausing) == (standby, 0)
            assert state.active or not state.actual

    def _note_claim(self, result: ClaimResult) -> None:
        workspace, holder = result.workspace_id, (result.owner, result.claim_id)
        assert self.claimed.get(workspace, holder) == holder, "a workspace is claimed once"
        held = [w for w, (_, c) in self.claimed.items() if c == result.claim_id]
        assert held in ([], [workspace]), "a claim id holds one workspace"
        if workspace not in self.released:
            self.claimed[workspace] = holder

    def _apply(self) -> None:
        """Apply the policies and the template."""
        raise NotImplementedError

    def _plan(self) -> PassPlan:
        return plan_pass(self.world.snapshot())

    def _workspaces(self) -> list[Any]:
        return self.world.rows(WORKSPACES)


class Watched:
    """Check the changes that the pool's own writes may make to each preset, around one step."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __enter__(self) -> None:
        self._before = self._pools()
        self._pending = self._pending_builds()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            return
        after = self._pools()
        for preset_id, was in self._before.items():
            now = after.get(preset_id)
            if now is not None:
                _check(was, now)
        _check_limits(self._before, after)
        limit = self._world.rules.max_pending_builds
        if limit is not None and any(_created(self._before[i], after[i]) for i in self._before if i in after):
            assert len(self._pending_builds()) <= max(limit, len(self._pending))

    def _pools(self) -> dict[UUID, PresetSnapshot]:
        ids = [turn.item.preset.id for turn in plan_pass(self._world.snapshot()).decisions]
        return {i: self._world.preset(i) for i in ids}

    def _pending_builds(self) -> list[Any]:
        return [b for b in self._world.rows(BUILDS) if b.pool and b.status == "pending"]


def _created(was: PresetSnapshot, now: PresetSnapshot) -> set[UUID]:
    return {p.id for p in now.prebuilds} - {p.id for p in was.prebuilds}


def _check(was: PresetSnapshot, now: PresetSnapshot) -> None:
    created = _created(was, now)
    deleting = {p.id for p in now.prebuilds if p.in_progress is Transition.DELETE}
    begun = deleting - {p.id for p in was.prebuilds if p.in_progress is Transition.DELETE}
    if was.paused:
        assert not created | begun, "a pause withholds every write"
    if generations_of(was) is not None or generations_of(now) is not None:
        _check_generations(was, now)
        return
    if created:
        state = state_of(now)
        assert now.preset.active
        assert state_of(replace(was, taken_at=now.taken_at)).held is None, "a held preset creates nothing"
        most = state.target + now.preset.standby
        assert count_prebuilds(now.preset, now.prebuilds, now).fresh + state.starting <= most
    assert begun <= set(deletions(replace(was, taken_at=now.taken_at))), "only due members are deleted"
    if was.preset.active:
        left = count_prebuilds(now.preset, now.prebuilds, now).fresh
        had = count_prebuilds(was.preset, was.prebuilds, now).fresh
        least = state_of(was).target if was.share is None else min(state_of(was).target, was.share.most)
        assert left >= min(had, least), "never a good one at or below the desired count"


def _check_limits(before: dict[UUID, PresetSnapshot], after: dict[UUID, PresetSnapshot]) -> None:
    """A write's creations are within the limits of its pool, over all generations, and of its organization."""
    created = {i: _created(was, after[i]) for i, was in before.items() if i in after}
    members = sum(count_prebuilds(now.preset, now.prebuilds, now).members for now in after.values())
    limits = {now.preset.pool_members for now in after.values()}
    for limit in limits - {None} if any(created.values()) else ():
        assert members <= limit, "no more pool members than the organization may have"
    under_way = {i: {p.id for p in now.prebuilds if p.in_progress in COUNTED} for i, now in after.items()}
    for one in after.values():
        limit = one.preset.max_concurrent
        pool = [i for i in after if after[i].preset.name == one.preset.name]
        begun = [i for i in pool if i in before and _begun(before[i], after[i])]
        if one.preset.serves and limit is not None and begun:
            assert sum(len(under_way[i]) for i in pool) <= limit, "of all generations together"


def _begun(was: PresetSnapshot, now: PresetSnapshot) -> set[UUID]:
    """Return the creations and deletions that a write has begun."""
    deleting = {p.id for p in was.prebuilds if p.in_progress is Transition.DELETE}
    return _created(was, now) | {p.id for p in now.prebuilds if p.in_progress is Transition.DELETE} - deleting


def _check_generations(was: PresetSnapshot, now: PresetSnapshot) -> None:
    """Check a preset whose pool has several generations: only planned members are deleted, and the bounds hold."""
    before, after = (generations_of(replace(one, taken_at=now.taken_at)) for one in (was, now))
    if before is None or after is None:
        return
    totals = before.pool.total, after.pool.total
    assert totals[1] <= max(totals[0], after.pool.limit), "never more than the surge allows"
    least = before.pool.desired - before.pool.policy.unavailable(before.pool.desired) - before.pool.lately
    assert after.pool.ready >= min(before.pool.ready, least), "never fewer ready than the policy allows"


def share_of(shares: Shares | None, preset_id: UUID) -> int | None:
    return None if shares is None else shares.pending_max(preset_id)
