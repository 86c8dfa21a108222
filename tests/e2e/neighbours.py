"""Runs a worker with secrets, a workspace claimed with a secret, and a hostile workspace, and prints what that finds.

`python -m tests.e2e.neighbours STATE_DIR`, as root or as an ordinary user.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import sys
from pathlib import Path
from uuid import uuid4

from prebuilds.provisioners.kit.host import host_id
from prebuilds.provisioners.process.driver import ProcessProvisioner
from prebuilds.provisioners.terraform.folder import Record, TerraformFolders
from prebuilds.stack.postgres import EmbeddedPostgres
from prebuilds.telemetry.undumpable import close_to_others
from tests.e2e.process_steps import driver_in, log
from tests.e2e.provisions import later, wanted
from tests.identities import DEPLOYMENT

HOSTILE = Path(__file__).with_name("hostile.py").read_text().replace("{", "{{").replace("}", "}}")  # no placeholders
GUESSED = ("claim.json", "process.json", "log", "home/notes")


def give_up_capabilities() -> None:
    """Drop the capabilities that an ordinary user had for importing what only root may read."""
    libc = ctypes.CDLL(None)
    libc.prctl(47, 4, 0, 0, 0)  # PR_CAP_AMBIENT_CLEAR_ALL
    libc.capset(ctypes.byref((ctypes.c_uint32 * 2)(0x20080522, 0)), ctypes.byref((ctypes.c_uint32 * 6)()))


async def write_terraform_state(state_dir: Path) -> Path:
    folders, workspace_id = TerraformFolders(state_dir, DEPLOYMENT), uuid4()
    async with folders.locked(workspace_id):
        folders.write(workspace_id, Record(made_by=1, build_number=1))
    state = folders.state(workspace_id)
    state.write_text("SECRET-OF-TERRAFORM")
    (state_dir / "terraform" / "terraform.rc").write_text("SECRET-OF-OPERATOR")
    return state


async def run_neighbours(
    driver: ProcessProvisioner, state_dir: Path, postgres: EmbeddedPostgres, state: Path
) -> dict[str, object]:
    python = os.environ["PYTHON_FOR_ALL"]
    serve = [python, "-m", "http.server", "{port}", "--bind", "127.0.0.1"]
    home = wanted({"command": serve, "ready": {"tcp": True}, "isolation": "none"})
    made = await driver.apply(home, log)
    (Path(made.resources["folder"]) / "notes").write_text("SECRET-OF-NEIGHBOUR")
    taken = later(home, owner="alice", name="alice-dev", claim_parameters={"token": "SECRET-OF-CLAIM"})
    await driver.claim(taken, log)
    socket = f"{postgres.url.partition('host=')[2]}/.s.PGSQL.5432"
    words = [str(state_dir), str(os.getpid()), str(made.resources["pid"]), socket, str(made.resources["port"])]
    folder = Path(made.resources["folder"]).parent  # paths that it cannot list, it may guess
    guessed = [state, state_dir / "terraform" / "terraform.rc", *(folder / name for name in GUESSED)]
    words += [str(path) for path in guessed]
    own = {"command": [python, "-c", HOSTILE, *words], "ready": {"file": "found.json"}, "isolation": "none"}
    build = wanted(own, claimed=True, owner="mallory", claim_parameters={"token": "hers"})
    hostile = await driver.apply(build, log)
    found = json.loads((Path(hostile.resources["folder"]) / "found.json").read_text())
    return found | {
        "port": str(made.resources["port"]),
        "neighbour_still_serves": await driver.probe(home.workspace_id),
    }


async def main(state_dir: Path) -> None:
    host_id(state_dir)
    state = await write_terraform_state(state_dir)
    postgres = EmbeddedPostgres(state_dir / "postgres", durable=False)
    postgres.start()
    try:
        async with driver_in(state_dir) as driver:
            print(json.dumps(await run_neighbours(driver, state_dir, postgres, state)))
    finally:
        postgres.stop()


if __name__ == "__main__":
    close_to_others()
    if os.geteuid() != 0:
        give_up_capabilities()
    asyncio.run(main(Path(sys.argv[1])))
