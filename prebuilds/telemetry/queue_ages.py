"""Gauges of how long the oldest entries of queues have waited."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta

from opentelemetry.metrics import CallbackOptions, Observation, get_meter


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
        """Export these ages from now on; none for an empty mapping, as after a failed read."""
        self._ages = ages

    def _observe(self, _: CallbackOptions) -> Iterable[Observation]:
        for queue, age in self._ages.items():
            yield Observation(age.total_seconds(), {"queue": queue})
