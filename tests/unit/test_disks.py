"""The doctor's report on this machine's disks."""

from __future__ import annotations

import os
from collections import namedtuple
from pathlib import Path

import pytest

from prebuilds.doctor import disks, examine
from prebuilds.doctor.disks import read_disks
from prebuilds.settings import Settings

Facts = namedtuple("Facts", ["f_bavail", "f_frsize", "f_files", "f_favail"])
MIB = 1024**2


def _facts(free_mib: int, files: int = 1000) -> Facts:
    return Facts(free_mib, MIB, 1000, files)


@pytest.mark.parametrize(
    ("facts", "full", "low"),
    [
        (_facts(4096), False, False),
        (_facts(511), False, True),
        (_facts(15), True, True),
        (_facts(4096, files=0), True, False),
        (Facts(4096, MIB, 0, 0), False, False),  # a file system without a bound on files
    ],
)
def test_a_disk_is_full_or_nearly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, facts: Facts, full: bool, low: bool
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: facts)
    (disk,) = read_disks(tmp_path)
    assert (disk.is_full, disk.is_low) == (full, low)


def test_folders_on_one_disk_are_reported_together(tmp_path: Path) -> None:
    state = tmp_path / "not there yet"
    assert [disk.serves for disk in read_disks(state)] == [f"the state folder ({state})"]
    (state / disks.POSTGRES).mkdir(parents=True)
    (state / disks.TEMPORAL).mkdir()
    (disk,) = read_disks(state)
    assert disk.serves == (
        f"the state folder ({state}) and the embedded PostgreSQL ({state / 'postgres'}) "
        f"and the embedded Temporal ({state / 'temporal'})"
    )
    assert disk.free_bytes > 0


async def test_the_doctor_names_the_full_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: _facts(3))
    report = await examine(Settings(database_url="postgresql://nobody@127.0.0.1:1/x", state_dir=tmp_path))
    found = {check.name: check for check in report.checks}["disks"]
    assert (found.ok, found.detail) == (False, f"the disk of the state folder ({tmp_path}) is full: 3 MiB left")
    assert found.remedy is not None
    assert found.remedy.startswith("free some space there")
