"""The order in which test files are handed out: the longest first, so that both cores end at the same time.

xdist would begin with the files of the most tests, and leave those of one test that takes a minute for the end.

The files that share a running stack come before all others. Each worker process of xdist has such a stack, and an idle
one takes a twentieth of a core, so it ends as early as it can.
"""

from __future__ import annotations

from pathlib import Path

import pytest

SECONDS = {
    "e2e/test_conformance.py": 60,
    "e2e/test_inventory.py": 52,  # before the kills, whose hosts no worker serves any more: it asks every host
    "upgrade/test_upgrade.py": 30,
    "upgrade/test_worker_versions.py": 25,
    "e2e/test_kills.py": 25,
    "e2e/test_reconciling.py": 20,
    "e2e/container/test_claims.py": 35,
    "e2e/test_kill_steps.py": 25,
    "e2e/test_two_hosts.py": 30,
    "e2e/test_dev.py": 30,
    "e2e/terraform/test_claims.py": 20,
    "faults/test_storm.py": 12,
    "rollouts/test_campaign.py": 30,
    "faults/test_away.py": 45,
    "e2e/test_page.py": 45,
    "workflow/test_client.py": 25,
    "late/test_late.py": 25,
    "e2e/test_operating.py": 25,
    "e2e/test_waiting_claims.py": 25,
    "e2e/test_compose_apart.py": 20,
    "e2e/test_bench.py": 15,
    "e2e/container/test_owners.py": 25,
    "e2e/test_readme.py": 20,
    "e2e/test_installed.py": 20,
    "e2e/test_embedded.py": 20,
    "e2e/test_binding.py": 20,
    "e2e/test_stack_start.py": 20,
    "fuzz/test_fuzz.py": 20,
    "inputs/test_inputs.py": 20,
    "e2e/terraform/test_workspaces.py": 11,
    "e2e/terraform/test_interrupted.py": 11,
    "e2e/container/test_starts.py": 20,
    "simulation/test_simulation.py": 11,
    "secrets/test_search.py": 15,
    "e2e/test_traces.py": 15,
    "e2e/test_claims_and_jobs.py": 15,
    "e2e/test_cli.py": 15,
    "e2e/test_doctor.py": 15,
    "e2e/test_http.py": 30,
    "e2e/test_restore.py": 15,
    "postgres/test_hot_statements.py": 20,
    "postgres/test_claim_races.py": 12,
    "postgres/test_claim_queue.py": 12,
}
"""About how long the slow files take on a quiet machine with two cores. A number that is wrong costs time alone, but
where a comment says more."""
OTHERS = {"e2e": 10, "postgres": 5, "workflow": 4, "replay": 3, "unit": 1}
"""A file that is not named above, by its folder."""


def seconds_of(file: Path, tests: Path) -> float:
    """Return the approximate seconds of a test file. *tests* is the folder of all tests."""
    parts = file.relative_to(tests).parts
    return SECONDS.get("/".join(parts), OTHERS.get(parts[0], 10))


def uses_shared_stack(item: pytest.Item) -> bool:
    """Return True for a test with the stack of `tests/e2e/conftest.py`, False for one with its own or without."""
    return "shared_stack" in getattr(item, "fixturenames", ())


def order(items: list[pytest.Item], tests: Path) -> None:
    """Sort all tests in place. Each file's tests stay together, in its order. *tests* is the folder of all tests."""
    first = {item.path for item in items if uses_shared_stack(item)}
    items.sort(key=lambda item: (item.path not in first, -seconds_of(item.path, tests)))
