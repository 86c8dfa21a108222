"""Where a running `prebuilds dev` is: what it wrote about itself, for commands and for services beside it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from uuid import UUID

from prebuilds.api import InvalidInput

STACK_FILE = "stack.json"
STATE_DIR_VARIABLE, STATE_DIR = "PREBUILDS_STATE_DIR", ".prebuilds"
DEPLOYMENT_VARIABLE = "PREBUILDS_DEPLOYMENT"


def state_dir() -> Path:
    return Path(os.environ.get(STATE_DIR_VARIABLE) or STATE_DIR)


def read_stack_file(state_dir: Path) -> dict[str, Any]:
    """What a running `prebuilds dev` wrote about itself; empty when there is none."""
    try:
        found = json.loads((state_dir / STACK_FILE).read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def embedded_temporal(state_dir: Path) -> str | None:
    """The embedded server's address when the SDK's own settings say nothing; None leaves it to them."""
    if os.environ.get("TEMPORAL_ADDRESS") or os.environ.get("TEMPORAL_PROFILE"):
        return None
    address = read_stack_file(state_dir).get("temporal_address")
    return str(address) if address else None


def expected_deployment(address: str) -> UUID | None:
    """Which deployment a client without a database means by the server at *address*; None when nothing says so.

    PREBUILDS_DEPLOYMENT says it, else the `prebuilds dev` that had this address: it may have died, and another one
    taken the port.

    Raises:
        InvalidInput: PREBUILDS_DEPLOYMENT is no id of a deployment.
    """
    if named := os.environ.get(DEPLOYMENT_VARIABLE):
        try:
            return UUID(named)
        except ValueError as error:
            message = "must be a deployment's id, which `prebuilds status --json` shows as deployment_id"
            raise InvalidInput.field(DEPLOYMENT_VARIABLE, message) from error
    found = read_stack_file(state_dir())
    if found.get("temporal_address") != address or not found.get("deployment_id"):
        return None
    return UUID(str(found["deployment_id"]))
