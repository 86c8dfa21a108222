"""Reads the file in which a running `prebuilds dev` says where it is, for commands and services on the same host."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from uuid import UUID

from prebuilds.api import InvalidInput

STACK_FILE = "stack.json"
TOKEN_FILE = "token"  # noqa: S105 - a file's name
"""The file with the token of a running `prebuilds dev`, in the same folder; only its owner can read it."""
TOKEN_VARIABLE = "PREBUILDS_TOKEN"  # noqa: S105 - a variable's name
STATE_DIR_VARIABLE, STATE_DIR = "PREBUILDS_STATE_DIR", ".prebuilds"
DEPLOYMENT_VARIABLE = "PREBUILDS_DEPLOYMENT"


def state_dir() -> Path:
    """Return the state folder: `PREBUILDS_STATE_DIR`, or `.prebuilds` in the current folder."""
    return Path(os.environ.get(STATE_DIR_VARIABLE) or STATE_DIR)


def read_stack_file(state_dir: Path) -> dict[str, Any]:
    """Read what a running `prebuilds dev` has written about itself; empty when there is none.

    Raises:
        InvalidInput: There can be no such folder, or it may not be read.
    """
    try:
        found = json.loads((state_dir / STACK_FILE).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):  # text that is no JSON, or no text
        return {}
    except OSError as error:
        why = f"cannot be read ({(error.strerror or type(error).__name__).lower()})"
        raise InvalidInput.field(STATE_DIR_VARIABLE, why, "name a folder that this user may read") from error
    return found if isinstance(found, dict) else {}


def embedded_temporal(state_dir: Path) -> str | None:
    """Return the embedded Temporal server's address; None when there is none, or the SDK's own variables are set."""
    if os.environ.get("TEMPORAL_ADDRESS") or os.environ.get("TEMPORAL_PROFILE"):
        return None
    address = read_stack_file(state_dir).get("temporal_address")
    return str(address) if address else None


def bearer_token(state_dir: Path, url: str) -> str | None:
    """Return the token to present to the HTTP server at *url*.

    PREBUILDS_TOKEN is, if it is set. Else it is that of the `prebuilds dev` that runs in this state folder, and for its
    own address alone: no other server may learn it.

    Returns:
        None: there is no token for this server.
    """
    if named := os.environ.get(TOKEN_VARIABLE, "").strip():
        return named
    found = read_stack_file(state_dir)
    if not found.get("token_file") or found.get("http") != url.rstrip("/"):
        return None
    try:
        return Path(str(found["token_file"])).read_text().strip() or None
    except OSError:
        return None  # another user's


def expected_deployment(address: str) -> UUID | None:
    """Return the deployment that a client without a database expects at *address*; None when nothing names one.

    PREBUILDS_DEPLOYMENT names it, or else the `prebuilds dev` that had this address. The check is needed because that
    `dev` may have died, and another server may have taken its port.

    Raises:
        InvalidInput: PREBUILDS_DEPLOYMENT is not a deployment's id.
    """
    if named := os.environ.get(DEPLOYMENT_VARIABLE):
        try:
            return UUID(named)
        except ValueError as error:
            remedy = "give what `prebuilds --json status` shows as deployment_id"
            raise InvalidInput.field(DEPLOYMENT_VARIABLE, "must be a deployment's id", remedy) from error
    found = read_stack_file(state_dir())
    if found.get("temporal_address") != address or not found.get("deployment_id"):
        return None
    return UUID(str(found["deployment_id"]))
