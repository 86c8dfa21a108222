"""How a command ends before its time: by Ctrl-C, by SIGTERM as from `timeout`, or with its terminal, by SIGHUP."""

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
READER_GONE = 128 + signal.SIGPIPE
"""As a shell gives it for a command whose output nobody reads any longer."""

_told: list[signal.Signals] = []
"""The signal that ended this command, if one did."""


def ending_signals() -> list[signal.Signals]:
    """Those beside Ctrl-C's that end a command; what it was started to ignore, as by `nohup`, it goes on to ignore."""
    both = (signal.SIGTERM, signal.SIGHUP)
    return [number for number in both if signal.getsignal(number) is not signal.SIG_IGN]


def run_command(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work to its end; SIGTERM and SIGHUP cancel it, as Ctrl-C does, so that it can clean up.

    Raises:
        asyncio.CancelledError: One of them came; `exit_code` says what to end with.
    """
    _told.clear()
    if threading.current_thread() is threading.main_thread() and callable(signal.getsignal(signal.SIGINT)):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which asyncio turns into a cancellation

    async def cancellable() -> T:
        gc.enable()  # off since `main`, for the imports
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is a coroutine that runs

        def end(number: signal.Signals) -> None:
            _told.append(number)
            task.cancel()

        if threading.current_thread() is threading.main_thread():  # no other one may hear of signals
            for number in ending_signals():
                asyncio.get_running_loop().add_signal_handler(number, end, number)
        return await work

    return asyncio.run(cancellable())


def exit_code() -> int:
    """Of a command that was interrupted: 128 and the signal's number."""
    return 128 + _told[0] if _told else INTERRUPTED


def leave_quiet(stream: TextIO) -> None:
    """Let *stream*, whose reader or terminal is gone, take what is still said."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def flush_all() -> None:
    """Print what is still to be printed, unless nobody is there to read it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            leave_quiet(stream)
