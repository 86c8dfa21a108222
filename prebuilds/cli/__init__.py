"""The `prebuilds` command. `main` is its entry point; `run` does the same without ending the process.

This module imports little, so that `main` can handle a Ctrl-C as early as possible.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

DONE, REFUSED, USAGE, UNREACHABLE = 0, 1, 2, 3
"""Exit codes: success, a refusal or failure, a wrong command line, Temporal or the database away."""


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code. Expected errors are printed; only bugs are raised."""
    from asyncio import CancelledError

    from prebuilds.cli import output
    from prebuilds.cli.app import USAGE_ERROR, app
    from prebuilds.cli.ending import INTERRUPTED, READER_GONE, exit_code, leave_quiet

    words: Sequence[str] = argv
    try:
        try:
            words = output.begin(argv)
            code = app(words, prog_name="prebuilds", standalone_mode=False)
        except USAGE_ERROR as error:
            return _report_usage_error(error)
        except (KeyboardInterrupt, CancelledError):
            code = INTERRUPTED
        except output.OutputFailed:
            raise
        except Exception as error:
            return _report_error(error, words)
        if code == INTERRUPTED:  # typer returns this code after a Ctrl-C
            output.print_interrupted()
            code = exit_code()
    except output.OutputFailed as failed:
        leave_quiet(sys.stdout)
        if failed.reader_gone:  # for instance `| head`: nobody reads a message
            return READER_GONE
        output.note(f"error: OutputFailed: {failed}")
        return REFUSED
    return code if isinstance(code, int) else DONE


def _report_usage_error(error: Any) -> int:
    """Print what is wrong with the command line, or a group's help if only the group was named."""
    from prebuilds.cli import output
    from prebuilds.cli.app import is_missing_command

    if is_missing_command(error):
        output.say(error.format_message())
        return DONE
    output.print_error("UsageError", error.format_message())
    if not output.AS_JSON and getattr(error, "ctx", None) is not None:
        output.say(f"see: {error.ctx.command_path} --help", err=True)
    return USAGE


def _report_error(error: Exception, words: Sequence[str]) -> int:
    """Print the error that ended a command and return the exit code. Raises *error* again if it is a bug."""
    from prebuilds.api import StackUnreachable, StoreUnavailable
    from prebuilds.cli import output
    from prebuilds.cli.refusals import in_options
    from prebuilds.failures import as_typed

    typed = as_typed(error)
    if typed is None:
        raise error
    # A program gets the names of the request's fields, a person the names of the options.
    output.print_failure(typed, None if output.AS_JSON else in_options(words, typed))
    return UNREACHABLE if isinstance(typed, StackUnreachable | StoreUnavailable) else REFUSED


def main() -> None:
    """Run the command line of this process and end the process with its exit code."""
    # Objects created by imports stay alive: collections during imports find nothing and take 10 % of a command's start.
    gc.disable()
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupted_early)
    from prebuilds.cli.ending import INTERRUPTED, flush_all
    from prebuilds.telemetry.undumpable import close_to_others

    close_to_others()  # first: the environment may hold the database's password, and `dev` runs beside workspaces
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while an error was being printed
        code = INTERRUPTED
    except Exception as error:
        from prebuilds.cli import output
        from prebuilds.telemetry.logs import print_uncaught

        print_uncaught(type(error), error, error.__traceback__)
        if output.AS_JSON:
            output.print_error("InternalError", f"{type(error).__name__}; its traceback is on stderr")
        code = REFUSED
    signal.signal(signal.SIGINT, before)
    flush_all()
    # The SDK's core may abort during interpreter shutdown (temporalio/sdk-python#300); all work is done here.
    os._exit(code)


def _interrupted_early(_: int, __: FrameType | None) -> None:
    """End the process at once on a Ctrl-C before the command's own work has begun; there is nothing to clean up.

    Python's own handler would raise in the middle of an import and print a traceback.
    """
    if "--json" in sys.argv[1:]:
        os.write(1, b'{"error": {"type": "Interrupted", "message": "interrupted", "details": {}, "remedy": ""}}\n')
    else:
        os.write(2, b"interrupted\n")
    os._exit(128 + signal.SIGINT)
