"""Folders that versions keep: the kept files, the refusals, and the digest, which depends on nothing else."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import socket
import tarfile
from pathlib import Path

import pytest

from prebuilds.provisioners.kit import tree_reading, trees
from prebuilds.provisioners.kit.tree_reading import read_tree
from prebuilds.provisioners.kit.trees import (
    CannotKeep,
    KeptFile,
    KeptLink,
    digest_of,
    pack_tree,
    unpack_tree,
    write_tree,
)


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def shape(folder: Path) -> dict[str, str]:
    """Return a folder's contents: path -> a file's text and run bit, or a link's target."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[path.relative_to(folder).as_posix()] = f"-> {os.readlink(path)}"
        elif path.is_file():
            run = "+" if os.access(path, os.X_OK) else ""
            found[path.relative_to(folder).as_posix()] = f"{run}{path.read_text()}"
    return found


def test_content_run_bits_and_links_arrive_as_they_were(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", {"main.tf": "x", "bin/setup.sh": "#!/bin/sh", "real/inner.tf": "y"})
    (folder / "bin" / "setup.sh").chmod(0o750)
    (folder / "linked").symlink_to("real")
    (folder / "real" / "up.tf").symlink_to("../main.tf")
    kept = pack_tree(read_tree(folder))
    made = tmp_path / "made"
    made.mkdir()
    write_tree(unpack_tree(kept.archive, kept.digest), made)
    assert shape(made) == {
        "main.tf": "x",
        "bin/setup.sh": "+#!/bin/sh",
        "real/inner.tf": "y",
        "real/up.tf": "-> ../main.tf",
        "linked": "-> real",
    }


def test_the_digest_follows_from_content_run_bits_and_links_alone(tmp_path: Path) -> None:
    digests = set()
    for name, mode in (("a", 0o644), ("b", 0o600)):
        folder = write(
            tmp_path / name, {"z.tf": "z", "sub/a.tf": "a"} if name == "a" else {"sub/a.tf": "a", "z.tf": "z"}
        )
        (folder / "z.tf").chmod(mode)
        os.utime(folder / "z.tf", (mode, mode))
        (folder / "empty").mkdir()
        digests.add(pack_tree(read_tree(folder)).digest)
    assert len(digests) == 1
    assert len({pack_tree(read_tree(tmp_path / name)).archive for name in "ab"}) == 1
    (folder / "z.tf").chmod(0o755)
    digests.add(digest_of(read_tree(folder)))
    (folder / "z.tf").unlink()
    (folder / "z.tf").symlink_to("sub/a.tf")
    digests.add(digest_of(read_tree(folder)))
    (folder / "z.tf").unlink()
    (folder / "z.tf").write_text("other")
    digests.add(digest_of(read_tree(folder)))
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("name", "target", "reason"),
    [
        ("out", "../elsewhere", "leaves the folder"),
        ("deep/out", "../../elsewhere", "leaves the folder"),
        ("through", "dir/out/../..", "leaves the folder"),
        ("far", "/etc/hostname", "make it a relative link"),
        ("gone", "not/there", "missing, empty or left out"),
        ("round", "empty/../main.tf", "missing, empty or left out"),
        ("file", "main.tf/../deep/x", "missing, empty or left out"),
        ("state", ".terraform", "missing, empty or left out"),
        ("self", "self", "leaves the folder"),
    ],
)
def test_a_link_that_leads_to_no_kept_file_is_refused_by_name(
    tmp_path: Path, name: str, target: str, reason: str
) -> None:
    folder = write(tmp_path / "a", {"main.tf": "x", "deep/x": "", "dir/x": "", ".terraform/x": ""})
    (folder / "dir" / "out").symlink_to("..")
    (folder / "empty").mkdir()
    write(tmp_path, {"elsewhere/x": ""})
    (folder / name).symlink_to(target)
    with pytest.raises(CannotKeep) as refused:
        read_tree(folder, [".terraform"])
    [problem] = refused.value.problems
    assert problem.startswith(f"{name} is a link")
    assert reason in problem


def test_special_files_are_refused_by_name_all_at_once(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", {"main.tf": "x"})
    os.mkfifo(folder / "pipe")
    (folder / "bad\nname").touch()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(folder / "socket"))
    with pytest.raises(CannotKeep) as refused:
        read_tree(folder)
    assert refused.value.problems == [
        "'bad\\nname' cannot be kept: its name must not have control characters; remove U+000A, character 4 of it",
        "pipe is a pipe, which cannot be kept",
        "socket is a socket, which cannot be kept",
    ]


def test_a_folder_that_is_too_large_is_refused_before_it_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "a", {f"{n}.tf": "x" for n in range(5)})
    with (folder / "0.tf").open("r+b") as sparse:
        sparse.truncate(2**40)
    with pytest.raises(CannotKeep, match=r"more than 2000 files and folders, or 32 MiB; name a smaller"):
        read_tree(folder)
    (folder / "0.tf").write_bytes(os.urandom(2048))
    monkeypatch.setattr(trees, "ARCHIVE_BYTES_MAX", 1024)
    with pytest.raises(CannotKeep, match="when they are compressed"):
        pack_tree(read_tree(folder))
    monkeypatch.setattr(tree_reading, "FILES_MAX", 4)
    with pytest.raises(CannotKeep, match="more than"):
        read_tree(folder)


