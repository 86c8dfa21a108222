"""Folders of files that a template version keeps in the database, so that every worker makes the same ones.

A tree has regular files, each with its content and its run bit, and links that stay inside. Owners, times and other
mode bits are left out, and so are empty folders: two checkouts of one commit are the same tree, with the same digest.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import stat
import tarfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

ARCHIVE_BYTES_MAX = 4 * 2**20
"""Limit of a compressed tree, which the database keeps for each version and each build reads."""
FILES_MAX, BYTES_MAX = 2000, 32 * 2**20
"""Limits of a tree before it is compressed. A larger folder was named by mistake, and each workspace gets a copy."""
DEPTH_MAX = 100
"""The most folders that a file may lie in. A path has a limit of its own, and code that walks folders recurs."""
DIGEST_PREFIX = "sha256:"
_TAR_BYTES_MAX = BYTES_MAX + FILES_MAX * 8192
"""Limit of an archive's tar: the files, each with its path and with padding."""
LINKS_MAX = 40
"""Links that one path may pass through, as in Linux."""


class CannotKeep(ValueError):
    """A folder has something that cannot be kept. `problems` names each, with what to do."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class KeptFile:
    """A regular file."""

    data: bytes
    executable: bool = False


@dataclass(frozen=True)
class KeptLink:
    """A symbolic link to a file or folder of the same tree."""

    target: str
    """The path in the link, relative to the link's folder."""


Tree: TypeAlias = Mapping[str, KeptFile | KeptLink]
"""Path below the folder -> what is there. Folders are not listed."""


@dataclass(frozen=True)
class KeptTree:
    """A tree as the database keeps it."""

    digest: str
    manifest: Mapping[str, Mapping[str, Any]]
    """Path -> `{"sha256", "bytes", "executable"}` of a file, or `{"link"}`. The digest is the hash of this alone."""
    archive: bytes = field(repr=False)
    """The tree as a compressed tar."""


def pack_tree(tree: Tree) -> KeptTree:
    """Return the tree as the database keeps it.

    Raises:
        CannotKeep: It is larger than `ARCHIVE_BYTES_MAX` when it is compressed.
    """
    archive = _pack(tree)
    if len(archive) > ARCHIVE_BYTES_MAX:
        size, most = len(archive) / 2**20, ARCHIVE_BYTES_MAX // 2**20
        raise CannotKeep([f"its files have {size:.1f} MiB when they are compressed, and at most {most} MiB are kept"])
    return KeptTree(digest_of(tree), _manifest_of(tree), archive)


def digest_of(tree: Tree) -> str:
    """Return the digest of a tree: of each path its content, its run bit or its link, and of nothing else."""
    text = json.dumps(_manifest_of(tree), sort_keys=True, separators=(",", ":"))
    return DIGEST_PREFIX + hashlib.sha256(text.encode()).hexdigest()


def unpack_tree(archive: bytes, digest: str) -> Tree:
    """Return the tree in an archive. Whoever made it, the tree can be written without leaving its folder.

    Raises:
        CannotKeep: The archive is damaged, has another tree than *digest* says, or one that `read_tree` never makes.
    """
    try:
        tree = _unpack(archive)
    except (tarfile.TarError, zlib.error, OSError, EOFError) as error:
        raise CannotKeep([f"the kept files are damaged: {error}"]) from error
    folders = folders_of(tree)
    for path, entry in tree.items():
        if any(step in ("", ".", "..") for step in path.split("/")) or path.count("/") > DEPTH_MAX or path in folders:
            raise CannotKeep([f"the kept files are damaged: {path!a} is no path of a file"])
        to = resolve(tree, path)
        if isinstance(entry, KeptLink) and (to is None or not (to in folders or to in tree)):
            raise CannotKeep([f"the kept files are damaged: {path!a} is a link that leads to none of them"])
    if (found := digest_of(tree)) != digest:
        raise CannotKeep([f"the kept files are damaged: they have the digest {found}"])
    return tree


def write_tree(tree: Tree, folder: Path, before: Collection[str] = ()) -> None:
    """Write a tree into *folder*. What is there already and right is left alone.

    Args:
        before: Paths that an earlier tree has written. Those that are not in this tree are removed.
    """
    for path in set(before) - set(tree):
        old = folder / path
        if not _passes_link(old, folder) and (old.is_symlink() or not old.is_dir()):
            old.unlink(missing_ok=True)
            _remove_empty(folder, path)
    for path, entry in tree.items():
        _make_room(folder, path)
        _write(folder / path, entry)


