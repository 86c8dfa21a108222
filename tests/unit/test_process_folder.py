"""The process driver's state on a host: folders that are removed whole, locks, build numbers, ports."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from prebuilds.api import ProvisionFailed
from prebuilds.provisioners.base import StaleBuild
from prebuilds.provisioners.container.record import Seen
from prebuilds.provisioners.kit.folders import FORGET_AFTER
from prebuilds.provisioners.process import host as process_host
from prebuilds.provisioners.process.folder import LOG_END_BYTES, ProcessFolders


@pytest.fixture
def folders(unprivileged: Path) -> ProcessFolders:
    return ProcessFolders(unprivileged)


def made(folders: ProcessFolders, workspace_id: UUID) -> Path:
    home = folders.home(workspace_id)
    home.mkdir(parents=True)
    return home


def test_a_folder_that_its_owner_may_not_write_is_removed(folders: ProcessFolders) -> None:
    workspace_id = uuid4()
    cached = made(folders, workspace_id) / "go" / "pkg" / "mod"
    cached.mkdir(parents=True)
    (cached / "main.go").write_text("package main")
    elsewhere = folders.root / "elsewhere"
    elsewhere.mkdir(mode=0o500)
    (cached / "link").symlink_to(elsewhere)
    for folder in (cached, cached.parent):
        folder.chmod(0o555)
    folders.remove(workspace_id, 2)
    assert not folders.folder(workspace_id).exists()
    assert elsewhere.stat().st_mode & 0o777 == 0o500


def test_folders_in_folders_without_end_keep_nobody_from_removing_them(folders: ProcessFolders) -> None:
    workspace_id = uuid4()
    at = os.open(made(folders, workspace_id), os.O_RDONLY)
    for _ in range(2000):  # deeper than Python's recursion limit, and longer than a path may be
        os.mkdir("deeper", dir_fd=at)
        at, above = os.open("deeper", os.O_RDONLY, dir_fd=at), at
        os.close(above)
    os.close(at)
    folders.remove(workspace_id, 2)
    assert not folders.folder(workspace_id).exists()


def test_a_folder_that_stays_is_no_success(folders: ProcessFolders) -> None:
    workspace_id = uuid4()
    made(folders, workspace_id)
    folders.note(workspace_id, 1)
    folders.root.chmod(0o555)
    try:
        with pytest.raises(ProvisionFailed, match="cannot be removed"):
            folders.remove(workspace_id, 2)
    finally:
        folders.root.chmod(0o755)


def test_a_long_log_is_read_from_its_last_whole_lines(folders: ProcessFolders) -> None:
    workspace_id = uuid4()
    assert folders.log_end(workspace_id) == ""
    made(folders, workspace_id)
    folders.log(workspace_id).write_text("begun\nended\n")
    assert folders.log_end(workspace_id) == "begun\nended\n"
    lines = [f"é line {n} of a secret\n" for n in range(LOG_END_BYTES // 10)]
    folders.log(workspace_id).write_text("".join(lines))
    end = folders.log_end(workspace_id)
    assert LOG_END_BYTES - 100 < len(end.encode()) < LOG_END_BYTES
    assert end == "".join(lines[-end.count("\n") :])
    folders.log(workspace_id).write_text("x" * (LOG_END_BYTES + 1))
    assert folders.log_end(workspace_id) == ""  # half a line, which may begin with half a secret


def make_old(*paths: Path) -> None:
    then = time.time() - FORGET_AFTER.total_seconds() - 60
    for path in paths:
        os.utime(path, (then, then))


async def used(folders: ProcessFolders, build_number: int = 3) -> UUID:
    workspace_id = uuid4()
    async with folders.locked(workspace_id):
        folders.note(workspace_id, build_number)
    return workspace_id


async def test_only_records_of_long_deleted_workspaces_are_forgotten(tmp_path: Path) -> None:
    folders = ProcessFolders(tmp_path)
    old, young, kept, elsewhere = [await used(folders) for _ in range(4)]
    held = await used(folders)
    locks, gone = folders.root / ".locks", folders.root / ".gone"
    for workspace_id in (old, kept, elsewhere, held):
        make_old(locks / str(workspace_id), gone / str(workspace_id))
    make_old(gone / str(young))  # its lock was held since
    made(folders, kept)
    async with folders.locked(held):
        make_old(locks / str(held))
        folders.forget_old({elsewhere})
    left = {str(workspace_id) for workspace_id in (young, kept, elsewhere, held)}
    assert {path.name for path in locks.iterdir()} == left
    assert {path.name for path in gone.iterdir()} == left
    with pytest.raises(StaleBuild):
        folders.refuse_stale(young, 2)


async def test_a_container_s_numbers_are_forgotten_too(tmp_path: Path) -> None:
    seen = Seen(tmp_path)
    gone, there = uuid4(), uuid4()
    for workspace_id in (gone, there):
        async with seen.locked(workspace_id):
            seen.enter(workspace_id, 3)
    make_old(*(tmp_path / "containers" / "seen").iterdir(), *(tmp_path / "containers/workspaces/.locks").iterdir())
    seen.forget_old({there})
    assert (seen.number(gone), seen.number(there)) == (0, 3)
    assert [path.name for path in (tmp_path / "containers/workspaces/.locks").iterdir()] == [str(there)]


async def test_a_lock_that_was_removed_right_after_it_was_opened_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders, workspace_id = ProcessFolders(tmp_path), uuid4()
    path = folders.root / ".locks" / str(workspace_id)
    open_path: Any = Path.open
    opened: list[Path] = []

    def open_and_lose(self: Path, *args: str) -> object:
        file = open_path(self, *args)
        if not opened:
            self.unlink()  # as `forget_old` of another worker does, which has the lock until then
        opened.append(self)
        return file

    monkeypatch.setattr(Path, "open", open_and_lose)
    async with folders.locked(workspace_id):
        assert path.exists()  # a later caller finds the lock that we hold
    assert opened == [path, path]


def test_a_port_is_reserved_whole_or_not_at_all(tmp_path: Path) -> None:
    mine, other = uuid4(), uuid4()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # a file may be made, and nothing written into it
    try:
        port = process_host.take_port(tmp_path, mine, None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert process_host.take_port(tmp_path, mine, None) == port
    assert process_host.take_port(tmp_path, other, port) != port
    process_host.give_ports_back(tmp_path, mine)
    assert process_host.take_port(tmp_path, other, port) == port


def test_a_port_reserved_by_an_older_release_stays_with_its_workspace(tmp_path: Path) -> None:
    mine, port = uuid4(), process_host.take_port(tmp_path, uuid4(), None)
    (tmp_path / str(port)).unlink()
    (tmp_path / str(port)).write_text(str(mine))
    assert process_host.take_port(tmp_path, mine, None) == port
    assert process_host.take_port(tmp_path, uuid4(), port) != port
    process_host.give_ports_back(tmp_path, mine)
    assert not (tmp_path / str(port)).exists()


def test_a_port_returned_during_the_check_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = uuid4(), uuid4()
    port = process_host.take_port(tmp_path, other, None)
    readlink = os.readlink

    def given_back_first(path: Path) -> str:
        path.unlink(missing_ok=True)
        return readlink(path)

    monkeypatch.setattr(os, "readlink", given_back_first)
    assert process_host.take_port(tmp_path, mine, port) != port
