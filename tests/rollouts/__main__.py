"""`make rollouts`: rollouts of a pool of 20 under claims, a bad version, and kill -9 of every worker.

python -m tests.rollouts [--pool 20] [--rate 2] [--build-s 5] [--kills 10]
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from tests.e2e.dev_stack import DevStack
from tests.rollouts.campaign import Seen, fill, roll, wait_for_pool, watch


def main() -> None:
    parser = argparse.ArgumentParser(prog="rollouts", description=__doc__)
    parser.add_argument("--pool", type=int, default=20)
    parser.add_argument("--rate", type=float, default=2)
    parser.add_argument("--build-s", type=float, default=5)
    parser.add_argument("--kills", type=int, default=10)
    given = parser.parse_args()
    surge = -(-given.pool // 4)
    with tempfile.TemporaryDirectory(prefix="prebuilds-rollouts-") as folder:
        stack = DevStack(Path(folder))
        stack.workers = 6 + 3 * (given.kills + 1)
        stack.start()
        try:
            fill(stack, "roll", given.pool, version=1, build_s=given.build_s)
            wait_for_pool(stack, "roll")
            asyncio.run(watch(stack))
            for version, rate, kills in ((2, 0, 0), (3, given.rate, 0), (4, given.rate, given.kills)):
                fill(stack, "roll", given.pool, version=version, build_s=given.build_s)
                seen, history = asyncio.run(roll(stack, "roll", rate=rate, seed=version, kills=kills))
                print(f"version {version}: {history}; {_claims(seen)}", flush=True)
                assert history.most <= given.pool + surge, "more members than the surge allows"
                # No old one is left to delete where claims took all of them.
                assert history.left is None or history.left >= given.pool, "fewer ready than the policy allows"
                assert rate or history.least_ready >= given.pool
                wait_for_pool(stack, "roll", 300)
            fill(stack, "roll", given.pool, version=5, build_s=given.build_s, works=False)
            _, history = asyncio.run(roll(stack, "roll", rate=0, seed=5, until_state="failed"))
            print(f"bad version: {history}", flush=True)
            assert history.least_ready == given.pool, "a bad version shrinks the pool"
        finally:
            stack.stop()
        assert stack.processes() == {}, "nothing is left running"


def _claims(seen: Seen) -> str:
    older = sum(claimed.version is not None for claimed in seen.claimed)
    kills = f", {seen.kills} kills of all workers" if seen.kills else ""
    return f"{len(seen.claimed)} claims claimed, {older} from the older version, {seen.missed} missed{kills}"


if __name__ == "__main__":
    main()
