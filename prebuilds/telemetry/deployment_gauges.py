"""Gauges of a deployment's surroundings: its database, its notifications, what its hosts have. Each control worker
shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from opentelemetry.metrics import CallbackOptions, Observation, get_meter

from prebuilds.planning.health import DeploymentHealth


class DeploymentGauges:
    """Shows the health that was read last. While it cannot be read, only `prebuilds_database_reachable` is left."""

    def __init__(self) -> None:
        self._reachable: bool | None = None
        self._health: DeploymentHealth | None = None
        meter = get_meter("prebuilds")
        meter.create_observable_gauge(
            "prebuilds_database_reachable",
            callbacks=[self._observe_reachable],
            description="1 while this control worker can read the database, else 0",
        )
        meter.create_observable_gauge(
            "prebuilds_clock_skew",
            unit="s",
            callbacks=[self._make_callback(lambda health: health.clock_ahead_s)],
            description="How far the database's clock is ahead of this worker's; negative if behind",
        )
        meter.create_observable_gauge(
            "prebuilds_inventory_findings",
            callbacks=[self._observe_findings],
            description="Workspaces with a finding of the inventory",
        )
        for name, (read, description) in _GAUGES.items():
            meter.create_observable_gauge(
                f"prebuilds_{name}", callbacks=[self._make_callback(read)], description=description
            )

    def show_reachable(self, reachable: bool) -> None:
        """Show whether the database could be read. Where it could not, the health read before vanishes."""
        self._reachable = reachable
        if not reachable:
            self._health = None

    def show(self, health: DeploymentHealth | None) -> None:
        """Show this health from now on; None shows none, as when it could not be read."""
        self._health = health

    def _make_callback(
        self, read: Callable[[DeploymentHealth], float]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            if self._health is not None:
                yield Observation(read(self._health))

        return observe

    def _observe_reachable(self, _: CallbackOptions) -> Iterable[Observation]:
        if self._reachable is not None:
            yield Observation(int(self._reachable))

    def _observe_findings(self, _: CallbackOptions) -> Iterable[Observation]:
        if self._health is not None:
            for finding, count in self._health.findings.items():
                yield Observation(count, {"finding": finding})


_GAUGES: dict[str, tuple[Callable[[DeploymentHealth], float], str]] = {
    "schema_mismatch": (
        lambda health: int(not health.schema_matches),
        "1 while the database has the schema of another release than this worker",
    ),
    "loop_stopped": (lambda health: int(health.loop_stopped), "1 while an operator has stopped the loop"),
    "database_connections": (lambda health: health.connections, "Connections to the database server"),
    "database_connections_max": (
        lambda health: health.connections_max,
        "The most connections that the database server accepts",
    ),
    "notifications_failing": (
        lambda health: health.notifications_failing,
        "Notifications that failed and will be retried",
    ),
    "notifications_given_up": (
        lambda health: health.notifications_given_up,
        "Notifications that were given up in the last day",
    ),
}
"""Gauge -> how it is read, and what it is."""
