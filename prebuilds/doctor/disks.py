"""The free space of this machine's disks that Prebuilds writes to. Another machine's cannot be seen from here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FULL_BYTES = 16 * 1024**2
"""PostgreSQL writes its log in pieces of this size, and stops where it has no room for the next one."""
LOW_BYTES = 512 * 1024**2
"""Room for some minutes of a busy pool: a worker's log, build logs, both servers' own."""
POSTGRES, TEMPORAL = "postgres", "temporal"
"""The embedded servers' folders within the state folder."""


@dataclass(frozen=True, slots=True)
class Disk:
    serves: str
    """What is kept there, with its folder."""
    free_bytes: int
    """That this user may still write."""
    free_files: int | None
    """Files that may still be made; None where the file system knows no bound."""

    @property
    def is_full(self) -> bool:
        return self.free_bytes < FULL_BYTES or self.free_files == 0

    @property
    def is_low(self) -> bool:
        return self.free_bytes < LOW_BYTES


def read_disks(state_dir: Path) -> list[Disk]:
    """The file systems of the state folder and of the embedded servers' data, each once.

    Raises:
        OSError: A folder cannot be looked at.
    """
    kept = {"the state folder": state_dir}
    for name, folder in (("the embedded PostgreSQL", POSTGRES), ("the embedded Temporal", TEMPORAL)):
        if (state_dir / folder).exists():
            kept[name] = state_dir / folder
    return [_disk(named) for named in _by_file_system(kept)]


def _by_file_system(kept: Mapping[str, Path]) -> list[dict[str, Path]]:
    found: dict[int, dict[str, Path]] = {}
    for name, folder in kept.items():
        there = _nearest(folder)
        found.setdefault(there.stat().st_dev, {})[f"{name} ({folder})"] = there
    return list(found.values())


def _nearest(folder: Path) -> Path:
    """The folder, or the first above it that exists: there it would be made."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _disk(named: Mapping[str, Path]) -> Disk:
    facts = os.statvfs(next(iter(named.values())))
    return Disk(" and ".join(named), facts.f_bavail * facts.f_frsize, facts.f_favail if facts.f_files else None)
