"""Terraform runs and their marks, with a script for Terraform: a run left behind is found and interrupted once."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from prebuilds.provisioners.kit.processes import is_alive
from prebuilds.provisioners.terraform import mark as terraform_mark
from prebuilds.provisioners.terraform import run as terraform_run
from prebuilds.provisioners.terraform.mark import COMMON, end_orphan, found_by
from prebuilds.provisioners.terraform.run import Terraform

# The script ends once `go` exists, however often it is interrupted, and then writes its state.
PATIENT = """#!/bin/sh
trap 'echo interrupted >> interrupts' INT
touch "begun-$1"
until test -e ../go; do sleep 0.02; done
echo whole > state
"""


pytestmark = pytest.mark.usefixtures("heard_interrupts")


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Path]:
    folder = tmp_path / "module"
    folder.mkdir()
    yield folder
    (folder.parent / "go").touch()
    await reached(lambda: not runs(folder), "what was left running to end")


def patient(folder: Path) -> Terraform:
    binary = folder.parent / "terraform"
    if not binary.exists():  # a shell reads it while it runs
        binary.write_text(PATIENT)
        binary.chmod(0o755)
    return Terraform(str(binary), folder, os.environ, lambda _: None)


def runs(folder: Path) -> bool:
    return terraform_mark._running_in(folder) is not None


async def reached(is_so: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.02)
    assert is_so(), what


async def cancelled(run: asyncio.Task[terraform_run.Ran]) -> None:
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


async def test_a_run_that_creates_resources_is_interrupted_once_and_may_finish(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terraform_run, "INTERRUPT_S", 0.1)
    mark, messages = folder.parent / "running.json", list[str]()
    run = asyncio.create_task(patient(folder).run("apply", *COMMON, mark=mark, finishes=True))
    await reached((folder / "begun-apply").exists, "it to begin")
    await cancelled(run)
    await reached((folder / "interrupts").exists, "it to be interrupted")
    assert json.loads(mark.read_text())[2] is True
    for _ in range(2):  # two attempts: the first one is cancelled, too
        waiting = asyncio.create_task(end_orphan(mark, folder, 600, messages.append))
        await reached(lambda: bool(messages), "it to wait")
        waiting.cancel()
        messages.clear()
    assert runs(folder)
    (folder.parent / "go").touch()
    await end_orphan(mark, folder, 600, messages.append)
    assert (folder / "state").read_text() == "whole\n"
    assert (folder / "interrupts").read_text() == "interrupted\n", "at a second one Terraform loses its state"
    assert not mark.exists()


async def test_commands_left_by_an_ended_run_are_killed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terraform_run, "INTERRUPT_S", 0.1)
    mark, terraform = folder.parent / "running.json", patient(folder)
    Path(terraform.binary).write_text(PATIENT.replace("touch", "sleep 100 &\necho $! > left\ntouch"))
    run = asyncio.create_task(terraform.run("apply", *COMMON, mark=mark, finishes=True))
    await reached((folder / "begun-apply").exists, "it to begin")
    left = found_by(int((folder / "left").read_text()))
    assert left is not None
    await cancelled(run)
    (folder.parent / "go").touch()
    await reached(lambda: not runs(folder), "it to end by itself")
    assert is_alive(left)
    await end_orphan(mark, folder, 600, lambda _: None)
    await reached(lambda: not is_alive(left), "its command to be killed")
    assert not mark.exists()


async def test_a_run_that_creates_nothing_is_killed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terraform_run, "INTERRUPT_S", 0.1)
    mark = folder.parent / "running.json"
    run = asyncio.create_task(patient(folder).run("plan", *COMMON, mark=mark))
    await reached((folder / "begun-plan").exists, "it to begin")
    await cancelled(run)
    assert not runs(folder)
    assert not mark.exists()


async def test_an_orphan_is_killed_at_the_deadline(folder: Path) -> None:
    mark = folder.parent / "running.json"
    orphan = started(folder)
    mark.write_text("[]")
    await end_orphan(mark, folder, 0.1, lambda _: None)
    assert orphan.wait(20) < 0
    assert not mark.exists()


def started(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [patient(folder).binary, *(words or ("apply", *COMMON))], cwd=folder, start_new_session=True
    )


async def test_a_run_whose_worker_died_right_after_its_start_is_found_by_its_folder(folder: Path) -> None:
    mark = folder.parent / "running.json"
    server, orphan = started(folder, "serve"), started(folder)
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    other = started(elsewhere)
    await reached((folder / "begun-apply").exists, "it to begin")
    mark.write_text("[]")
    waits = asyncio.create_task(end_orphan(mark, folder, 600, lambda _: None))
    await reached((folder / "interrupts").exists, "it to be interrupted")
    assert json.loads(mark.read_text())[0] == orphan.pid
    assert (server.poll(), other.poll()) == (None, None), "only what runs Terraform there"
    (folder.parent / "go").touch()
    await waits
    assert [process.wait(20) for process in (orphan, server, other)] == [0, 0, 0]


async def test_a_mark_is_there_before_the_run_and_a_full_disk_leaves_nothing_unknown(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terraform_run, "INTERRUPT_S", 0.1)
    mark = folder.parent / "running.json"

    def full(mark: Path, *_: object) -> None:
        assert mark.read_text() == "[]"
        deadline = time.monotonic() + 20
        while not (folder / "begun-apply").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        raise OSError("no space left on device")

    monkeypatch.setattr(terraform_run, "leave_mark", full)
    with pytest.raises(OSError, match="no space left"):
        await asyncio.wait_for(patient(folder).run("apply", *COMMON, mark=mark, finishes=True), 20)
    await reached((folder / "interrupts").exists, "it to be interrupted")
    assert json.loads(mark.read_text())[2] is True, "so that the next attempt waits for it"
    (folder.parent / "go").touch()
    await end_orphan(mark, folder, 600, lambda _: None)
    assert not runs(folder)


async def test_a_run_that_cannot_be_marked_is_not_interrupted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terraform_run, "INTERRUPT_S", 0.1)
    mark = folder.parent / "running.json"
    run = asyncio.create_task(patient(folder).run("apply", *COMMON, mark=mark, finishes=True))
    await reached((folder / "begun-apply").exists, "it to begin")

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(terraform_mark, "leave_mark", full)
        await cancelled(run)
    waits = asyncio.create_task(end_orphan(mark, folder, 600, lambda _: None))
    await reached((folder / "interrupts").exists, "it to be interrupted")
    (folder.parent / "go").touch()
    await waits
    assert (folder / "interrupts").read_text() == "interrupted\n"
