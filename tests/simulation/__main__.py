"""`make simulate`: the simulation for as long as asked, on a PostgreSQL of its own.

    python -m tests.simulation [--minutes 5] [--seed N]

Prints how many deployments' lives (schedules) and how many steps of each kind it tried. A failure is shrunk, printed
with its steps, and ends it with status 1; the printed seed runs the same again.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
import time
from pathlib import Path

from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from prebuilds.stack.postgres import EmbeddedPostgres
from prebuilds.store.migrate import migrate
from tests.simulation.machine import PoolMachine
from tests.simulation.world import World

ROUND = settings(
    max_examples=20, stateful_step_count=60, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=None, help="of the first round; each round takes the next")
    given = parser.parse_args()
    first = given.seed if given.seed is not None else secrets.randbits(32)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="prebuilds-simulate-") as folder, asyncio.Runner() as runner:
        server = EmbeddedPostgres(Path(folder), durable=False)
        server.start()
        PoolMachine.world = World(server.url, runner.get_loop())
        try:
            runner.run(migrate(PoolMachine.world.engine))
            rounds = 0
            while rounds == 0 or time.monotonic() - begun < 60 * given.minutes:
                print(f"round {rounds + 1}, seed {first + rounds}", flush=True)
                run_state_machine_as_test(seed(first + rounds)(PoolMachine), settings=ROUND)
                rounds += 1
        finally:
            tell(time.monotonic() - begun)
            PoolMachine.world.close()
            server.stop()


def tell(seconds: float) -> None:
    steps = dict(PoolMachine.steps)
    schedules = steps.pop("schedules", 0)
    print(f"{sum(steps.values())} steps in {schedules} schedules, {seconds:.0f} s")
    for name, count in sorted(steps.items(), key=lambda item: -item[1]):
        print(f"  {name:<16} {count:>8}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
