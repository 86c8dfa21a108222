"""Decides from a pass's plan whether each open rollout has succeeded, failed or made progress."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from prebuilds.planning.canaries import CanaryEvidence
from prebuilds.planning.holds import Held, Hold
from prebuilds.planning.pass_plan import PassPlan, PresetDecision
from prebuilds.planning.rollouts import Rollout, RolloutState


@dataclass(frozen=True, slots=True)
class RolloutOutcome:
    """A change of a rollout since the last pass."""

    rollout: Rollout
    """The rollout as the snapshot has it."""
    state: RolloutState
    reason: str | None
    """Why it failed; None if it did not."""
    progress: int
    """Percentage of members that are new and ready."""
    preset_ids: tuple[UUID, ...]
    """The presets of the new version that replace older ones."""


def judge_rollouts(plan: PassPlan) -> list[RolloutOutcome]:
    """Return the open rollouts whose state or progress has changed; none while everything is paused.

    A rollout has succeeded when each pool that it replaces has its desired count ready, or the part of it that a limit
    on pool members allows, no older members are left, and no canary runs. Members of the new version that were claimed
    within the last lead time count as ready; older ones do not, since they show nothing about the new version. A
    rollout has failed while creations of a new preset are held until somebody acts.
    """
    by_rollout: dict[UUID, list[PresetDecision]] = defaultdict(list)
    if not plan.paused:
        for one in plan.decisions:
            if one.item.preset.rollout is not None:
                by_rollout[one.item.preset.rollout.id].append(one)
    return [outcome for found in by_rollout.values() if (outcome := _judge(found)) is not None]


def lacks_room(one: PresetDecision) -> bool:
    """Return whether a pool's rollout makes no progress because the limit on pool members leaves no room for its surge.

    It continues when somebody raises the limit or allows members to be unavailable, and by one member with each claim.
    """
    pool = one.generations
    if pool is None or pool.new is not one.item or one.held != Held(Hold.POOL_MEMBERS) or one.creates or one.deletes:
        return False
    every = [item.counts for item in pool.all]
    replaced = sum(item.counts.running for item in pool.old)
    return bool(replaced) and not any(counts.starting or counts.deleting for counts in every)


@dataclass(frozen=True, slots=True)
class RunningCanary:
    """A running canary."""

    rollout: Rollout
    template_id: UUID
    organization: str
    template: str
    """The template's name."""
    paused: bool
    """Whether it gets no verdict now, since its rollout or all reconciliation is paused."""
    held: Mapping[UUID, str]
    """Presets of the new version that replace others and whose creations are held until somebody acts -> the preset's
    name and hold."""


@dataclass(frozen=True, slots=True)
class CanaryFigures:
    """A running canary, with the figures of its new version."""

    canary: RunningCanary
    evidence: CanaryEvidence
    claims: int
    """Number of claims by name that were served while it ran."""
    new_claims: int
    """Number of these that the new version has served."""


def canaries_of(plan: PassPlan) -> list[RunningCanary]:
    """Return the running canaries."""
    found: dict[UUID, RunningCanary] = {}
    for one in plan.decisions:
        preset = one.item.preset
        rollout = preset.rollout
        if rollout is None or not rollout.canary or preset.template_id is None:
            continue
        held = {} if rollout.id not in found else dict(found[rollout.id].held)
        if one.generations is not None and preset.active and _held_for_good(one):
            held[preset.id] = f"{preset.name}: {_reason_of(one)}"
        paused = plan.paused or rollout.state is RolloutState.PAUSED
        found[rollout.id] = RunningCanary(
            rollout, preset.template_id, preset.organization, preset.template, paused, held
        )
    return list(found.values())


def _judge(decisions: Sequence[PresetDecision]) -> RolloutOutcome | None:
    rollout = decisions[0].item.preset.rollout
    assert rollout is not None  # noqa: S101 - the caller has grouped by it
    old: dict[str, list[PresetDecision]] = defaultdict(list)
    for one in decisions:
        if not one.state.active:
            old[one.item.preset.name].append(one)
    new = [one for one in decisions if one.state.active and one.item.preset.name in old]
    if not any(one.state.active for one in decisions) and _is_switched_off(decisions):
        return None
    ready = sum(min(one.state.eligible + one.item.lately_own, _desired(one)) for one in new)
    desired = sum(_desired(one) for one in new)
    progress = 100 * ready // desired if desired else 100
    state, reason = RolloutState.RUNNING, None
    failed = [one for one in new if _held_for_good(one)]
    if rollout.state is RolloutState.PAUSED:
        state = RolloutState.PAUSED
    elif failed:
        state = RolloutState.FAILED
        reason = ", ".join(f"{one.item.preset.name}: {_reason_of(one)}" for one in failed)
    elif (rollout.canary and new) or any(_is_left(other) for one in new for other in old[one.item.preset.name]):
        pass
    elif ready == desired:
        state = RolloutState.SUCCEEDED
    if (state, progress) == (rollout.state, rollout.progress):
        return None
    return RolloutOutcome(rollout, state, reason, progress, tuple(one.item.preset.id for one in new))


def _is_switched_off(decisions: Sequence[PresetDecision]) -> bool:
    """Return whether the new version's pools are inactive, since the template is deprecated or prebuilds are off. A new
    version without pools is not switched off: nothing is left to roll out."""
    return any(not one.item.preset.rolled_from and one.item.preset.base_instances is not None for one in decisions)


def _desired(decision: PresetDecision) -> int:
    """Return the desired count, or the part of it that a limit on pool members allows."""
    return decision.state.desired if decision.generations is None else decision.generations.pool.desired


def _held_for_good(decision: PresetDecision) -> bool:
    return decision.state.held is not None and decision.state.held.reason.lasts


def _reason_of(decision: PresetDecision) -> str:
    held = decision.state.held
    return "" if held is None else str(held.reason)


def _is_left(decision: PresetDecision) -> bool:
    """Return whether an older generation has members that run or are being made."""
    counts = decision.item.counts
    return counts.running + counts.starting + counts.paused + counts.pausing > 0
