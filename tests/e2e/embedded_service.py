"""A service that claims in its own process, and prints each answer: `embedded_service.py DATABASE_URL PRESET NUMBER`.

It claims once, and then all the others at once, and is killed as soon as the first of those is answered.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from prebuilds.embedded import claims_worker
from prebuilds.temporal.connecting import connect


async def main(database_url: str, preset: str, number: int) -> None:
    async with claims_worker(await connect(), database_url) as prebuilds:

        async def claim(n: int) -> None:
            name = f"embedded-{n}"
            result = await prebuilds.claim(preset=preset, owner="alice", name=name, claim_id=name)
            print(result.model_dump_json(), flush=True)

        async def claim_and_die(n: int) -> None:
            await claim(n)
            os.kill(os.getpid(), signal.SIGKILL)  # it kills itself: before another process could, all might be answered

        await claim(0)
        await asyncio.gather(*[claim_and_die(n) for n in range(1, number)])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
