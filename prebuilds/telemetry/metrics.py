"""The metrics we keep. While nothing is exported, the instruments are empty calls.

Labels come from small fixed sets and from names of organizations, templates and presets: never an owner, an id or an
error's text.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from opentelemetry.metrics import CallbackOptions, Observation, get_meter

from prebuilds.planning.holds import Hold
from prebuilds.planning.pass_plan import PassPlan, PresetDecision
from prebuilds.planning.snapshot import PresetCounts
from prebuilds.planning.state import PoolState

CLAIM_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
PASS_BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BUILD_BUCKETS_S = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 180.0, 600.0, 1800.0)


@dataclass
class TimedClaim:
    source: str | None = None
    """`prebuilt` or `created`; None when nothing was handed out."""


class Metrics:
    """Counters and histograms."""

    def __init__(self) -> None:
        meter = get_meter("prebuilds")
        self._created = meter.create_counter("prebuilds_created", description="Prebuilds that became ready")
        self._failed = meter.create_counter("prebuilds_failed", description="Prebuilds whose creation failed")
        self._claimed = meter.create_counter("prebuilds_claimed", description="Prebuilds handed to a person")
        self._misses = meter.create_counter("prebuilds_claim_misses", description="Claims that found nothing ready")
        self._replaced = meter.create_counter(
            "prebuilds_resource_replacements", description="Claims whose infrastructure was rebuilt"
        )
        self._claim_s = meter.create_histogram(
            "prebuilds_claim_duration",
            unit="s",
            description="A claim's decision, from its activity's start",
            explicit_bucket_boundaries_advisory=CLAIM_BUCKETS_S,
        )
        self._build_s = meter.create_histogram(
            "prebuilds_build_duration",
            unit="s",
            description="A build, from its record to its end",
            explicit_bucket_boundaries_advisory=BUILD_BUCKETS_S,
        )
        self._pass_s = meter.create_histogram(
            "prebuilds_pass_duration",
            unit="s",
            description="A pass, from its snapshot until its presets are done",
            explicit_bucket_boundaries_advisory=PASS_BUCKETS_S,
        )

    @contextmanager
    def time_claim(self) -> Iterator[TimedClaim]:
        timed, begun = TimedClaim(), time.perf_counter()
        yield timed
        if timed.source is not None:
            self._claim_s.record(time.perf_counter() - begun, {"source": timed.source})

    def claim_decided(self, labels: Mapping[str, str], miss_reason: str | None) -> None:
        if miss_reason is None:
            self._claimed.add(1, labels)
        else:
            self._misses.add(1, {**labels, "reason": miss_reason})

    def pass_ended(self, duration: timedelta) -> None:
        self._pass_s.record(duration.total_seconds())

    def build_ended(
        self,
        labels: Mapping[str, str],
        *,
        transition: str,
        stage: str,
        status: str,
        duration: timedelta,
        replaced: bool,
    ) -> None:
        outcome = {"transition": transition, "stage": stage, "status": status}
        self._build_s.record(duration.total_seconds(), {**labels, **outcome})
        if stage == "create" and status in ("succeeded", "failed"):
            (self._created if status == "succeeded" else self._failed).add(1, labels)
        if replaced:
            self._replaced.add(1, labels)


METRICS = Metrics()


class PoolGauges:
    """Pools as the loop's last pass saw them; dropped when there was none for two of the loop's intervals.

    Passes run in whichever control worker takes them. The others look for themselves (`GaugeKeeper`), so that no series
    comes and goes with the worker that ran the last pass.
    """

    def __init__(self, interval: timedelta, clock: Callable[[], float] = time.monotonic) -> None:
        """*interval* is the deployment's, until a pass says what the loop's is."""
        self.interval = interval
        self._clock = clock
        self._seen: tuple[float, PassPlan] | None = None
        meter = get_meter("prebuilds")
        for name, read in _GAUGES.items():
            meter.create_observable_gauge(f"prebuilds_{name}", callbacks=[self._callback(read)])
        meter.create_observable_gauge("prebuilds_claims_waiting", callbacks=[self._waiting])
        meter.create_observable_gauge("prebuilds_held", callbacks=[self._held])
        meter.create_observable_gauge("prebuilds_reconciliation_paused", callbacks=[self._paused])
        meter.create_observable_gauge("prebuilds_last_pass_timestamp", unit="s", callbacks=[self._last_pass])

    def observe(self, plan: PassPlan, interval: timedelta | None = None) -> None:
        """Show *plan* from now on. *interval* is the loop's; None for the one known so far."""
        self.interval = interval or self.interval
        self._seen = self._clock(), plan

    @property
    def age(self) -> timedelta | None:
        """How long ago a pass was observed; None: none was."""
        return None if self._seen is None else timedelta(seconds=self._clock() - self._seen[0])

    @property
    def shown(self) -> bool:
        """Whether a scrape finds them now."""
        return self._current() is not None

    def _current(self) -> PassPlan | None:
        age = self.age
        if self._seen is None or age is None or age > 2 * self.interval:
            return None
        return self._seen[1]

    def _active(self) -> Iterable[PresetDecision]:
        plan = self._current()
        return [turn for turn in plan.decisions if turn.state.active] if plan is not None else []

    def _callback(self, read: Callable[[PoolState], int]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            for turn in self._active():
                yield Observation(read(turn.state), _labels(turn.item))

        return observe

    def _waiting(self, _: CallbackOptions) -> Iterable[Observation]:
        for turn in self._active():
            yield Observation(turn.item.preset.waiting, _labels(turn.item))

    def _held(self, _: CallbackOptions) -> Iterable[Observation]:
        for turn in self._active():
            held = turn.held.reason if turn.held is not None else None
            for reason in Hold:
                yield Observation(int(reason is held), {**_labels(turn.item), "reason": reason})

    def _paused(self, _: CallbackOptions) -> Iterable[Observation]:
        if (plan := self._current()) is not None:
            yield Observation(int(plan.paused))

    def _last_pass(self, _: CallbackOptions) -> Iterable[Observation]:
        if (plan := self._current()) is not None:
            yield Observation(plan.taken_at.timestamp())


def _labels(item: PresetCounts) -> dict[str, str]:
    preset = item.preset
    return {
        "organization_name": preset.organization,
        "template_name": preset.template,
        "preset_name": preset.name,
    }


_GAUGES: dict[str, Callable[[PoolState], int]] = {
    "desired": lambda state: state.desired,
    "running": lambda state: state.actual,
    "eligible": lambda state: state.eligible,
    "starting": lambda state: state.starting,
    "schedule_unreadable": lambda state: int(state.unreadable_schedule is not None),
}
