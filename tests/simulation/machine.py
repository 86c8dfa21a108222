"""Everything at once, in any order: stale plans, claims, failing and slow builds, new versions, pauses, clock steps and
activities that run twice, over the real store; with what must hold checked after each step."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any, ClassVar
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, precondition, rule

from prebuilds.payloads import ClaimResult
from prebuilds.planning.capacity import Shares
from prebuilds.planning.pass_plan import PassPlan, plan_pass
from prebuilds.planning.plan import ReconcilePlan, deletions, plan_preset, state_of
from prebuilds.planning.rules import Rules
from prebuilds.planning.snapshot import PresetSnapshot, count_prebuilds
from prebuilds.store import control
from prebuilds.store.claims import Claimed
from prebuilds.store.jobs import cancel_jobs
from prebuilds.store.probes import count_probe_failure
from prebuilds.store.workspaces import release_workspace
from prebuilds.views import JobFilter
from prebuilds.vocabulary import PREBUILDS_USER_ID, BuildStatus, Transition
from tests.simulation.world import BUILDS, CLAIM_OWNERS, QUEUE, UNMATCHED, WORKSPACES, World

NAMES = ("small", "large")
KINDS = ("delete", "cancel", "create")
OUTCOMES = ("succeeded", "succeeded", "succeeded", "failed", "succeeded", "invalid", "canceled")
OVERTAKING = ("policy", "policy", "claim", "build", "version", "pause", "invalidate")
UNFINISHED = ("pending", "running", "canceling")
CLEARING_ROUNDS, SETTLING_ROUNDS = 3, 40

RULES = st.builds(
    Rules,
    failure_hard_limit=st.sampled_from([0, 1, 2, 3]),
    failed_retention=st.sampled_from([timedelta(0), timedelta(minutes=30)]),
    max_pending_builds=st.sampled_from([None, None, 1, 3]),
)
POLICIES = st.fixed_dictionaries(
    {
        "instances": st.sampled_from([2, 4, 1, 3, 0, None]),
        "expire_after": st.sampled_from(["0s", "1h"]),
        "window": st.sampled_from([None, None, 0, 3]),
    }
)
PRESET = st.sampled_from(NAMES)


class PoolMachine(RuleBasedStateMachine):
    """One hypothesis run is one deployment's life."""

    world: ClassVar[World]
    steps: ClassVar[Counter[str]] = Counter()
    """Of every run, by rule: what `make simulate` prints."""

    plans = Bundle("plans")

    def __init__(self) -> None:
        super().__init__()
        self.content = 0
        self.policies: dict[str, dict[str, Any]] = {}
        self.won: dict[UUID, tuple[str, str]] = {}
        """Workspace -> who claimed it under which claim id; released ones are taken out."""
        self.released: set[UUID] = set()
        self.decided: set[str] = set()
        """Claims in the queue that have their answer."""

    # --- A deployment ---

    @initialize(rules=RULES, policies=st.tuples(POLICIES, POLICIES))
    def begin(self, rules: Rules, policies: tuple[dict[str, Any], dict[str, Any]]) -> None:
        self.world.begin(rules)
        self.policies = dict(zip(NAMES, policies, strict=True))
        self._apply()
        self._count("schedules")

    @rule(preset=PRESET, policy=POLICIES)
    def change_policy(self, preset: str, policy: dict[str, Any]) -> None:
        before = {w.id: w.latest_build for w in self._workspaces()}
        self.policies[preset] = policy
        self._apply()
        assert {w.id: w.latest_build for w in self._workspaces()} == before, "policy touches no workspace"
        self._count("policy")

    @rule(again=st.booleans())
    def new_version(self, again: bool) -> None:
        """Another content, or the one before it once more."""
        self.content = max(self.content - 1, 0) if again else self.content + 1
        self._apply()
        self._count("version")

    @rule(deprecated=st.sampled_from([False, False, False, True]))
    def deprecate(self, deprecated: bool) -> None:
        self.world.execute("UPDATE templates SET deprecated = :deprecated", deprecated=deprecated)
        self._count("deprecate")

    @rule(preset=PRESET)
    def invalidate(self, preset: str) -> None:
        self.world.execute("UPDATE presets SET last_invalidated_at = now() WHERE name = :name", name=preset)
        self._count("invalidate")

    @rule(preset=PRESET)
    def lift_holds(self, preset: str) -> None:
        self.world.execute("UPDATE presets SET limit_reset_at = now() WHERE name = :name", name=preset)
        self._count("lift_holds")

    @rule(paused=st.sampled_from([False, False, False, True]))
    def pause(self, paused: bool) -> None:
        engine = self.world.engine
        self.world.run(control.pause(engine, "ops", "simulated") if paused else control.resume(engine, "ops"))
        self._count("pause")

    @rule(time=st.sampled_from([timedelta(seconds=1), timedelta(minutes=1), timedelta(minutes=31), timedelta(hours=3)]))
    def let_pass(self, time: timedelta) -> None:
        self.world.let_pass(time)
        self._count("clock")

    # --- Passes, whole and in pieces ---

    @rule(outcomes=st.lists(st.sampled_from(OUTCOMES), max_size=8))
    def run_pass(self, outcomes: list[str]) -> None:
        """A pass, and provisioners that are done with so many builds before anything else happens."""
        with _Watched(self):
            self.world.full_pass()
        self._count("pass")
        for outcome in outcomes:
            self.begin_build(0)
            self.end_build(0, outcome)

    @rule(target=plans, preset=PRESET)
    def plan_one(self, preset: str) -> Any:
        """A plan to be carried out later, when it is stale."""
        taken = self._plan()
        ids = [turn.item.preset.id for turn in taken.turns if turn.item.preset.name == preset]
        self._count("plan")
        return multiple(*[(self.world.plan(i, _share(taken.shares, i)), _share(taken.shares, i)) for i in ids])

    @rule(planned=plans, kind=st.sampled_from(KINDS), times=st.sampled_from([1, 1, 2, 3]))
    def carry_out(self, planned: tuple[ReconcilePlan, int | None], kind: str, times: int) -> None:
        """A frozen activity wakes up, perhaps twice at once."""
        plan, share = planned
        with _Watched(self):
            written = self.world.carry_out(plan, kind, share, times)
        if kind == "create":
            assert len({tuple(w.workspace_ids) for w in written}) <= 1, "each attempt answers alike"
        self._count(f"stale_{kind}")

    @rule(preset=PRESET, policy=POLICIES, outcome=st.sampled_from(OUTCOMES), what=st.sampled_from(OVERTAKING))
    def overtaken(self, preset: str, policy: dict[str, Any], outcome: str, what: str) -> None:
        """Between a plan and its writes, something else happens."""
        taken = self._plan()
        ids = [turn.item.preset.id for turn in taken.turns if turn.item.preset.name == preset]
        plans = [(self.world.plan(i, _share(taken.shares, i)), _share(taken.shares, i)) for i in ids]
        match what:
            case "policy":
                self.change_policy(preset, policy)
            case "version":
                self.new_version(again=False)
            case "pause":
                self.pause(paused=True)
            case "claim":
                self.claim(preset, "alice", len(self.won) + 100, 1)
            case "invalidate":
                self.invalidate(preset)
            case "build":
                self.begin_build(0)
                self.end_build(0, outcome)
        for planned in plans:
            for kind in KINDS:
                self.carry_out(planned, kind, 1)
        self._count(f"overtaken_{what}")

    @rule()
    def relay(self) -> None:
        self.world.relay()
        assert not self.world.rows(UNMATCHED), "nobody waits beside what is ready"
        self._count("relay")

    # --- Provisioners ---

    @rule(pick=st.integers(0, 1000))
    def begin_build(self, pick: int) -> None:
        if build := self._pick(pick, "pending"):
            self.world.begin_build(build.id)
            self._count("begin")

    @rule(
        pick=st.integers(0, 1000),
        outcome=st.sampled_from(OUTCOMES),
    )
    def end_build(self, pick: int, outcome: str) -> None:
        if build := self._pick(pick, "running", "canceling"):
            failed = outcome in ("failed", "invalid")
            status = BuildStatus.FAILED if failed else BuildStatus(outcome)
            error = {"invalid": "InvalidSource", "failed": "ProvisionFailed"}.get(outcome)
            self.world.end_build(build.id, status, error)
            self._count(f"end_{outcome}")

    @rule(pick=st.integers(0, 1000))
    def probe_fails(self, pick: int) -> None:
        idle = [w for w in self._workspaces() if w.claimable_preset_id is not None]
        if idle:
            chosen = idle[pick % len(idle)].id
            self.world.run(count_probe_failure(self.world.engine, chosen, apart=timedelta(0)))
            self._count("probe_fails")

    # --- People ---

    @rule(preset=PRESET, owner=st.sampled_from(CLAIM_OWNERS), n=st.integers(0, 30), times=st.sampled_from([1, 1, 2]))
    def claim(self, preset: str, owner: str, n: int, times: int) -> None:
        """A claim; under an id used before, the same answer or a refusal."""
        claim_id = f"claim-{n}"
        answers = self.world.claim(preset, owner, f"w{n}", claim_id, times)
        for answer in answers:
            if isinstance(answer, Claimed) and answer.result is not None:
                self._won(answer.result)
        self._count("claim")

    @rule(preset=PRESET, owner=st.sampled_from(CLAIM_OWNERS), n=st.integers(0, 8))
    def wait(self, preset: str, owner: str, n: int) -> None:
        """A claim that queues; some wait under a name that is taken when their turn comes."""
        if found := self.world.wait(preset, owner, f"w{n}", f"wait-{n}"):
            self._won(found)
        self._count("wait")

    @rule(n=st.integers(0, 8), look=st.booleans())
    def stand(self, n: int, look: bool) -> None:
        """A waiting claim's workflow looks itself up, or leaves."""
        if found := self.world.leave(f"wait-{n}", look=look):
            self._won(found)
        self._count("look" if look else "leave")

    @precondition(lambda self: self.won)
    @rule(pick=st.integers(0, 1000))
    def release(self, pick: int) -> None:
        workspace = sorted(self.won)[pick % len(self.won)]
        self.released.add(workspace)
        del self.won[workspace]
        self.world.run(release_workspace(self.world.engine, str(workspace), "ops"))
        self._count("release")

    @rule(status=st.sampled_from([BuildStatus.PENDING, BuildStatus.RUNNING]))
    def cancel_jobs(self, status: BuildStatus) -> None:
        """An operator clears the pool's queue."""
        claims = {b.id: b.status for b in self.world.rows(BUILDS) if b.stage == "claim"}
        self.world.run(cancel_jobs(self.world.engine, JobFilter(initiator="prebuilds", status=[status]), "ops"))
        assert {b.id: b.status for b in self.world.rows(BUILDS) if b.stage == "claim"} == claims
        self._count("cancel_jobs")

    # --- What must hold ---

    @invariant()
    def claimed_workspaces_are_their_owners_alone(self) -> None:
        if not self.won:
            return
        rows = {w.id: w for w in self._workspaces()}
        for workspace, (owner, _) in self.won.items():
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
    def counts_and_rows_decide_alike(self) -> None:
        """A preset is skipped exactly when its plan would be empty."""
        plan = self._plan()
        for turn in plan.turns:
            rows = self.world.preset(turn.item.preset.id)
            assert count_prebuilds(rows.preset, rows.prebuilds, rows) == turn.item.counts
            child = plan_preset(rows, 0, _share(plan.shares, rows.preset.id))
            assert turn.has_work is not child.empty
            assert child.held == (turn.held.reason if turn.held and not child.more else child.held)

    def teardown(self) -> None:
        """Left alone, without faults, it comes to rest at what is desired, and then does nothing more."""
        if not self.policies:
            return
        self.world.run(control.resume(self.world.engine, "ops"))
        for round_ in range(SETTLING_ROUNDS):
            if round_ < CLEARING_ROUNDS:  # past every backoff, retry and retention; what waits for somebody is lifted
                self.world.let_pass(timedelta(hours=2))
                self.world.execute("UPDATE presets SET limit_reset_at = now()")
            self.world.relay()
            worked = self.world.full_pass()
            unfinished = [b for b in self.world.rows(BUILDS) if b.status in UNFINISHED]
            for build in unfinished:
                if build.status == "pending":
                    self.world.begin_build(build.id)
                self.world.end_build(build.id, BuildStatus.SUCCEEDED)
            if not worked and not unfinished and round_ >= CLEARING_ROUNDS:
                break
        else:
            raise AssertionError("it does not come to rest")
        for turn in self._plan().turns:
            state = turn.state
            assert (state.missing, state.extraneous, state.expired, state.starting) == (0, 0, 0, 0)
            assert state.eligible == state.desired
            assert state.active or not state.actual

    # --- Steps' parts ---

    def _won(self, result: ClaimResult) -> None:
        workspace, holder = result.workspace_id, (result.owner, result.claim_id)
        assert self.won.get(workspace, holder) == holder, "a workspace is won once"
        held = [w for w, (_, c) in self.won.items() if c == result.claim_id]
        assert held in ([], [workspace]), "a claim id holds one workspace"
        if workspace not in self.released:
            self.won[workspace] = holder

    def _apply(self) -> None:
        presets = []
        for name, policy in self.policies.items():
            preset = {
                "name": name,
                "parameters": {"content": str(self.content)},
                "expire_after": policy["expire_after"],
            }
            if policy["instances"] is not None:
                preset["instances"] = policy["instances"]
                if policy["window"] is not None:
                    preset |= {"timezone": "UTC", "schedule": [{"cron": "* * * * *", "instances": policy["window"]}]}
            presets.append(preset)
        self.world.apply(*presets)

    def _plan(self) -> PassPlan:
        return plan_pass(self.world.snapshot())

    def _workspaces(self) -> list[Any]:
        return self.world.rows(WORKSPACES)

    def _pick(self, pick: int, *statuses: str) -> Any:
        found = [b for b in self.world.rows(BUILDS) if b.status in statuses]
        return found[pick % len(found)] if found else None

    def _count(self, name: str) -> None:
        self.steps[name] += 1


