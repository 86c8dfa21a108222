"""Runs a command that may hang: its time and its output are bounded, and its children are killed with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from prebuilds.provisioners.kit.confined import start_session
from prebuilds.provisioners.kit.finishing import to_the_end

OUTPUT_KEPT = 16_384
"""Maximum number of bytes of output that are kept; the last ones are."""
POLL_S = 0.05
CHUNK = 65_536
LAST_CHUNKS = 4
"""Maximum number of reads after the command has ended: its children may go on writing for ever."""


@dataclass(frozen=True, slots=True)
class Tried:
    """How a command has ended."""

    code: int | None
    """Its exit code, negative for a signal; None if it took too long and was killed."""
    output: str
    """The end of its output."""


async def try_command(
    argv: Sequence[str], *, folder: Path, env: Mapping[str, str], user: int | None, timeout_s: float
) -> Tried:
    """Run *argv* in a session of its own.

    Kill that session when the command has ended, when *timeout_s* has passed, or on a cancellation.

    Args:
        user: User id to run it as, without any further rights; None for the worker's user.
    Raises:
        OSError: The program cannot be started.
    """
    stop = threading.Event()
    # Uses a thread of its own: commands that take an hour would block the few threads that the event loop shares.
    with _own_thread() as thread:
        running = asyncio.ensure_future(
            asyncio.get_running_loop().run_in_executor(thread, _run, argv, folder, env, user, timeout_s, stop)
        )
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            stop.set()
            with contextlib.suppress(OSError):
                await to_the_end(running)
            raise


@contextlib.contextmanager
def _own_thread() -> Iterator[ThreadPoolExecutor]:
    thread = ThreadPoolExecutor(1, "tried-command")
    try:
        yield thread
    finally:
        thread.shutdown(wait=False)


def _run(
    argv: Sequence[str],
    folder: Path,
    env: Mapping[str, str],
    user: int | None,
    timeout_s: float,
    stop: threading.Event,
) -> Tried:
    reading, writing = os.pipe()
    try:
        os.set_blocking(reading, False)
        try:
            child = start_session(argv, user=user, folder=folder, env=env, output=writing)
        finally:
            os.close(writing)
        ends_at, kept, ended = time.monotonic() + timeout_s, b"", False
        with selectors.DefaultSelector() as selector:
            selector.register(reading, selectors.EVENT_READ)
            while not ended and time.monotonic() < ends_at and not stop.is_set():
                if not selector.get_map():  # it has closed its output, and still runs
                    time.sleep(POLL_S)
                elif selector.select(POLL_S):
                    chunk = _read(reading)
                    kept = (kept + chunk)[-OUTPUT_KEPT:]
                    if not chunk:
                        selector.unregister(reading)
                ended = _has_ended(child)
        # Kill before reaping: until the process is reaped, no other process can have its number.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        code = child.wait()
        for _ in range(LAST_CHUNKS):
            kept = (kept + _read(reading))[-OUTPUT_KEPT:]
        return Tried(code if ended else None, kept.decode(errors="replace"))
    finally:
        os.close(reading)


def _read(reading: int) -> bytes:
    try:
        return os.read(reading, CHUNK)
    except BlockingIOError:
        return b""


def _has_ended(child: subprocess.Popen[bytes]) -> bool:
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
