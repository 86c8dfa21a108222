"""`prebuilds replay`: whether this release can go on with workflows that another has begun."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from prebuilds.cli import output
from prebuilds.cli.ending import run_command
from prebuilds.cli.output import document, progress, say_line
from prebuilds.cli.worker import prefer_checkout

if TYPE_CHECKING:
    from prebuilds.views import Replayed


def replay(
    files: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="FILE", help="A history from `temporal workflow show -o json`, also gzipped"),
    ] = None,
    workflow_ids: Annotated[
        list[str] | None, typer.Option("--workflow-id", metavar="ID", help="A workflow of this namespace")
    ] = None,
) -> None:
    """Replay histories against this release's workflows, and name the first event that it would do differently. The
    exit code is 1 if there is one. Repeat the options for several histories. Nothing is changed anywhere."""

    async def go() -> bool:
        if not files and not workflow_ids:
            raise typer.BadParameter("name a history by --from FILE or --workflow-id ID")
        prefer_checkout()
        from prebuilds import replaying

        with progress("replaying"):
            report = await replaying.replay(files or (), workflow_ids or ())
        document(report)
        if not output.AS_JSON:
            for each in report.histories:
                say_line(_in_words(each))
        return report.ok

    if not run_command(go()):
        raise typer.Exit(1)


def _in_words(each: Replayed) -> str:
    which = f"{each.workflow_type} {each.workflow_id}"
    if each.difference is None:
        return f"{which}: {each.events} events replay"
    at = f"event {each.difference.event_id}, {each.difference.event_type}"
    return f"{which}: differs at {at} of {each.events}: {each.difference.message}"
