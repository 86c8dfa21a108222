"""`make inputs`: unusual input of every kind, for the given time, on its own servers.

    python -m tests.inputs [--minutes 5] [--seed N] [--only NAME]

Prints the number of examples of each kind and their outcomes. A failure is shrunk and printed, and ends it with
status 1; the printed seed tries the same again.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from prebuilds.stack.postgres import EmbeddedPostgres
from prebuilds.store.engine import create_engine
from prebuilds.store.migrate import migrate
from tests.inputs.campaigns import campaigns, prepare
from tests.inputs.values import Trial

EXAMPLES = 40
"""In each round of each campaign."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="inputs", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=None, help="of the first round; each round takes the next")
    parser.add_argument("--only", default=None, help="the campaign to run")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # its servers must not stay behind
    logging.disable(logging.CRITICAL)
    first = given.seed if given.seed is not None else secrets.randbits(32)
    begun, ended = time.monotonic(), dict[str, Counter[str]]()
    with tempfile.TemporaryDirectory(prefix="prebuilds-inputs-") as folder, asyncio.Runner() as runner:
        server = EmbeddedPostgres(Path(folder) / "postgres", durable=False)
        server.start()
        trial = Trial(create_engine(server.url), server.url, Path(folder), runner)
        try:
            runner.run(migrate(trial.engine))
            rounds, tried = 0, campaigns(trial)
            while rounds == 0 or time.monotonic() - begun < 60 * given.minutes:
                print(f"round {rounds + 1}, seed {first + rounds}", flush=True)
                runner.run(prepare(trial))
                for name, campaign in tried.items():
                    if given.only in (None, name):
                        campaign.run(EXAMPLES, first + rounds, ended.setdefault(name, Counter()))
                rounds += 1
        finally:
            trial.close()
            server.stop()
            for name, counted in ended.items():
                print(f"{name}: {counted.total()} examples, " + ", ".join(f"{n} {how}" for how, n in counted.items()))


if __name__ == "__main__":
    main()
