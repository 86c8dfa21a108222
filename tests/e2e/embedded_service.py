"""A service that claims in its own process: `embedded_service.py DATABASE_URL PRESET NUMBER`; one line an answer."""

from __future__ import annotations

import asyncio
import sys

from prebuilds.connecting import connect
from prebuilds.embedded import claims_worker


async def main(database_url: str, preset: str, number: int) -> None:
    async with claims_worker(await connect(), database_url) as prebuilds:

        async def claim(n: int) -> None:
            name = f"embedded-{n}"
            result = await prebuilds.claim(preset=preset, owner="alice", name=name, claim_id=name)
            print(result.model_dump_json(), flush=True)

        await claim(0)
        await asyncio.gather(*[claim(n) for n in range(1, number)])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
