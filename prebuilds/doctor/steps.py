"""The checks of `prebuilds doctor` in the order of its report: what each needs, and what to do where one fails."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from prebuilds.doctor import fairness, remedies
from prebuilds.doctor.examination import Examination
from prebuilds.failures.temporal import START_TEMPORAL

CHECK_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class Step:
    """A check with its name, its dependencies and its fallback remedy."""

    name: str
    check: Callable[[Examination], Coroutine[Any, Any, str]]
    """Returns its finding, or raises."""
    remedy: str
    """Printed after a timeout or an unexpected error."""
    needs: tuple[str, ...] = ()
    """Checks that must be ok before this one runs."""
    after: tuple[str, ...] = ()
    """Checks that must have ended before this one runs, ok or not."""
    timeout_s: float = CHECK_TIMEOUT_S


STEPS = (
    Step("settings", Examination.settings, "correct the PREBUILDS_* variables"),
    Step("isolation", Examination.isolation, remedies.SEE_ISOLATION, needs=("settings",)),
    Step("disks", Examination.disks, remedies.FREE_SPACE, needs=("settings",)),
    Step("database", Examination.database, remedies.START_DATABASE, needs=("settings",)),
    Step("schema_version", Examination.schema_version, remedies.MIGRATE, needs=("database",)),
    Step("state_key", Examination.state_key, remedies.SET_STATE_KEY, needs=("schema_version",)),
    Step("temporal", Examination.temporal, START_TEMPORAL, needs=("settings",)),
    Step("deployment", Examination.deployment, START_TEMPORAL, needs=("schema_version", "temporal")),
    Step("payload_key", Examination.payload_key, START_TEMPORAL, needs=("deployment",)),
    Step("search_attributes", Examination.search_attributes, remedies.REGISTER_ATTRIBUTES, needs=("temporal",)),
    Step("task_queues", Examination.task_queues, START_TEMPORAL, needs=("deployment",)),
    Step("clock_skew", Examination.clock_skew, remedies.CORRECT_CLOCKS, needs=("database",), after=("fairness",)),
    Step("loop", Examination.loop, remedies.SEE_WHY_NO_PASS, needs=("deployment",)),
    Step("history", Examination.history, remedies.START_DATABASE, needs=("schema_version",)),
    Step("presets", Examination.presets, remedies.START_DATABASE, needs=("schema_version",)),
    Step("limits", Examination.limits, remedies.START_DATABASE, needs=("schema_version",)),
    Step("drills", Examination.drills, remedies.START_DATABASE, needs=("schema_version",)),
    Step("tokens", Examination.tokens, remedies.START_DATABASE, needs=("schema_version",)),
    Step("notifications", Examination.notifications, remedies.START_DATABASE, needs=("schema_version",)),
    Step("fairness", Examination.fairness, START_TEMPORAL, needs=("deployment",), timeout_s=fairness.TIMEOUT_S + 1),
)
"""All checks, in the order of the report."""
