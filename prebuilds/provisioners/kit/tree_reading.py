"""Reading a folder of this host as a tree that a template version keeps, and refusing what cannot be kept."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection
from fnmatch import translate
from pathlib import Path

from prebuilds.provisioners.kit.trees import (
    BYTES_MAX,
    DEPTH_MAX,
    FILES_MAX,
    CannotKeep,
    KeptFile,
    KeptLink,
    Tree,
    folders_of,
    resolve,
)
from prebuilds.vocabulary.plain_text import check_plain


def read_tree(root: Path, left_out: Collection[str] = ()) -> Tree:
    """Read a folder of this host.

    Args:
        root: The folder, or a link to it.
        left_out: Shell patterns of names; files and folders with such a name are not read, at any depth.
    Raises:
        CannotKeep: The folder cannot be read, is too large, or has a device, a socket, a pipe or a link that leaves it.
    """
    reading = _Reading(root.resolve(), left_out)
    reading.read("")
    reading.check_links()
    if reading.problems:
        raise CannotKeep(reading.problems)
    return dict(sorted(reading.tree.items()))


class _Reading:
    """One run of `read_tree`."""

    def __init__(self, root: Path, left_out: Collection[str]) -> None:
        self.root = root
        self.left_out = re.compile("|".join(map(translate, left_out)) or r"(?!)")
        self.tree: dict[str, KeptFile | KeptLink] = {}
        self.problems: list[str] = []
        self._count = self._bytes = 0

    def read(self, folder: str) -> None:
        """Read a folder, given as a path below the root."""
        try:
            names = sorted(os.listdir(self.root / folder))
        except OSError as error:
            self._add(folder or str(self.root), f"cannot be read ({_reason(error)})")
            return
        for name in names:
            if not self.left_out.match(name):
                self._count += 1
                if self._count > FILES_MAX:
                    raise CannotKeep([*self.problems, f"{self.root} {_TOO_LARGE}"])
                self._entry(f"{folder}/{name}" if folder else name)

    def _entry(self, path: str) -> None:
        full = self.root / path
        try:
            check_plain(path)
            kind = full.lstat().st_mode
            if stat.S_ISDIR(kind) and path.count("/") >= DEPTH_MAX:
                self._add(path, f"lies in {DEPTH_MAX} folders; name a folder that is less deep")
            elif stat.S_ISDIR(kind):
                self.read(path)
            elif stat.S_ISLNK(kind):
                self.tree[path] = KeptLink(check_plain(os.readlink(full)))
            elif stat.S_ISREG(kind):
                self._file(path, full)
            else:
                self._add(path, f"is {_KINDS.get(stat.S_IFMT(kind), 'no regular file')}, which cannot be kept")
        except OSError as error:
            self._add(path, f"cannot be read ({_reason(error)})")
        except CannotKeep:
            raise
        except ValueError as error:  # raised by `check_plain`, for the name or the link's target
            self._add(ascii(path), f"cannot be kept: its name {error}")

    def _file(self, path: str, full: Path) -> None:
        # Somebody may put a link or a pipe there in the meantime.
        with open(os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            data = file.read(BYTES_MAX + 1 - self._bytes)
            self._bytes += len(data)
            if self._bytes > BYTES_MAX:
                raise CannotKeep([*self.problems, f"{self.root} {_TOO_LARGE}"])
            self.tree[path] = KeptFile(data, bool(os.fstat(file.fileno()).st_mode & stat.S_IXUSR))

    def check_links(self) -> None:
        """Add a problem for each link that does not lead to a kept file or folder."""
        folders = folders_of(self.tree)
        for path, entry in self.tree.items():
            if not isinstance(entry, KeptLink):
                continue
            to = resolve(self.tree, path)
            if entry.target.startswith("/"):
                self._add(path, f"is a link to {entry.target}; make it a relative link inside the folder")
            elif to is None:
                self._add(path, f"is a link that leaves the folder (to {entry.target}); copy what it leads to")
            elif to not in folders and not isinstance(self.tree.get(to), KeptFile):
                self._add(path, f"is a link to {entry.target}, which is missing, empty or left out; remove the link")

    def _add(self, path: str, problem: str) -> None:
        self.problems.append(f"{path} {problem}")


_TOO_LARGE = f"has more than {FILES_MAX} files and folders, or {BYTES_MAX // 2**20} MiB; name a smaller folder"
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}


def _reason(error: OSError) -> str:
    return (error.strerror or "no reason given").lower()
