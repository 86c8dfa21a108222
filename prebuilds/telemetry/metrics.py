"""Counters and histograms of our metrics. While nothing is exported, recording them does nothing.

Labels come from small fixed sets and from names of organizations, templates and presets. An owner, an id or an error's
text is never a label.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from opentelemetry.metrics import get_meter

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
