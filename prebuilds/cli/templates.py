"""`prebuilds templates`: list, deprecate and delete templates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from prebuilds.cli.connections import operations
from prebuilds.cli.ending import run_command
from prebuilds.cli.lists import After, All, Limit, ListTable, run_list
from prebuilds.cli.output import document
from prebuilds.cli.system import actor

if TYPE_CHECKING:
    from prebuilds.views import TemplateRow

app = typer.Typer(help="List, deprecate and delete templates; `prebuilds apply` creates them.", no_args_is_help=True)

Template = Annotated[str, typer.Argument(help="organization/template, or an id")]


@app.command("list")
def list_(limit: Limit = 100, after: After = None, all_: All = False) -> None:
    """List the live templates."""
    run_list(TEMPLATES, lambda system: system.templates.list, limit, after, all_)


def _row(t: TemplateRow) -> tuple[object, ...]:
    what = (f"{t.organization}/{t.template}", t.version, t.provisioner, t.queue, t.presets)
    return (*what, t.workspaces, t.deprecated, t.id)


TEMPLATES = ListTable(
    "templates",
    ("TEMPLATE", "VERSION", "PROVISIONER", "QUEUE", "PRESETS", "WORKSPACES", "DEPRECATED", "ID"),
    _row,
    empty="no templates; see `prebuilds apply`",
    drop=("QUEUE", "PROVISIONER", "DEPRECATED", "VERSION"),
)


@app.command()
def deprecate(
    template: Template, undo: Annotated[bool, typer.Option("--undo", help="Put the template back into use")] = False
) -> None:
    """Take a template out of use: nobody can claim from it, and its pools are emptied. Claimed workspaces go on."""

    async def go() -> None:
        async with operations() as system:
            done = await system.templates.deprecate(actor(), template, undo=undo)
        now = "in use again" if undo else "deprecated; its pools are being emptied"
        already = "not deprecated" if undo else "deprecated already"
        document(done, human=f"{done.template} is {now if done.changed else already}")

    run_command(go())


@app.command()
def delete(template: Template) -> None:
    """Delete a template and empty its pools. Claimed workspaces stay with their owners; the name can be used again."""

    async def go() -> None:
        async with operations() as system:
            done = await system.templates.delete(actor(), template)
        outcome = "deleted; its pools are being emptied" if done.changed else "deleted already"
        document(done, human=f"{done.template} is {outcome}")

    run_command(go())
