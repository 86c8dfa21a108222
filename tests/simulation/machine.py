"""Everything at once, in any order: stale plans, claims, failing and slow builds, new versions, pauses, clock steps and
activities that run twice, over the real store; the invariants are checked after each step."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, initialize, multiple, precondition, rule

from prebuilds.planning.plan import ReconcilePlan
from prebuilds.planning.rules import Rules
from prebuilds.store import loop
from prebuilds.store.claims import ClaimOutcome
from prebuilds.store.jobs import cancel_jobs
from prebuilds.store.probes import count_probe_failure
from prebuilds.store.workspaces import release_workspace
from prebuilds.views import JobFilter
from prebuilds.vocabulary import BuildStatus
from tests.simulation.must_hold import Checked, Watched, share_of
from tests.simulation.world import ACTIVE_PRESETS, BUILDS, CLAIM_OWNERS, CONTENTS, UNMATCHED

NAMES = ("small", "large")
KINDS = ("move", "delete", "cancel", "create")
OUTCOMES = ("succeeded", "succeeded", "succeeded", "failed", "succeeded", "invalid", "canceled")
OVERTAKING = ("policy", "policy", "claim", "build", "version", "pause", "invalidate")

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
        "window": st.sampled_from([None, None, {"instances": 0}, {"instances": 3}, {"min": 2}]),
        "standby": st.sampled_from([0, 0, 1, 2]),
        "max_concurrent": st.sampled_from([None, None, 1, 3]),
    }
)
CANARY = {"percent": 50, "for": "30m", "min_claims": 1, "max_failure": "50%"}
TEMPLATES = st.sampled_from(
    [
        {},
        {"rollout": {"max_surge": 1, "max_unavailable": 1}},
        {"rollout": {"strategy": "recreate"}},
        {"canary": CANARY},
    ]
)
POOL_MEMBERS = st.sampled_from([None, None, 3, 6])
PRESET = st.sampled_from(NAMES)


class PoolMachine(Checked):
    """One hypothesis run is one deployment's life."""

    steps: ClassVar[Counter[str]] = Counter()
    """Of every run, by rule: what `make simulate` prints."""

    plans = Bundle("plans")

    def __init__(self) -> None:
        super().__init__()
        self.content = dict.fromkeys(NAMES, 0)

    # --- A deployment ---

    @initialize(rules=RULES, policies=st.tuples(POLICIES, POLICIES), template=TEMPLATES, pool_members=POOL_MEMBERS)
    def begin(
        self,
        rules: Rules,
        policies: tuple[dict[str, Any], dict[str, Any]],
        template: dict[str, Any],
        pool_members: int | None,
    ) -> None:
        self.world.begin(rules)
        self.template, self.pool_members = template, pool_members
        self.policies = dict(zip(NAMES, policies, strict=True))
        self._apply()
        # Hypothesis leaves some rules out of each run, so a few runs may have no pass and no claim of their own.
        self.run_pass(["succeeded"])
        self.claim("small", "alice", 0, 1)
        self._count("schedules")

    @rule(preset=PRESET, policy=POLICIES)
    def change_policy(self, preset: str, policy: dict[str, Any]) -> None:
        before = {w.id: w.latest_build for w in self._workspaces()}
        self.policies[preset] = policy
        self._apply()
        assert {w.id: w.latest_build for w in self._workspaces()} == before, "policy touches no workspace"
        self._count("policy")

    @rule(pool_members=POOL_MEMBERS)
    def limit_pools(self, pool_members: int | None) -> None:
        self.pool_members = pool_members
        self._apply()
        self._count("limit_pools")

    @rule(presets=st.sampled_from([*[(name,) for name in NAMES], NAMES]), again=st.booleans())
    def new_version(self, presets: tuple[str, ...], again: bool) -> None:
        """Other content of some presets, or the one before it once more. The pools of the others stay as they are."""
        before = set(self._workspaces()), dict(self.world.rows(ACTIVE_PRESETS))
        for name in presets:
            self.content[name] = max(self.content[name] - 1, 0) if again else self.content[name] + 1
        self._apply()
        ids = before[1] | {name: id_ for name, id_ in self.world.rows(ACTIVE_PRESETS) if name in presets}
        assert (set(self._workspaces()), dict(self.world.rows(ACTIVE_PRESETS))) == (before[0], ids)
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
        self.world.run(loop.pause(engine, "ops", "simulated") if paused else loop.resume(engine, "ops"))
        self._count("pause")

    @rule(time=st.sampled_from([timedelta(seconds=1), timedelta(minutes=1), timedelta(minutes=31), timedelta(hours=3)]))
    def let_pass(self, time: timedelta) -> None:
        self.world.let_pass(time)
        self._count("clock")

    # --- Passes, whole and in pieces ---

    @rule(outcomes=st.lists(st.sampled_from(OUTCOMES), max_size=8))
    def run_pass(self, outcomes: list[str]) -> None:
        """A pass, and provisioners that finish this many builds before anything else happens."""
        with Watched(self.world):
            self.world.full_pass()
        # A canary that has failed has made the content before active again.
        self.content = {name: int(value) for name, value in self.world.rows(CONTENTS)}
        self._count("pass")
        for outcome in outcomes:
            self.begin_build(0)
            self.end_build(0, outcome)

    @rule(target=plans, preset=PRESET)
    def plan_one(self, preset: str) -> Any:
        """A plan to be carried out later, when it is stale."""
        taken = self._plan()
        ids = [turn.item.preset.id for turn in taken.decisions if turn.item.preset.name == preset]
        self._count("plan")
        return multiple(*[(self.world.plan(i, share_of(taken.shares, i)), share_of(taken.shares, i)) for i in ids])

    @rule(planned=plans, kind=st.sampled_from(KINDS), times=st.sampled_from([1, 1, 2, 3]))
    def carry_out(self, planned: tuple[ReconcilePlan, int | None], kind: str, times: int) -> None:
        """A frozen activity wakes up, perhaps twice at once."""
        plan, share = planned
        with Watched(self.world):
            written = self.world.carry_out(plan, kind, share, times)
        if kind == "create":
            assert len({tuple(w.workspace_ids) for w in written}) <= 1, "each attempt answers alike"
        self._count(f"stale_{kind}")

    @rule(preset=PRESET, policy=POLICIES, outcome=st.sampled_from(OUTCOMES), what=st.sampled_from(OVERTAKING))
    def overtaken(self, preset: str, policy: dict[str, Any], outcome: str, what: str) -> None:
        """Between a plan and its writes, something else happens."""
        taken = self._plan()
        ids = [turn.item.preset.id for turn in taken.decisions if turn.item.preset.name == preset]
        plans = [(self.world.plan(i, share_of(taken.shares, i)), share_of(taken.shares, i)) for i in ids]
        match what:
            case "policy":
                self.change_policy(preset, policy)
            case "version":
                self.new_version((preset,), again=False)
            case "pause":
                self.pause(paused=True)
            case "claim":
                self.claim(preset, "alice", len(self.claimed) + 100, 1)
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
        assert not self.world.rows(UNMATCHED), "no claim waits while a prebuild is ready"
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
            if isinstance(answer, ClaimOutcome) and answer.result is not None:
                self._note_claim(answer.result)
        self._count("claim")

    @rule(preset=PRESET, owner=st.sampled_from(CLAIM_OWNERS), n=st.integers(0, 8))
    def wait(self, preset: str, owner: str, n: int) -> None:
        """A claim that queues; some wait under a name that is taken when their turn comes."""
        if found := self.world.wait(preset, owner, f"w{n}", f"wait-{n}"):
            self._note_claim(found)
        self._count("wait")

    @rule(n=st.integers(0, 8), look=st.booleans())
    def stand(self, n: int, look: bool) -> None:
        """A waiting claim's workflow looks itself up, or leaves."""
        if found := self.world.leave(f"wait-{n}", look=look):
            self._note_claim(found)
        self._count("look" if look else "leave")

    @precondition(lambda self: self.claimed)
    @rule(pick=st.integers(0, 1000))
    def release(self, pick: int) -> None:
        workspace = sorted(self.claimed)[pick % len(self.claimed)]
        self.released.add(workspace)
        del self.claimed[workspace]
        self.world.run(release_workspace(self.world.engine, str(workspace), "ops"))
        self._count("release")

    @rule(status=st.sampled_from([BuildStatus.PENDING, BuildStatus.RUNNING]))
    def cancel_jobs(self, status: BuildStatus) -> None:
        """An operator clears the pool's queue."""
        claims = {b.id: b.status for b in self.world.rows(BUILDS) if b.stage == "claim"}
        self.world.run(cancel_jobs(self.world.engine, JobFilter(initiator="prebuilds", status=[status]), "ops"))
        assert {b.id: b.status for b in self.world.rows(BUILDS) if b.stage == "claim"} == claims
        self._count("cancel_jobs")

    # --- Steps' parts ---

    def _apply(self) -> None:
        presets = []
        for name, policy in self.policies.items():
            preset = {
                "name": name,
                "parameters": {"content": str(self.content[name])},
                "expire_after": policy["expire_after"],
                "max_concurrent": policy["max_concurrent"],
            }
            if policy["instances"] is not None:
                preset |= {"instances": policy["instances"], "standby": {"paused": policy["standby"]}}
                if policy["window"] is not None:
                    preset |= {"timezone": "UTC", "schedule": [{"cron": "* * * * *", **policy["window"]}]}
            presets.append(preset)
        limits = None if self.pool_members is None else {"pool_members": self.pool_members}
        self.world.apply(*presets, limits=limits, **self.template)

    def _pick(self, pick: int, *statuses: str) -> Any:
        found = [b for b in self.world.rows(BUILDS) if b.status in statuses]
        return found[pick % len(found)] if found else None

    def _count(self, name: str) -> None:
        self.steps[name] += 1
