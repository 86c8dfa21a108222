"""Whether this host can give `process` workspaces user ids of their own, and what keeps it from that."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from prebuilds.api import ProvisionFailed
from prebuilds.settings.user_ids import VARIABLE, parse_user_ids

logger = logging.getLogger(__name__)

DEFAULT_FIRST = 0x7000_0000
"""No distribution and no systemd assigns ids between here and 0x7FFF0000, and all programs accept them."""
DEFAULT_COUNT = 65_536
DEFAULT_SLOTS = 4_094
"""Number of ranges of this size that fit there. A state folder's host id chooses its range."""
CAPABILITIES = {"CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "KILL": 5, "SETGID": 6, "SETUID": 7, "SYS_PTRACE": 19}
"""Capabilities, with their bit numbers, that a worker needs to start, read, signal and remove what belongs to another
user, and to find processes by their environment."""
OTHERS_MAY_PASS = 0o001


class IsolationUnavailable(ProvisionFailed):
    """The operator has named user ids for workspaces, and this host cannot use them."""


@dataclass(frozen=True)
class Isolation:
    """What separates this host's `process` workspaces."""

    ids: range | None
    """User ids for the workspaces, one each; None: they run as the worker's user, and can read each other's files."""
    why_not: str = ""
    """Why there are no ids, in plain words; empty when there are."""
    remedy: str = ""
    """How the operator gets ids; empty when there is no way or no need."""
    required: bool = False
    """True: the operator has named ids, so no workspace may run without one."""


def find_isolation(state_dir: Path) -> Isolation:
    """Return what this host can do for the workspaces of *state_dir*. Changes nothing.

    Raises:
        ValueError: `PREBUILDS_PROCESS_UIDS` cannot be read; the settings refuse that when a worker starts.
    """
    text = os.environ.get(VARIABLE)
    named = parse_user_ids(text) if text else None
    if sys.platform != "linux":
        return Isolation(None, "workspaces get user ids of their own on Linux only", required=named is not None)
    if text and named is None:
        return Isolation(None, f"{VARIABLE} is none")
    if named is None and os.geteuid() != 0:
        return Isolation(None, "not root", f"run workers as root, or see {VARIABLE} in docs/operations.md")
    ids = named or _default_ids(state_dir)
    why_not, remedy = _obstacle(ids, state_dir)
    return Isolation(None if why_not else ids, why_not, remedy, required=named is not None)


def log_isolation(state_dir: Path) -> None:
    """Log a warning, with the reason, when this host does not separate `process` workspaces."""
    found = find_isolation(state_dir)
    if found.ids is None:
        facts = {"why": found.why_not, "remedy": found.remedy}
        logger.warning("Workspaces of the process driver are not isolated", extra=facts)


def closed_folder(path: Path) -> Path | None:
    """Return the first folder above *path*, also behind links, that other users cannot pass through; None for none."""
    for way in (path, Path(os.path.realpath(path))):
        for folder in reversed(way.parents):
            with contextlib.suppress(OSError):  # a folder that does not exist yet is created passable
                if not folder.stat().st_mode & OTHERS_MAY_PASS:
                    return folder
    return None


def _default_ids(state_dir: Path) -> range:
    """Return a range chosen by the host's id, so that two deployments on one machine hardly ever share ids."""
    try:
        slot = int((state_dir / "host-id").read_text(), 16) % DEFAULT_SLOTS
    except (OSError, ValueError):
        slot = 0  # no host id yet, so nothing runs yet
    first = DEFAULT_FIRST + slot * DEFAULT_COUNT
    return range(first, first + DEFAULT_COUNT)


def _obstacle(ids: range, state_dir: Path) -> tuple[str, str]:
    """Return what keeps the worker from assigning *ids*, and the remedy; both empty for nothing."""
    if missing := _missing_capabilities():
        return f"the worker lacks the capabilities {', '.join(missing)}", "give it those, such as by --cap-add"
    for name in ("uid_map", "gid_map"):
        if not _is_mapped(ids, Path("/proc/self", name).read_text()):
            why_not = f"this container does not have the ids {ids[0]}-{ids[-1]} (/proc/self/{name})"
            return why_not, f"set {VARIABLE} to a range that it has"
    if closed := closed_folder(state_dir.absolute() / "workspaces"):
        why_not = f"{closed} lets no other user through to the state folder"
        return why_not, f"set PREBUILDS_STATE_DIR to one such as /var/lib/prebuilds, or run `chmod o+x {closed}`"
    return "", ""


def _missing_capabilities() -> list[str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    held = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff"))
    return [f"CAP_{name}" for name, bit in CAPABILITIES.items() if not held >> bit & 1]


def _is_mapped(ids: range, table: str) -> bool:
    """Return whether one line of the kernel's *table* (`first outside count`) has all *ids*."""
    for line in table.splitlines():
        first, _, count = (int(word) for word in line.split())
        if first <= ids[0] and ids[-1] < first + count:
            return True
    return False
