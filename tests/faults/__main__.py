"""`make faults`: 200 claimers on a pool of 50, with workers killed and connections cut at random, ten rounds.

python -m tests.faults [--rounds 10] [--claimers 200] [--pool 50] [--seed 1]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.e2e.dev_stack import DevStack
from tests.faults.storm import QUICK, check_books, check_whole, storm


def main() -> None:
    parser = argparse.ArgumentParser(prog="faults", description=__doc__)
    for name, default in (("rounds", 10), ("claimers", 200), ("pool", 50), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="prebuilds-faults-") as folder:
        stack = DevStack(Path(folder))
        stack.start()
        try:
            stack.apply("storm", given.pool, **QUICK)
            stack.wait_whole("storm", 120)
            for number in range(given.rounds):
                seen = asyncio.run(storm(stack, "storm", given.claimers, given.seed + number))
                asyncio.run(check_books(stack, seen))
                for claimed in seen.claimed:
                    assert stack.cli("release", str(claimed.workspace_id)).code == 0
                check_whole(stack, "storm", 300)
                faults = ", ".join(f"{name}: {count}" for name, count in sorted(seen.faults.items()))
                print(
                    f"round {number + 1}: {len(seen.claimed)} claimed, {seen.missed} missed, {seen.retries} retried"
                    f" ({faults}); no workspace and no claim id twice, the pool whole again",
                    flush=True,
                )
        finally:
            stack.stop()
        assert stack.processes() == {}, "nothing is left running"
    sys.stdout.flush()


if __name__ == "__main__":
    main()
