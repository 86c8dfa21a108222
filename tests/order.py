"""The order in which test files are handed out: the longest first, so that both cores end at the same time.

xdist would begin with the files of the most tests, and leave those of one test that takes a minute for the end.
"""

from __future__ import annotations

from pathlib import Path

SECONDS = {
    "simulation/test_simulation.py": 75,
    "e2e/test_kills.py": 75,
    "e2e/test_conformance.py": 70,
    "postgres/test_claim_races.py": 55,
    "e2e/test_inventory.py": 52,  # before the kills, whose hosts no worker serves any more: it asks every host
    "e2e/container/test_claims.py": 50,
    "e2e/test_reconciling.py": 50,
    "e2e/test_two_hosts.py": 40,
    "e2e/test_dev.py": 40,
    "e2e/terraform/test_claims.py": 35,
    "e2e/test_waiting_claims.py": 35,
    "e2e/test_installed.py": 35,
    "faults/test_storm.py": 30,
    "faults/test_away.py": 35,
    "late/test_late.py": 30,
    "secrets/test_search.py": 30,
    "e2e/test_kill_steps.py": 30,
    "e2e/terraform/test_interrupted.py": 30,
    "e2e/test_readme.py": 25,
    "e2e/test_http.py": 25,
    "e2e/test_operating.py": 25,
    "e2e/test_claims_and_jobs.py": 25,
    "e2e/test_restore.py": 25,
    "e2e/test_embedded.py": 25,
    "e2e/test_binding.py": 25,
    "e2e/test_bench.py": 25,
    "e2e/container/test_owners.py": 25,
    "fuzz/test_fuzz.py": 20,
    "e2e/test_services.py": 20,
    "e2e/test_stack_start.py": 20,
}
"""About how long the slow files take on a quiet machine with two cores. A number that is wrong costs time alone, but
where a comment says more."""
OTHERS = {"e2e": 10, "postgres": 5, "workflow": 4, "replay": 3, "unit": 1}
"""A file that is not named above, by its folder."""


def seconds_of(file: Path, tests: Path) -> float:
    """How long a test file takes, about. *tests* is the folder of all tests."""
    parts = file.relative_to(tests).parts
    return SECONDS.get("/".join(parts), OTHERS.get(parts[0], 10))
