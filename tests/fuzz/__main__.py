"""`make fuzz`: Schemathesis over the whole HTTP interface, in all phases, for as long as asked.

    python -m tests.fuzz [--minutes 20] [--seed N]

Prints statistics, and each request with a fault or an answer that the document does not have. Then it ends
with status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import signal
import sys
import tempfile
from pathlib import Path

from prebuilds.stack.postgres import EmbeddedPostgres
from prebuilds.store.engine import create_engine
from prebuilds.store.migrate import migrate
from tests.fuzz.run import fuzz, listening


async def campaign(url: str, folder: Path, minutes: float, seed: int) -> int:
    engine = create_engine(url)
    try:
        await migrate(engine)
        async with listening(engine, url) as address:
            limits = ("--max-time", str(round(60 * minutes)), "--seed", str(seed), "--continue-on-failure")
            code, printed = await fuzz(address, folder, *limits)
    finally:
        await engine.dispose()
    print(printed)
    return code


def main() -> None:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # its PostgreSQL must not stay behind
    seed = given.seed if given.seed is not None else secrets.randbits(32)
    with tempfile.TemporaryDirectory(prefix="prebuilds-fuzz-") as name:
        folder = Path(name)
        server = EmbeddedPostgres(folder / "postgres", durable=False)
        server.start()
        try:
            sys.exit(asyncio.run(campaign(server.url, folder, given.minutes, seed)))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
