"""Ends commands early: on Ctrl-C, on SIGTERM (for instance from `timeout`), and on SIGHUP when the terminal closes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Coroutine
from typing import Any, TextIO, TypeVar

T = TypeVar("T")

INTERRUPTED = 128 + signal.SIGINT
"""Exit code after a Ctrl-C."""
READER_GONE = 128 + signal.SIGPIPE
"""Exit code of a command whose output is no longer read, as shells report it."""

_received: list[signal.Signals] = []
"""The signals beside SIGINT that this command has received; the first one ended it."""


def ending_signals() -> list[signal.Signals]:
    """Return the signals beside SIGINT that end a command: SIGTERM and SIGHUP, unless ignored (as by `nohup`)."""
    both = (signal.SIGTERM, signal.SIGHUP)
    return [number for number in both if signal.getsignal(number) is not signal.SIG_IGN]


def run_command(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work to its end. SIGTERM and SIGHUP cancel it, as Ctrl-C does, so that it can clean up.

    Raises:
        asyncio.CancelledError: One of the two signals arrived; `exit_code` returns the exit code.
    """
    _received.clear()
    if threading.current_thread() is threading.main_thread() and callable(signal.getsignal(signal.SIGINT)):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # asyncio turns its KeyboardInterrupt into a cancel

    async def cancellable() -> T:
        asyncio.get_running_loop().call_soon(_collect_garbage)  # runs once the work has imported and awaits something
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is a coroutine that runs

        def end(number: signal.Signals) -> None:
            _received.append(number)
            task.cancel()

        if threading.current_thread() is threading.main_thread():  # other threads may not set signal handlers
            for number in ending_signals():
                asyncio.get_running_loop().add_signal_handler(number, end, number)
        return await work

    return asyncio.run(cancellable())


def _collect_garbage() -> None:
    """Enable the garbage collector, which `main` has disabled, and exempt what was imported from collection.

    The first collection would otherwise go through all imported objects, which took 0.05 s of CPU.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def exit_code() -> int:
    """Return the exit code of an interrupted command: 128 plus the signal's number."""
    return 128 + _received[0] if _received else INTERRUPTED


def leave_quiet(stream: TextIO) -> None:
    """Redirect *stream*, whose reader or terminal is gone, to /dev/null, so that further writes do not fail."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def flush_all() -> None:
    """Flush stdout and stderr; a reader that is gone is ignored."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            leave_quiet(stream)
