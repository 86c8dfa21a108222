"""Our metrics. While nothing is exported, recording them does nothing.

Labels come from small fixed sets and from names of organizations, templates and presets. An owner, an id or an error's
text is never a label.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from opentelemetry.metrics import CallbackOptions, Observation, get_meter

from prebuilds.planning.holds import Hold
from prebuilds.planning.pass_plan import PassPlan, PresetDecision
from prebuilds.planning.rollout_outcomes import CanaryFigures
from prebuilds.planning.snapshot import PresetCounts
from prebuilds.planning.state import PoolState
from prebuilds.telemetry.rollout_gauges import RolloutGauges

CLAIM_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0)
PASS_BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BUILD_BUCKETS_S = (0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 180.0, 600.0, 1800.0)


ClaimPhase = Literal["target", "statement", "queue", "wait"]
"""A part of a claim: finding its preset; the database's decision; joining the queue; waiting there until it is handed a
prebuild. The hand-over that follows is a build of the stage `claim`."""


@dataclass
class TimedClaim:
    """A claim whose decision is being timed."""

    end_phase: Callable[[ClaimPhase], None]
    """To be called as each phase ends. A phase begins where the one before ended."""
    source: str | None = None
    """`prebuilt`, `paused` or `created`, set by the caller; None if no workspace was handed out."""


class Metrics:
    """The counters and histograms of this process."""

    def __init__(self) -> None:
        meter = get_meter("prebuilds")
        self._created = meter.create_counter("prebuilds_created", description="Prebuilds that became ready")
        self._failed = meter.create_counter("prebuilds_failed", description="Prebuilds whose creation failed")
        self._claimed = meter.create_counter("prebuilds_claimed", description="Prebuilds handed to a person")
        self._misses = meter.create_counter("prebuilds_claim_misses", description="Claims that found nothing ready")
        self._replaced = meter.create_counter(
            "prebuilds_resource_replacements", description="Claims whose infrastructure was rebuilt"
        )
        self._removed = meter.create_counter(
            "prebuilds_rows_removed", description="Rows removed from a table since they were older than their retention"
        )
        self._claim_s = meter.create_histogram(
            "prebuilds_claim_duration",
            unit="s",
            description="A claim's decision, from its activity's start",
            explicit_bucket_boundaries_advisory=CLAIM_BUCKETS_S,
        )
        self._phase_s = meter.create_histogram(
            "prebuilds_claim_phase_duration",
            unit="s",
            description="One phase of a claim",
            explicit_bucket_boundaries_advisory=CLAIM_BUCKETS_S,
        )
        self._build_s = meter.create_histogram(
            "prebuilds_build_duration",
            unit="s",
            description="A build, from its record to its end",
            explicit_bucket_boundaries_advisory=BUILD_BUCKETS_S,
        )
        self._drills = meter.create_counter("prebuilds_drills", description="Drills that have ended, by their outcome")
        self._rollouts = meter.create_counter("prebuilds_rollouts", description="Outcomes of rollouts")
        self._canaries = meter.create_counter("prebuilds_canaries", description="Canaries that have ended, by outcome")
        self._pass_s = meter.create_histogram(
            "prebuilds_pass_duration",
            unit="s",
            description="A pass, from its snapshot until its presets are done",
            explicit_bucket_boundaries_advisory=PASS_BUCKETS_S,
        )

        self._slots = meter.create_up_down_counter("prebuilds_slots", description="Slots of this worker, by queue")
        self._slots_used = meter.create_up_down_counter(
            "prebuilds_slots_used", description="Slots of this worker that work now, by queue"
        )

    def add_slots(self, queue: str, number: int) -> None:
        """Count slots that this process has for a task queue; those of its host's own queue count there, too."""
        self._slots.add(number, {"queue": _without_host(queue)})

    @contextmanager
    def use_slot(self, queue: str) -> Iterator[None]:
        """Count a slot of a task queue as used during the block."""
        label = {"queue": _without_host(queue)}
        self._slots_used.add(1, label)
        try:
            yield
        finally:
            self._slots_used.add(-1, label)

    @contextmanager
    def time_claim(self) -> Iterator[TimedClaim]:
        """Time the block as a claim's decision. Nothing is recorded when the caller leaves `source` None."""
        begun = phase_begun = time.perf_counter()

        def end_phase(phase: ClaimPhase) -> None:
            nonlocal phase_begun
            ended = time.perf_counter()
            self._phase_s.record(ended - phase_begun, {"phase": phase})
            phase_begun = ended

        timed = TimedClaim(end_phase)
        yield timed
        if timed.source is not None:
            self._claim_s.record(time.perf_counter() - begun, {"source": timed.source})

    def count_claim(self, labels: Mapping[str, str], miss_reason: str | None) -> None:
        """Count a decided claim: as a miss with its reason, or with None as a prebuild handed to a person."""
        if miss_reason is None:
            self._claimed.add(1, labels)
        else:
            self._misses.add(1, {**labels, "reason": miss_reason})

    def record_wait(self, waited: timedelta) -> None:
        """Record how long a claim has waited in the queue until it was handed a prebuild."""
        self._phase_s.record(waited.total_seconds(), {"phase": "wait"})

    def count_removed(self, rows: Mapping[str, int]) -> None:
        """Count rows that retention has removed, by table."""
        for table, number in rows.items():
            self._removed.add(number, {"table": table})

    def count_drill(self, labels: Mapping[str, str], outcome: str) -> None:
        """Count a drill that has ended: succeeded, failed or skipped."""
        self._drills.add(1, {**labels, "result": outcome})

    def count_rollout(self, labels: Mapping[str, str], outcome: str) -> None:
        """Count an outcome of a rollout: succeeded, failed, superseded or undone. A failed rollout may still
        continue."""
        self._rollouts.add(1, {**labels, "result": outcome})

    def count_canary(self, labels: Mapping[str, str], outcome: str) -> None:
        """Count a canary that has ended: passed, failed, or ended without a verdict."""
        self._canaries.add(1, {**labels, "result": outcome})

    def record_pass(self, duration: timedelta) -> None:
        """Record a pass that has ended."""
        self._pass_s.record(duration.total_seconds())

    def record_build(
        self,
        labels: Mapping[str, str],
        *,
        transition: str,
        stage: str,
        status: str,
        duration: timedelta,
        replaced: bool,
    ) -> None:
        """Record a build that has ended.

        Args:
            duration: From the build's record to its end.
            replaced: Whether it replaced resources of a claimed workspace.
        """
        # Without the preset: buckets times outcomes times presets would be tens of thousands of series.
        outcome = {"transition": transition, "stage": stage, "status": status}
        self._build_s.record(duration.total_seconds(), outcome)
        if stage == "create" and status in ("succeeded", "failed"):
            (self._created if status == "succeeded" else self._failed).add(1, labels)
        if replaced:
            self._replaced.add(1, labels)


def _without_host(queue: str) -> str:
    return queue.partition("@")[0]


METRICS = Metrics()


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
"""Gauge -> how it is read, and what it is."""


class QueueAges:
    """How long the oldest entry of each queue has waited: by `queue`, in seconds; 0 for an empty queue."""

    def __init__(self) -> None:
        self._ages: Mapping[str, timedelta] = {}
        get_meter("prebuilds").create_observable_gauge(
            "prebuilds_queue_age",
            unit="s",
            callbacks=[self._observe],
            description="How long the oldest entry of a queue has waited",
        )

    def show(self, ages: Mapping[str, timedelta]) -> None:
        """Show these ages from now on; none for an empty mapping, as when they could not be read."""
        self._ages = ages

    def _observe(self, _: CallbackOptions) -> Iterable[Observation]:
        for queue, age in self._ages.items():
            yield Observation(age.total_seconds(), {"queue": queue})
