"""Free space on this machine's disks that Prebuilds writes to. The disks of other machines cannot be checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FULL_BYTES = 16 * 1024**2
"""Less free space than this means full. PostgreSQL writes its WAL in segments of this size, and stops when there is no
room for the next one."""
LOW_BYTES = 512 * 1024**2
"""Less free space than this means nearly full: a busy pool with its logs and both servers fills it in some minutes."""
POSTGRES, TEMPORAL = "postgres", "temporal"
"""Folders of the embedded servers within the state folder."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system that Prebuilds writes to."""

    serves: str
    """What is stored on it, with the folder."""
    free_bytes: int
    """Bytes that this user may still write."""
    free_files: int | None
    """Number of files that can still be created; None when the file system has no such limit."""

    @property
    def is_full(self) -> bool:
        """True if PostgreSQL can stop at any moment for lack of space."""
        return self.free_bytes < FULL_BYTES or self.free_files == 0

    @property
    def is_low(self) -> bool:
        """True if the free space lasts for some minutes only."""
        return self.free_bytes < LOW_BYTES


def read_disks(state_dir: Path) -> list[Disk]:
    """Read the file systems of the state folder and of the embedded servers' data, each once.

    Raises:
        OSError: A folder cannot be read.
    """
    folders = {"the state folder": state_dir}
    for name, folder in (("the embedded PostgreSQL", POSTGRES), ("the embedded Temporal", TEMPORAL)):
        if (state_dir / folder).exists():
            folders[name] = state_dir / folder
    return [_read_disk(group) for group in _group_by_file_system(folders)]


def _group_by_file_system(folders: Mapping[str, Path]) -> list[dict[str, Path]]:
    """Return one group per file system: description -> existing folder."""
    groups: dict[int, dict[str, Path]] = {}
    for name, folder in folders.items():
        existing = _find_existing(folder)
        groups.setdefault(existing.stat().st_dev, {})[f"{name} ({folder})"] = existing
    return list(groups.values())


def _find_existing(folder: Path) -> Path:
    """Return *folder*, or its nearest parent that exists: *folder* would be created on the same file system."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _read_disk(group: Mapping[str, Path]) -> Disk:
    facts = os.statvfs(next(iter(group.values())))
    return Disk(" and ".join(group), facts.f_bavail * facts.f_frsize, facts.f_favail if facts.f_files else None)
