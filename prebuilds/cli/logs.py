"""`prebuilds logs`: what a build's driver told, and how it ended."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from prebuilds.cli import output
from prebuilds.cli.connections import build_logs
from prebuilds.cli.ending import run_command
from prebuilds.cli.output import document, say, say_line
from prebuilds.cli.system import clock

if TYPE_CHECKING:
    from prebuilds.views import LoggedBuild, LogLine

INDENT = "    "


def logs(
    of: Annotated[str, typer.Argument(metavar="BUILD|WORKSPACE", help="A build's id; a workspace's, or owner/name")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the build has ended")] = False,
    all_: Annotated[
        bool, typer.Option("--all", help="Of a workspace: every build's, not only the latest one's")
    ] = False,
) -> None:
    """The log of a build, or of a workspace's latest build. Its error is the last line.

    Of a released workspace it is that of the latest build that told anything.
    """

    async def go() -> None:
        told: list[LogLine] = []
        async with build_logs() as system:
            builds = await system.builds(of) if all_ else [await system.latest(of)]
            released_at = builds[-1].released_at
            for build in builds:
                headed = all_ or released_at is not None
                if headed and not output.AS_JSON:
                    _print_heading(build)
                async for line in system.lines(build, follow=follow):
                    if not output.AS_JSON:
                        _print(line, build.created_at if headed else datetime.now(UTC))
                    told.append(line)
        document({"released_at": released_at, "lines": told})
        if not output.AS_JSON:
            _print_end(bool(told), released_at)

    run_command(go())


def _print_heading(build: LoggedBuild) -> None:
    stage = "" if build.stage == "none" else f" ({build.stage})"
    say_line(f"{clock(build.created_at, None)} {build.transition}{stage}, build {build.id}")


def _print(line: LogLine, near: datetime) -> None:
    say(
        f"{clock(line.at, near)} {line.line}".replace("\n", f"\n{INDENT}")
    )  # an error's further lines look like none of ours


def _print_end(told: bool, released_at: datetime | None) -> None:
    """What the lines do not say: that there are none, and whether the workspace is there."""
    from prebuilds.operations.logs import LOG_DAYS

    if released_at is not None:
        say_line(f"its workspace is gone, since {clock(released_at, None)}")
    if not told:
        kept = f"; lines are kept for {LOG_DAYS} days after a build's end" if released_at is not None else ""
        say_line(f"nothing is logged{kept}")
