"""Gauges of drills, by template. Each control worker exports them from the database."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from opentelemetry.metrics import CallbackOptions, Observation, get_meter

from prebuilds.views import DrillState


class DrillGauges:
    """Exports the state of each template's drills."""

    def __init__(self) -> None:
        self._states: Sequence[DrillState] = ()
        meter = get_meter("prebuilds")
        for name, (read, unit, description) in _GAUGES.items():
            meter.create_observable_gauge(
                f"prebuilds_drill_{name}", unit=unit, callbacks=[self._make_callback(read)], description=description
            )

    def show(self, states: Sequence[DrillState]) -> None:
        """Export these states from now on; none if they could not be read."""
        self._states = states

    def _make_callback(
        self, read: Callable[[DrillState], float | None]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            for state in self._states:
                if (value := read(state)) is not None:
                    labels = {"organization_name": state.organization, "template_name": state.template}
                    yield Observation(value, labels)

        return observe


_GAUGES: dict[str, tuple[Callable[[DrillState], float | None], str, str]] = {
    "last_success_timestamp": (
        lambda state: None if state.succeeded_at is None else state.succeeded_at.timestamp(),
        "s",
        "When the last drill of the template that succeeded has ended",
    ),
    "duration": (
        lambda state: state.usable_seconds,
        "s",
        "From the claim until the workspace was ready, in the last drill that succeeded",
    ),
    "failed": (lambda state: int(state.failed), "", "1 while the newest drill that was not skipped has failed"),
    "stale": (lambda state: int(state.stale), "", "1 after two scheduled times in a row without a success"),
}
"""Gauge -> function that reads its value (None hides it), unit, and description."""