def test_an_archive_that_is_not_what_its_digest_says_is_refused(tmp_path: Path) -> None:
    kept, other = (pack_tree({"a": KeptFile(data)}) for data in (b"1", b"2"))
    for archive in (other.archive, kept.archive[:20], b""):
        with pytest.raises(CannotKeep, match="damaged"):
            unpack_tree(archive, kept.digest)


def test_files_links_and_folders_can_take_each_other_s_place(tmp_path: Path) -> None:
    first = {"a/b": KeptFile(b"1"), "c": KeptLink("a"), "d": KeptFile(b"2", executable=True)}
    second = {"a": KeptLink("c"), "c/x": KeptFile(b"3"), "d": KeptFile(b"2"), "e": KeptLink("d")}
    before: list[str] = []
    for tree in (first, second, first):
        write_tree(tree, tmp_path, before)
        write_tree(tree, tmp_path, [*before, *tree])  # an attempt that comes again
        before = list(tree)
        expected = {
            path: f"-> {one.target}" if isinstance(one, KeptLink) else f"{'+' * one.executable}{one.data.decode()}"
            for path, one in tree.items()
        }
        assert shape(tmp_path) == dict(sorted(expected.items()))


def packed(*members: tuple[str, bytes, str]) -> bytes:
    """An archive of these members: name, type and link."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name, kind, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            tar.addfile(member)
    return made.getvalue()


FILE, LINK = tarfile.REGTYPE, tarfile.SYMTYPE


@pytest.mark.parametrize(
    "members",
    [
        [("/etc/x", FILE, "")],
        [("../x", FILE, "")],
        [("a/../../x", FILE, "")],
        [("a//x", FILE, "")],
        [("d/" * 101 + "x", FILE, "")],
        [("a", FILE, ""), ("out", LINK, "/etc")],
        [("a", FILE, ""), ("out", LINK, "..")],
        [("a", FILE, ""), ("out", LINK, "gone")],
        [("d/a", FILE, ""), ("l", LINK, "d"), ("l/x", FILE, "")],
        [("a", FILE, ""), ("a/x", FILE, "")],
        [("a", tarfile.DIRTYPE, "")],
        [("a", FILE, ""), ("b", tarfile.LNKTYPE, "a")],
        [("a", tarfile.FIFOTYPE, "")],
        [(f"{n}", FILE, "") for n in range(trees.FILES_MAX + 1)],
    ],
    ids=lambda members: members[-1][0],
)
def test_an_archive_that_would_be_written_elsewhere_is_refused(
    members: list[tuple[str, bytes, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "digest_of", lambda tree: "sha256:any")  # its author knows the digest, too
    with pytest.raises(CannotKeep, match="damaged: "):
        unpack_tree(packed(*members), "sha256:any")


def test_an_archive_that_grows_without_bounds_is_refused_before_it_does() -> None:
    sparse = tarfile.TarInfo("zeros")
    sparse.size = trees.BYTES_MAX + 1
    bomb = gzip.compress(sparse.tobuf() + bytes(2 * trees.BYTES_MAX))
    for archive in (bomb, gzip.compress(sparse.tobuf())):
        with pytest.raises(CannotKeep, match="damaged: they are"):
            unpack_tree(archive, "sha256:any")


def test_a_folder_that_is_too_deep_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "/".join("d" * 600)).mkdir(parents=True)
    deep = "/".join("d" * trees.DEPTH_MAX)
    (tmp_path / deep / "main.tf").touch()
    with pytest.raises(CannotKeep) as refused:
        read_tree(tmp_path)
    assert refused.value.problems == [f"{deep}/d lies in 100 folders; name a folder that is less deep"]
    (tmp_path / deep / "d").rename(tmp_path / "e")
    with pytest.raises(CannotKeep):
        read_tree(tmp_path)
    shutil.rmtree(tmp_path / "e")
    tree = read_tree(tmp_path)
    write_tree(tree, tmp_path)
    kept = pack_tree(tree)
    assert list(unpack_tree(kept.archive, kept.digest)) == [f"{deep}/main.tf"]


def test_a_runs_own_files_are_replaced_by_kept_files(tmp_path: Path) -> None:
    tree = {"a/b": KeptFile(b"1"), "c": KeptFile(b"2"), "d/e": KeptFile(b"3"), "f": KeptLink("c")}
    write(tmp_path, {"a": "file", "c/x/y": "", "elsewhere/x": "kept", "f/x": ""})
    (tmp_path / "d").symlink_to("elsewhere")
    write_tree(tree, tmp_path)
    assert shape(tmp_path) == {"a/b": "1", "c": "2", "d/e": "3", "elsewhere/x": "kept", "f": "-> c"}
