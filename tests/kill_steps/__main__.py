"""`make kills`: a provisioner worker killed at each step of each driver's create, claim, destroy, pause and resume.

python -m tests.kill_steps [--driver process|container|terraform] [--first 1] [--rounds N]; a round is one step
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.e2e.dev_stack import DevStack
from tests.kill_steps.campaign import Campaign
from tests.kill_steps.setup import DRIVERS, campaigns_on

PAIRS = ({"claim", "destroy"}, {"pause", "resume"})
ROUNDS_MAX = 200
"""More steps than any effect has: it ends when an effect was over before its step came."""


def run(campaign: Campaign, first: int, rounds: int) -> tuple[int, list[str]]:
    """Kill at each step. Return the number of kills and the faults found."""
    kills, violations, left = 0, [], set(campaign.kinds)
    campaign.settled()
    for number in range(first, first + rounds):
        for kind in campaign.kinds:
            # A claim goes on without kills while a destroy has steps left, which begins with what the claim leaves; so
            # does a pause for a resume.
            if kind not in left and not any(kind in pair and left & pair for pair in PAIRS):
                continue
            step = None
            try:
                campaign.provoke(kind, number)
                step = campaign.killed_at()
                campaign.settled()
            except AssertionError as error:
                violations.append(f"{campaign.name} {kind}, killed at {step}: {error}")
                print(f"VIOLATION {violations[-1]}", flush=True)
                return kills, violations
            if step is None:
                left.discard(kind)
            else:
                kills += 1
                print(f"{campaign.name} {kind}: killed at step {step}", flush=True)
        if not left:
            break
    campaign.end()
    return kills, violations


def main() -> int:
    parser = argparse.ArgumentParser(prog="kill_steps", description=__doc__)
    parser.add_argument("--driver", choices=DRIVERS)
    parser.add_argument("--first", type=int, default=1, help="the step to begin with")
    parser.add_argument("--rounds", type=int, default=ROUNDS_MAX)
    given = parser.parse_args()
    drivers = (given.driver,) if given.driver else DRIVERS
    violations: list[str] = []
    with tempfile.TemporaryDirectory(prefix="prebuilds-kills-") as folder:
        stack = DevStack(Path(folder))
        stack.start()
        try:
            for driver in drivers:
                with campaigns_on(stack, Path(folder), (driver,)) as [campaign]:
                    kills, wrong = run(campaign, given.first, given.rounds)
                print(f"{driver}: {kills} kills, {len(wrong)} violations", flush=True)
                violations += wrong
        finally:
            stack.stop()
    print("\n".join(violations) or "nothing leaked, nothing was made twice")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
