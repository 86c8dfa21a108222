"""A service that claims in its own process: `service.py DATABASE_URL`. Each line that it reads is a claim to make, as
JSON with a claim id and a request; it prints one line for each outcome. Logs go to stderr."""

from __future__ import annotations

import asyncio
import json
import sys

from prebuilds.api import PrebuildsError
from prebuilds.embedded import claims_worker
from prebuilds.payloads import ClaimRequest
from prebuilds.temporal.connecting import connect


async def main(database_url: str) -> None:
    async with claims_worker(await connect(), database_url) as prebuilds, asyncio.TaskGroup() as claims:

        async def claim(claim_id: str, request: ClaimRequest) -> None:
            try:
                outcome = str((await prebuilds.claim_request(request, claim_id)).workspace_id)
            except PrebuildsError as error:
                outcome = error.type
            print(json.dumps({"claim_id": claim_id, "outcome": outcome}), flush=True)

        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            message = json.loads(line)
            claims.create_task(claim(message["claim_id"], ClaimRequest.model_validate(message["request"])))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
