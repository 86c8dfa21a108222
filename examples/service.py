"""A service that claims a workspace and waits until its owner can work in it.

It needs the pools of `prebuilds.yaml` in this folder. It finds Temporal by TEMPORAL_ADDRESS and the other variables of
the `temporal` command, or connects to the `prebuilds dev` that runs in this folder.
"""

import asyncio

from prebuilds.client import PrebuildsClient


async def main() -> None:
    client = await PrebuildsClient.connect()
    claimed = await client.claim(preset="acme/python/small", owner="bob", name="bob-dev", claim_id="order-4711")
    print(f"{claimed.owner}/{claimed.name} is {claimed.source}")
    # One that is made because nothing was ready (`on_empty="create"`) has no address before it is ready.
    ready = await client.wait_until_ready(claimed)
    print(f"it is ready at {ready.address}")


asyncio.run(main())
