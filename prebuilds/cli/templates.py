"""`prebuilds templates`: list them, take them out of use."""

from __future__ import annotations

from typing import Annotated

import typer

from prebuilds.cli import output
from prebuilds.cli.connections import operations
from prebuilds.cli.ending import run_command
from prebuilds.cli.output import document, table
from prebuilds.cli.system import actor

app = typer.Typer(help="Templates; `prebuilds apply` makes them.", no_args_is_help=True)

Template = Annotated[str, typer.Argument(help="organization/template, or an id")]


@app.command("list")
def list_() -> None:
    """Live templates."""

    async def go() -> None:
        async with operations() as system:
            rows = await system.list_templates()
        document({"templates": rows})
        if not output.AS_JSON:
            table(
                ("TEMPLATE", "VERSION", "PROVISIONER", "QUEUE", "PRESETS", "WORKSPACES", "DEPRECATED", "ID"),
                [
                    (
                        *(f"{t.organization}/{t.template}", t.version, t.provisioner, t.queue, t.presets),
                        *(t.workspaces, t.deprecated, t.id),
                    )
                    for t in rows
                ],
                empty="no templates; see `prebuilds apply`",
            )

    run_command(go())


@app.command()
def deprecate(
    template: Template, undo: Annotated[bool, typer.Option("--undo", help="Put it back into use")] = False
) -> None:
    """Let nobody claim from a template any more, and empty its pools. Claimed workspaces go on."""

    async def go() -> None:
        async with operations() as system:
            done = await system.deprecate_template(template, actor(), undo=undo)
        now = "in use again" if undo else "deprecated; its pools are being emptied"
        already = "not deprecated" if undo else "deprecated already"
        document(done, human=f"{done.template} is {now if done.changed else already}")

    run_command(go())


@app.command()
def delete(template: Template) -> None:
    """Delete a template and empty its pools. Claimed workspaces stay with their owners; the name is free again."""

    async def go() -> None:
        async with operations() as system:
            done = await system.delete_template(template, actor())
        said = "deleted; its pools are being emptied" if done.changed else "deleted already"
        document(done, human=f"{done.template} is {said}")

    run_command(go())
