"""An untrusted command: its output is bounded, and none of its processes remains."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from prebuilds.provisioners.kit.tried_command import OUTPUT_KEPT, Tried, try_command
from prebuilds.store.drill_steps import EVIDENCE_CHARS, EVIDENCE_LINES, last_lines


async def tried(script: str, folder: Path, timeout_s: float = 20) -> Tried:
    words = [sys.executable, "-c", script]
    return await try_command(words, folder=folder, env={"PATH": os.environ["PATH"]}, user=None, timeout_s=timeout_s)


async def test_a_command_runs_in_its_folder_and_ends_with_its_status(tmp_path: Path) -> None:
    ended = await tried("import os; print(os.getcwd()); raise SystemExit(3)", tmp_path)
    assert ended == Tried(3, f"{tmp_path}\n")


async def test_the_end_of_much_output_is_kept(tmp_path: Path) -> None:
    ended = await tried("import sys; sys.stdout.write('x' * 1_000_000 + '\\nthe end')", tmp_path)
    assert (ended.code, len(ended.output)) == (0, OUTPUT_KEPT)
    lines = last_lines(ended.output)
    assert lines == ["x" * EVIDENCE_CHARS, "the end"]


async def test_a_command_that_writes_for_ever_is_killed(tmp_path: Path) -> None:
    ended = await tried("while True: print('again')", tmp_path, timeout_s=0.5)
    assert ended.code is None
    assert last_lines(ended.output) == ["again"] * EVIDENCE_LINES


async def test_a_child_that_stays_and_holds_the_output_is_killed(tmp_path: Path) -> None:
    begun = time.monotonic()
    ended = await tried(
        "import subprocess, sys; p = subprocess.Popen(['sleep', '300']); print(p.pid); sys.exit(0)", tmp_path
    )
    assert ended.code == 0
    assert time.monotonic() - begun < 15, "it is not waited for"
    child = int(ended.output)
    deadline = time.monotonic() + 5
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_command_that_closes_its_output_runs_on(tmp_path: Path) -> None:
    ended = await tried("import os, time; os.close(1); os.close(2); time.sleep(0.2); os._exit(4)", tmp_path)
    assert ended.code == 4


async def test_a_cancellation_kills_the_command(tmp_path: Path) -> None:
    running = asyncio.create_task(
        tried("import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(300)", tmp_path)
    )
    path = tmp_path / "pid"
    while not (path.exists() and path.read_text()):
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not psutil.pid_exists(int(path.read_text()))


async def test_long_commands_do_not_occupy_the_shared_threads(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as shared:
        asyncio.get_running_loop().set_default_executor(shared)
        running = asyncio.create_task(tried("import time; open('begun', 'w'); time.sleep(300)", tmp_path))
        try:
            while not (tmp_path / "begun").exists():
                await asyncio.sleep(0.01)
            async with asyncio.timeout(5):
                assert await asyncio.to_thread(os.getpid) == os.getpid()
            assert not running.done()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_a_missing_program_raises_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await try_command(["no-such-program"], folder=tmp_path, env={}, user=None, timeout_s=1)


def test_lines_cannot_act_on_a_terminal() -> None:
    assert last_lines("\x1b[2Jgone\r\x1b]0;title\x07\n\n\u202ereversed\n") == [
        "\\x1b[2Jgone",
        "\\x1b]0;title\\x07",
        "\\u202ereversed",
    ]
