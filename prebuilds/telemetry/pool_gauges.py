"""Gauges of the pools, from the loop's last pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta

from opentelemetry.metrics import CallbackOptions, Observation, get_meter

from prebuilds.planning.holds import Hold
from prebuilds.planning.pass_plan import PassPlan, PresetDecision
from prebuilds.planning.rollout_outcomes import CanaryFigures
from prebuilds.planning.snapshot import PresetCounts
from prebuilds.planning.state import PoolState
from prebuilds.telemetry.rollout_gauges import RolloutGauges


class PoolGauges:
    """Gauges of the pools, from the loop's last pass. They vanish when there was no pass for two of its intervals.

    A pass runs in any one of the control workers. The other workers read the pools by themselves (`GaugeKeeper`), so
    that no series comes and goes with the worker that ran the last pass.
    """

    def __init__(self, interval: timedelta, clock: Callable[[], float] = time.monotonic) -> None:
        """Create the gauges.

        Args:
            interval: The deployment's interval between passes; used until a pass says what the loop's interval is.
            clock: A monotonic clock in seconds.
        """
        self.interval = interval
        self._clock = clock
        self._seen: tuple[float, PassPlan] | None = None
        self._canaries: Sequence[CanaryFigures] = ()
        self._rollouts = RolloutGauges(self._current_plan, lambda: self._canaries)
        meter = get_meter("prebuilds")
        for name, (read, description) in _GAUGES.items():
            meter.create_observable_gauge(
                f"prebuilds_{name}", callbacks=[self._make_callback(read)], description=description
            )
        meter.create_observable_gauge(
            "prebuilds_claims_waiting", callbacks=[self._observe_waiting], description="Claims that wait for a prebuild"
        )
        meter.create_observable_gauge(
            "prebuilds_standby",
            callbacks=[self._observe_standby],
            description="Paused prebuilds of presets that keep some",
        )
        meter.create_observable_gauge(
            "prebuilds_held",
            callbacks=[self._observe_held],
            description="1 for the reason why a preset creates nothing, 0 for the others",
        )
        meter.create_observable_gauge(
            "prebuilds_reconciliation_paused",
            callbacks=[self._observe_paused],
            description="1 while an operator has paused the loop",
        )
        meter.create_observable_gauge(
            "prebuilds_last_pass_timestamp",
            unit="s",
            callbacks=[self._observe_last_pass],
            description="When the last pass took its snapshot, by the database's clock",
        )

    def observe(
        self, plan: PassPlan, interval: timedelta | None = None, canaries: Sequence[CanaryFigures] = ()
    ) -> None:
        """Export the pools of *plan* from now on.

        Args:
            interval: The loop's interval between passes; None keeps the current one.
            canaries: The running canaries.
        """
        self._canaries = canaries
        self.interval = interval or self.interval
        self._seen = self._clock(), plan

    @property
    def age(self) -> timedelta | None:
        """How long ago a plan was observed; None when none was."""
        return None if self._seen is None else timedelta(seconds=self._clock() - self._seen[0])

    @property
    def shown(self) -> bool:
        """Whether a scrape finds the gauges now."""
        return self._current_plan() is not None

    def _current_plan(self) -> PassPlan | None:
        """The last plan; None when there is none, or it is older than two intervals."""
        age = self.age
        if self._seen is None or age is None or age > 2 * self.interval:
            return None
        return self._seen[1]

    def _active_presets(self) -> Iterable[PresetDecision]:
        plan = self._current_plan()
        return [preset for preset in plan.decisions if preset.state.active] if plan is not None else []

    def _make_callback(self, read: Callable[[PoolState], int]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            for preset in self._active_presets():
                yield Observation(read(preset.state), _labels(preset.item))

        return observe

    def _observe_waiting(self, _: CallbackOptions) -> Iterable[Observation]:
        for preset in self._active_presets():
            yield Observation(preset.item.preset.waiting, _labels(preset.item))

    def _observe_standby(self, _: CallbackOptions) -> Iterable[Observation]:
        for preset in self._active_presets():
            if preset.item.preset.standby or preset.item.counts.paused:
                yield Observation(preset.item.counts.paused, _labels(preset.item))

    def _observe_held(self, _: CallbackOptions) -> Iterable[Observation]:
        for preset in self._active_presets():
            held = preset.held.reason if preset.held is not None else None
            for reason in Hold:
                yield Observation(int(reason is held), {**_labels(preset.item), "reason": reason})

    def _observe_paused(self, _: CallbackOptions) -> Iterable[Observation]:
        if (plan := self._current_plan()) is not None:
            yield Observation(int(plan.paused))

    def _observe_last_pass(self, _: CallbackOptions) -> Iterable[Observation]:
        if (plan := self._current_plan()) is not None:
            yield Observation(plan.taken_at.timestamp())


def _labels(item: PresetCounts) -> dict[str, str]:
    preset = item.preset
    return {
        "organization_name": preset.organization,
        "template_name": preset.template,
        "preset_name": preset.name,
    }


_GAUGES: dict[str, tuple[Callable[[PoolState], int], str]] = {
    "desired": (lambda state: state.desired, "Prebuilds that the pool should have"),
    "running": (lambda state: state.actual, "Prebuilds that the pool has, ready or not"),
    "eligible": (lambda state: state.eligible, "Prebuilds that a claim may get now"),
    "starting": (lambda state: state.starting, "Prebuilds that are being made"),
    "schedule_unreadable": (
        lambda state: int(state.unreadable_schedule is not None),
        "1 for a preset whose schedule cannot be read",
    ),
}
"""Gauge -> function that reads its value, and description."""
