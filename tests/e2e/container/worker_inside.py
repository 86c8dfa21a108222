"""A worker that runs in a container itself: makes a workspace in each way, and says what it reaches at its address.

Run by `test_addresses.py`. Its argument is a JSON object: name -> source. It prints another: name -> answer or error.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import httpx

from prebuilds.api import PrebuildsError
from prebuilds.provisioners.container.driver import ContainerProvisioner
from tests.e2e.container.builds import log
from tests.e2e.provisions import later, wanted
from tests.identities import DEPLOYMENT


async def reached(driver: ContainerProvisioner, source: dict[str, Any]) -> str:
    build = wanted(source, ready_timeout_s=5.0)
    try:
        made = await driver.apply(build, log)
        async with httpx.AsyncClient() as client:
            return f"{made.address} {(await client.get(str(made.address))).text.strip()}"
    except PrebuildsError as error:
        return f"{error.type}: {error}"
    finally:
        await driver.destroy(later(build), log)


async def main() -> None:
    driver = ContainerProvisioner(Path("/state"), DEPLOYMENT)
    answers = {name: await reached(driver, source) for name, source in json.loads(sys.argv[1]).items()}
    print(json.dumps(answers))


asyncio.run(main())
