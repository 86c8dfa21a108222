"""`make late`: claims in every form, with one of two claims workers frozen in the middle of them, for many rounds.

python -m tests.late [--rounds 20] [--fault sigstop|stall] [--seed 1]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time

from tests.late.freeze import FAULTS, FORMS, deployment


async def campaign(rounds: int, faults: tuple[str, ...], seed: int) -> int:
    wrong = 0
    async with deployment() as running:
        for fault in faults:
            for number in range(rounds):
                begun = time.monotonic()
                seen = await running.round(number, fault, random.Random(f"{seed}/{fault}/{number}"))  # noqa: S311
                wrong += len(seen.wrong)
                counts = ", ".join(f"{count} {kind}" for kind, count in sorted(seen.counts().items()))
                print(
                    f"{fault} {number + 1}: {counts}; caught {seen.caught}, not known {seen.unknown};"
                    f" refused and claimed: {len(seen.wrong)} ({time.monotonic() - begun:.0f} s)",
                    flush=True,
                )
                for line in seen.wrong:
                    print(f"  {line}", flush=True)
    print(f"{rounds} rounds of {', '.join(faults)}, each with {', '.join(FORMS)}: refused and claimed: {wrong}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(prog="late", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fault", choices=FAULTS, action="append")
    given = parser.parse_args()
    wrong = asyncio.run(campaign(given.rounds, tuple(given.fault or FAULTS), given.seed))
    sys.stdout.flush()
    os._exit(1 if wrong else 0)  # the SDK's core may abort while the interpreter winds down (temporalio/sdk-python#300)


if __name__ == "__main__":
    main()
