"""The metrics we keep. Free while `prebuilds.telemetry` exports nothing: the instruments are then empty calls.

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

from prebuilds.planning.plan import HELD_PAUSED, pool_state
from prebuilds.planning.snapshot import GlobalSnapshot, PresetCounts

CLAIM_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
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
    """Pools as the last pass of this worker saw them; dropped when it has run none for two intervals."""

    def __init__(self, interval: timedelta, clock: Callable[[], float] = time.monotonic) -> None:
        self._fresh_s = 2 * interval.total_seconds()
        self._clock = clock
        self._seen: tuple[float, float, GlobalSnapshot] | None = None
        meter = get_meter("prebuilds")
        for name, read in _GAUGES.items():
            meter.create_observable_gauge(f"prebuilds_{name}", callbacks=[self._callback(read)])
        meter.create_observable_gauge("prebuilds_held", callbacks=[self._held])
        meter.create_observable_gauge("prebuilds_reconciliation_paused", callbacks=[self._paused])
        meter.create_observable_gauge("prebuilds_last_pass_timestamp", unit="s", callbacks=[self._last_pass])

    def observe(self, snapshot: GlobalSnapshot) -> None:
        self._seen = (self._clock(), snapshot.taken_at.timestamp(), snapshot)

    def _current(self) -> GlobalSnapshot | None:
        if self._seen is None or self._clock() - self._seen[0] > self._fresh_s:
            return None
        return self._seen[2]

    def _callback(
        self, read: Callable[[GlobalSnapshot, PresetCounts], int]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            if (snapshot := self._current()) is not None:
                for item in snapshot.presets:
                    if item.preset.active:
                        yield Observation(read(snapshot, item), _labels(item))

        return observe

    def _held(self, _: CallbackOptions) -> Iterable[Observation]:
        if (snapshot := self._current()) is not None:
            for item in snapshot.presets:
                if item.preset.active:
                    yield Observation(int(snapshot.paused), {**_labels(item), "reason": HELD_PAUSED})

    def _paused(self, _: CallbackOptions) -> Iterable[Observation]:
        if (snapshot := self._current()) is not None:
            yield Observation(int(snapshot.paused))

    def _last_pass(self, _: CallbackOptions) -> Iterable[Observation]:
        if self._current() is not None and self._seen is not None:
            yield Observation(self._seen[1])


def _labels(item: PresetCounts) -> dict[str, str]:
    preset = item.preset
    return {
        "organization_name": preset.organization,
        "template_name": preset.template,
        "preset_name": preset.name,
    }


_GAUGES: dict[str, Callable[[GlobalSnapshot, PresetCounts], int]] = {
    "desired": lambda s, p: pool_state(p.preset, p.counts, s.taken_at).desired,
    "running": lambda _, p: p.counts.running,
    "eligible": lambda _, p: p.counts.eligible,
    "starting": lambda _, p: p.counts.starting,
}