def folders_of(tree: Tree) -> set[str]:
    """Return the paths of a tree's folders; the empty path is the tree's own."""
    found = {""}
    for path in tree:
        while path := path.rpartition("/")[0]:
            found.add(path)
    return found


def resolve(tree: Tree, path: str) -> str | None:
    """Return the path of the file or folder that *path* leads to through the tree's links; None when it leaves it.

    The result is in neither the tree nor its folders when the path leads nowhere.
    """
    seen, waiting, at = 0, path.split("/")[::-1], list[str]()
    while waiting:
        step = waiting.pop()
        if step in ("", "."):
            continue
        if step == "..":
            if not at:
                return None
            below = "/".join(at) + "/"
            if not any(one.startswith(below) for one in tree):
                return below + step  # an empty folder is not kept, so the system finds no way through it
            at.pop()
            continue
        at.append(step)
        entry = tree.get("/".join(at))
        if isinstance(entry, KeptLink):
            seen += 1
            if seen > LINKS_MAX or entry.target.startswith("/"):
                return None
            at.pop()
            waiting += entry.target.split("/")[::-1]
    return "/".join(at)


def _manifest_of(tree: Tree) -> dict[str, dict[str, Any]]:
    return {path: _describe(entry) for path, entry in sorted(tree.items())}


def _describe(entry: KeptFile | KeptLink) -> dict[str, Any]:
    if isinstance(entry, KeptLink):
        return {"link": entry.target}
    digest = hashlib.sha256(entry.data).hexdigest()
    return {"sha256": digest, "bytes": len(entry.data), "executable": entry.executable}


def _unpack(archive: bytes) -> Tree:
    tree: dict[str, KeptFile | KeptLink] = {}
    left = BYTES_MAX
    with gzip.open(io.BytesIO(archive)) as packed:
        text = packed.read(_TAR_BYTES_MAX + 1)
    if len(text) > _TAR_BYTES_MAX:
        raise tarfile.TarError("they are too large")
    with tarfile.open(fileobj=io.BytesIO(text), mode="r:") as tar:
        for member in tar:
            left -= member.size
            if len(tree) >= FILES_MAX or left < 0:
                raise tarfile.TarError(f"they are more than {FILES_MAX} files or {BYTES_MAX // 2**20} MiB")
            content = tar.extractfile(member) if member.isreg() else None
            if member.issym():
                tree[member.name] = KeptLink(member.linkname)
            elif content is not None:
                tree[member.name] = KeptFile(content.read(), bool(member.mode & stat.S_IXUSR))
            else:
                raise tarfile.TarError(f"{member.name!a} is neither a file nor a link")
    return tree


def _pack(tree: Tree) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, entry in sorted(tree.items()):
            member = tarfile.TarInfo(path)
            if isinstance(entry, KeptLink):
                member.type, member.linkname = tarfile.SYMTYPE, entry.target
                tar.addfile(member)
            else:
                member.mode, member.size = 0o755 if entry.executable else 0o644, len(entry.data)
                tar.addfile(member, io.BytesIO(entry.data))
    return gzip.compress(packed.getvalue(), mtime=0)


def _passes_link(path: Path, folder: Path) -> bool:
    """Return whether a folder of *path* is a link now, so that the earlier file is gone with its folder."""
    return any(parent.is_symlink() for parent in path.parents if parent.is_relative_to(folder))


def _remove_empty(folder: Path, path: str) -> None:
    """Remove the folders of a removed file that have become empty, so that a file or link can take their place."""
    while path := path.rpartition("/")[0]:
        try:
            (folder / path).rmdir()
        except OSError:
            return


def _make_room(folder: Path, path: str) -> None:
    """Make the folders of a path. What a run has put in the place of one of them, or of the path, is removed."""
    at = folder
    for step in path.split("/")[:-1]:
        at /= step
        if at.is_symlink() or not at.is_dir():
            at.unlink(missing_ok=True)
            at.mkdir()
    last = folder / path
    if last.is_dir() and not last.is_symlink():
        shutil.rmtree(last)


def _write(path: Path, entry: KeptFile | KeptLink) -> None:
    if isinstance(entry, KeptLink):
        if path.is_symlink() and os.readlink(path) == entry.target:
            return
        path.unlink(missing_ok=True)
        path.symlink_to(entry.target)
        return
    mode = 0o755 if entry.executable else 0o644
    if path.is_symlink():
        path.unlink()
    if not path.is_file() or path.read_bytes() != entry.data:
        path.write_bytes(entry.data)
    if stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)
