"""`prebuilds logs`: prints a build's log and how the build ended."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from prebuilds.cli import output
from prebuilds.cli.connections import build_logs
from prebuilds.cli.ending import run_command
from prebuilds.cli.output import document, say, say_line
from prebuilds.vocabulary.words import clock

if TYPE_CHECKING:
    from prebuilds.views import LoggedBuild, LogLine

INDENT = "    "
KEPT_IN_WORDS = "; old lines are removed (PREBUILDS_RETENTION_LOGS)"


def logs(
    of: Annotated[str, typer.Argument(metavar="BUILD|WORKSPACE", help="A build's id, a workspace's id, or owner/name")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print new lines until the build has ended")] = False,
    all_: Annotated[
        bool, typer.Option("--all", help="For a workspace: the logs of all builds, not only of the latest")
    ] = False,
) -> None:
    """Print the log of a build, or of a workspace's latest build. A failed build's error is the last line.

    For a released workspace it is the log of the latest build that has lines.
    """

    async def go() -> None:
        printed: list[LogLine] = []
        async with build_logs() as system:
            builds = await system.builds(of) if all_ else [await system.latest(of)]
            released_at = builds[-1].released_at
            for build in builds:
                has_heading = all_ or released_at is not None
                if has_heading and not output.AS_JSON:
                    _print_heading(build)
                async for line in system.lines(build, follow=follow):
                    if not output.AS_JSON:
                        _print(line, build.created_at if has_heading else datetime.now(UTC))
                    printed.append(line)
        document({"released_at": released_at, "lines": printed})
        if not output.AS_JSON:
            _print_end(bool(printed), released_at)

    run_command(go())


def _print_heading(build: LoggedBuild) -> None:
    stage = "" if build.stage == "none" else f" ({build.stage})"
    say_line(f"{clock(build.created_at, None)} {build.transition}{stage}, build {build.id}")


def _print(line: LogLine, near: datetime) -> None:
    # The indent keeps an error's further lines apart from our lines, which begin with a time.
    say(f"{clock(line.at, near)} {line.line}".replace("\n", f"\n{INDENT}"))


def _print_end(has_lines: bool, released_at: datetime | None) -> None:
    """Print what the lines do not show: that the workspace was released, and that there are no lines."""
    if released_at is not None:
        say_line(f"its workspace was deleted at {clock(released_at, None)}")
    if not has_lines:
        say_line(f"nothing is logged{KEPT_IN_WORDS if released_at is not None else ''}")
