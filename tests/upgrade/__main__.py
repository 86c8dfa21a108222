"""`make upgrade`: 500 claims through an upgrade, with workers of both releases killed side by side.

python -m tests.upgrade [--claims 500] [--pool 20] [--parallel 12] [--kills 40] [--seed 1]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from prebuilds.stack.postgres import EmbeddedPostgres
from prebuilds.stack.temporal_server import TemporalDevServer
from tests.upgrade.campaign import Upgrade
from tests.upgrade.releases import BEFORE, release_before, this_release
from tests.upgrade.traffic import Plan


def main() -> None:
    parser = argparse.ArgumentParser(prog="upgrade", description=__doc__)
    for name, default in (("claims", 500), ("pool", 20), ("parallel", 12), ("kills", 40), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="prebuilds-upgrade-") as name:
        folder = Path(name)
        old = release_before(folder / "before", own_venv=True)
        if old is None:
            sys.exit(f"the history of this repository does not reach back to {BEFORE}: git fetch --unshallow")
        postgres, temporal = EmbeddedPostgres(folder / "postgres"), TemporalDevServer(folder / "temporal")
        try:
            url = postgres.start()
            address = asyncio.run(temporal.start())
            places = {"PREBUILDS_DATABASE_URL": url, "TEMPORAL_ADDRESS": address}
            upgrade = Upgrade(old, this_release(), folder, places)
            begun = time.monotonic()

            def say(text: str) -> None:
                print(f"{time.monotonic() - begun:6.1f} s  {text}", flush=True)

            try:
                seen = asyncio.run(upgrade.run(Plan(**vars(given)), say))
            finally:
                upgrade.end()
            kills = ", ".join(f"{name}: {count}" for name, count in sorted(upgrade.kills.items()))
            say(f"{seen.answered} claims: {len(seen.claimed)} claimed, {seen.missed} missed, {seen.retries} retried")
            say(f"killed: {kills}; none lost, none twice; the waiting claim and the long build lived through it")
        finally:
            temporal.stop()
            postgres.stop()


if __name__ == "__main__":
    main()
