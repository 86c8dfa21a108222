"""Gauges of open rollouts and running canaries, by template, from the loop's last pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from opentelemetry.metrics import CallbackOptions, Observation, get_meter

from prebuilds.planning.pass_plan import PassPlan
from prebuilds.planning.rollout_outcomes import CanaryFigures
from prebuilds.planning.rollouts import OPEN, Rollout


class RolloutGauges:
    """Exports the rollouts of a plan and the canaries that were read with it. An ended one leaves no gauge."""

    def __init__(self, plan: Callable[[], PassPlan | None], canaries: Callable[[], Sequence[CanaryFigures]]) -> None:
        """Create the gauges.

        Args:
            plan: Returns the plan to export now; None for no plan.
            canaries: Returns the plan's canaries.
        """
        self._plan = plan
        self._canaries = canaries
        meter = get_meter("prebuilds")
        for name, (observe, description) in {
            "rollout_progress_ratio": (
                self._observe_progress,
                "Part of the prebuilds that an open rollout has replaced, from 0 to 1",
            ),
            "rollout_state": (self._observe_state, "1 for the state of an open rollout, 0 for the others"),
            "canary_share_ratio": (
                self._observe_share,
                "Part of a pool and of its claims that a canary gets, from 0 to 1",
            ),
            "canary_claims": (
                self._observe_claims,
                "Claims by name that were served while a canary runs, by the version that served them",
            ),
            "canary_sample": (
                self._observe_sample,
                "What has ended of a canary's new version, by kind and by whether it was bad",
            ),
        }.items():
            meter.create_observable_gauge(f"prebuilds_{name}", callbacks=[observe], description=description)

    def _open(self) -> Iterator[tuple[Rollout, dict[str, str]]]:
        """Return each open rollout once, with its labels."""
        plan = self._plan()
        shown = set()
        for one in () if plan is None else plan.decisions:
            preset = one.item.preset
            if preset.rollout is not None and preset.rollout.id not in shown:
                shown.add(preset.rollout.id)
                yield preset.rollout, _labels(preset.organization, preset.template)

    def _running(self) -> Sequence[CanaryFigures]:
        return () if self._plan() is None else self._canaries()

    def _observe_progress(self, _: CallbackOptions) -> Iterable[Observation]:
        for rollout, labels in self._open():
            yield Observation(rollout.progress / 100, labels)

    def _observe_state(self, _: CallbackOptions) -> Iterable[Observation]:
        for rollout, labels in self._open():
            for state in OPEN:
                yield Observation(int(rollout.state is state), labels | {"state": state})

    def _observe_share(self, _: CallbackOptions) -> Iterable[Observation]:
        for one in self._running():
            policy = one.canary.rollout.policy.canary
            if policy is not None:
                yield Observation(policy.percent / 100, _labels_of(one))

    def _observe_claims(self, _: CallbackOptions) -> Iterable[Observation]:
        for one in self._running():
            yield Observation(one.new_claims, _labels_of(one) | {"version": "new"})
            yield Observation(one.claims - one.new_claims, _labels_of(one) | {"version": "old"})

    def _observe_sample(self, _: CallbackOptions) -> Iterable[Observation]:
        for one in self._running():
            for kind, (ended, bad) in one.evidence.kinds.items():
                yield Observation(bad, _labels_of(one) | {"kind": kind, "result": "bad"})
                yield Observation(ended - bad, _labels_of(one) | {"kind": kind, "result": "good"})


def _labels_of(one: CanaryFigures) -> dict[str, str]:
    return _labels(one.canary.organization, one.canary.template)


def _labels(organization: str, template: str) -> dict[str, str]:
    return {"organization_name": organization, "template_name": template}