class _Watched:
    """What the pool's own writes may change, of each preset: checked around one step."""

    def __init__(self, machine: PoolMachine) -> None:
        self._world = machine.world

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
        limit = self._world.rules.max_pending_builds
        if limit is not None and any(_created(self._before[i], after[i]) for i in self._before if i in after):
            assert len(self._pending_builds()) <= max(limit, len(self._pending))

    def _pools(self) -> dict[UUID, PresetSnapshot]:
        ids = [turn.item.preset.id for turn in plan_pass(self._world.snapshot()).turns]
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
    if created:
        state = state_of(now)
        assert now.preset.active
        assert state_of(replace(was, taken_at=now.taken_at)).held is None, "what is held creates nothing"
        assert count_prebuilds(now.preset, now.prebuilds, now).fresh + state.starting <= state.target
    assert begun <= set(deletions(replace(was, taken_at=now.taken_at))), "only what is due is deleted"
    if was.preset.active:
        left = count_prebuilds(now.preset, now.prebuilds, now).fresh
        had = count_prebuilds(was.preset, was.prebuilds, now).fresh
        assert left >= min(had, state_of(was).target), "never a good one at or below what is desired"


def _share(shares: Shares | None, preset_id: UUID) -> int | None:
    return None if shares is None else shares.pending_max(preset_id)
