"""The `prebuilds` command. `main` is its entry; `run` is the same without the end of the process."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Any

DONE, REFUSED, USAGE, UNREACHABLE = 0, 1, 2, 3


def run(argv: Sequence[str]) -> int:
    """Run one command line; returns its exit code. Expected errors are printed, never raised."""
    from prebuilds.api import PrebuildsError, StackUnreachable, StoreUnavailable
    from prebuilds.cli import output
    from prebuilds.cli.app import USAGE_ERROR, app
    from prebuilds.cli.ending import INTERRUPTED, exit_code
    from prebuilds.cli.wording import in_options

    output.AS_JSON = "--json" in argv
    words = [word for word in argv if word != "--json"]
    try:
        code = app(words, prog_name="prebuilds", standalone_mode=False)
    except USAGE_ERROR as error:
        return _end_misused(error)
    except (KeyboardInterrupt, asyncio.CancelledError):
        code = INTERRUPTED
    except (StackUnreachable, StoreUnavailable) as error:
        output.error(error.type, str(error), error.details)
        return UNREACHABLE
    except PrebuildsError as error:
        # A program reads the fields that its other requests have; a person, what they typed.
        output.error(error.type, str(error) if output.AS_JSON else in_options(words, error), error.details)
        return REFUSED
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            output.error("InvalidInput", f"{error.filename}: {error.strerror}; name a path that can be used")
            return REFUSED
        if (lost := _lost(error)) is None:
            raise
        output.error("StackUnreachable", lost)
        return UNREACHABLE
    if code == INTERRUPTED:  # typer gives a Ctrl-C back as a code
        output.note("interrupted")
        code = exit_code()
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


def _lost(error: Exception) -> str | None:
    """What to tell of an error when it means that Temporal or the database is away."""
    from temporalio.service import RPCError, RPCStatusCode

    from prebuilds.store.engine import is_lost
    from prebuilds.temporal.connecting import START_TEMPORAL, is_failed_connect

    if isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND and "Namespace" in error.message:
        return f"{error.message.rstrip('.')}; {START_TEMPORAL}"
    if is_failed_connect(error):
        return f"cannot reach Temporal ({error}); {START_TEMPORAL}"
    if isinstance(error, RPCError) or is_lost(error):
        return f"the connection was lost ({type(error).__name__}: {error}); try again"
    return None


def main() -> None:
    from prebuilds.cli.ending import flush_all
    from prebuilds.telemetry.undumpable import close_to_others

    close_to_others()  # first: the environment may hold the database's password, and `dev` runs beside workspaces
    try:
        code = run(sys.argv[1:])
    except Exception as error:
        from prebuilds.telemetry.logs import print_uncaught

        print_uncaught(type(error), error, error.__traceback__)
        code = REFUSED
    flush_all()
    # The SDK's core may abort while the interpreter winds down (temporalio/sdk-python#300); all work is done here.
    os._exit(code)
