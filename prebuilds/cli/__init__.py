"""The `prebuilds` command. `main` is its entry; `run` is the same without the end of the process.

Little is imported here, so that a Ctrl-C finds `main` as early as it can.
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


def run(argv: Sequence[str]) -> int:
    """Run one command line; returns its exit code. Expected errors are printed, never raised."""
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
            return _end_misused(error)
        except (KeyboardInterrupt, CancelledError):
            code = INTERRUPTED
        except output.OutputFailed:
            raise
        except Exception as error:
            return _tell(error, words)
        if code == INTERRUPTED:  # typer gives a Ctrl-C back as a code
            output.interrupted()
            code = exit_code()
    except output.OutputFailed as failed:
        leave_quiet(sys.stdout)
        if failed.reader_gone:  # as by `| head`: nobody is there to be told
            return READER_GONE
        output.note(f"error: OutputFailed: {failed}")
        return REFUSED
    return code if isinstance(code, int) else DONE


def _end_misused(error: Any) -> int:
    """Say what is wrong with the command line; one that only names a group is a question for its help."""
    from prebuilds.cli import output
    from prebuilds.cli.app import is_missing_command

    if is_missing_command(error):
        output.say(error.format_message())
        return DONE
    output.error("UsageError", error.format_message())
    if not output.AS_JSON and getattr(error, "ctx", None) is not None:
        output.say(f"see: {error.ctx.command_path} --help", err=True)
    return USAGE


def _tell(error: Exception, words: Sequence[str]) -> int:
    """Print what ended a command; returns its exit code. Raises *error* again where it is a bug."""
    from prebuilds.api import StackUnreachable, StoreUnavailable
    from prebuilds.cli import output
    from prebuilds.cli.refusals import in_options
    from prebuilds.failures import as_typed

    found = as_typed(error)
    if found is None:
        raise error
    # A program reads the fields that its other requests have; a person, the options that they typed.
    output.failed(found, None if output.AS_JSON else in_options(words, found))
    return UNREACHABLE if isinstance(found, StackUnreachable | StoreUnavailable) else REFUSED


def main() -> None:
    # Imports make objects that stay: collections during them find nothing, and take a tenth of a command's start.
    gc.disable()
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupted_early)
    from prebuilds.cli.ending import INTERRUPTED, flush_all
    from prebuilds.telemetry.undumpable import close_to_others

    close_to_others()  # first: the environment may hold the database's password, and `dev` runs beside workspaces
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while an error was being told
        code = INTERRUPTED
    except Exception as error:
        from prebuilds.cli import output
        from prebuilds.telemetry.logs import print_uncaught

        print_uncaught(type(error), error, error.__traceback__)
        if output.AS_JSON:
            output.error("InternalError", f"{type(error).__name__}; its traceback is on stderr")
        code = REFUSED
    signal.signal(signal.SIGINT, before)
    flush_all()
    # The SDK's core may abort while the interpreter winds down (temporalio/sdk-python#300); all work is done here.
    os._exit(code)


def _interrupted_early(_: int, __: FrameType | None) -> None:
    """End at once on a Ctrl-C before the command's own work has begun: nothing is there to be cleaned up.

    Python's own handler would raise in the middle of an import, whose traceback hides what happened.
    """
    if "--json" in sys.argv[1:]:
        os.write(1, b'{"error": {"type": "Interrupted", "message": "interrupted", "details": {}, "remedy": ""}}\n')
    else:
        os.write(2, b"interrupted\n")
    os._exit(128 + signal.SIGINT)
