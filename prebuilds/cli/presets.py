"""`prebuilds presets`: list and lint presets, replace their prebuilds, and lift holds on their creations."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from prebuilds.cli import output
from prebuilds.cli.connections import lints, operations
from prebuilds.cli.ending import run_command
from prebuilds.cli.lists import After, All, Limit, ListTable, run_list
from prebuilds.cli.output import document, progress, table
from prebuilds.cli.system import actor

if TYPE_CHECKING:
    from prebuilds.views import PresetInfo
    from prebuilds.views.presets import TargetRow

app = typer.Typer(help="List presets and operate their pools.", no_args_is_help=True)

Template = Annotated[str | None, typer.Option(help="organization/template, or an id")]


@app.command("list")
def list_(template: Template = None, limit: Limit = 100, after: After = None, all_: All = False) -> None:
    """List the presets of the active versions, with what a claim of each can expect now. `prebuilds status` shows
    more of their pools."""
    run_list(PRESETS, lambda system: partial(system.presets.list, template), limit, after, all_)


def _row(p: PresetInfo) -> tuple[object, ...]:
    notes = [*(["default"] if p.default else []), *([] if p.active else ["inactive"])]
    name = f"{p.organization}/{p.template}/{p.preset}" + (f" ({', '.join(notes)})" if notes else "")
    expires = f"{p.expire_after_seconds:g}s" if p.expire_after_seconds else None
    parameters = [f"{key}={value}" for key, value in sorted(p.parameters.items())]
    windows = [f"{w.cron}: {w.count}" for w in p.schedule]
    zone = f" ({p.timezone})" if windows else ""
    schedule = f"{'; '.join(windows)}{zone}" if windows else None
    instances = "no pool" if p.instances is None else p.instances
    settable = [f"{name}=?" for name in p.claim_parameters]
    wait = None if p.estimated_wait_seconds is None else f"{p.estimated_wait_seconds:.0f}s"
    return (
        *(name, p.version, instances, p.ready, p.starting, wait, expires),
        *(" ".join([*parameters, *settable]) or None, schedule),
        None if p.target is None else _target(p.target, p.size),
        *(p.last_invalidated_at, p.preset_id),
    )


def _target(target: TargetRow, size: int | None) -> str:
    """Describe a target and its size, such as `99% act: 7`."""
    rate, wait = target.hit_rate, target.wait_p95_seconds
    wish = f"{100 * rate:g}%" if rate is not None else f"{wait:g}s"
    return f"{wish} {target.mode}: {'-' if size is None else size}"


PRESETS = ListTable(
    "presets",
    (
        *("PRESET", "VERSION", "INSTANCES", "READY", "STARTING", "WAIT", "EXPIRES AFTER"),
        *("PARAMETERS", "SCHEDULE", "TARGET", "INVALIDATED", "ID"),
    ),
    _row,
    empty="no presets; see `prebuilds apply`",
    drop=("INVALIDATED", "SCHEDULE", "TARGET", "PARAMETERS", "EXPIRES AFTER", "VERSION", "STARTING", "WAIT", "READY"),
)


@app.command()
def invalidate(
    preset: Annotated[str | None, typer.Argument(help="organization/template/preset, or an id")] = None,
    template: Template = None,
) -> None:
    """Replace all existing prebuilds of a preset or template. None of them can be claimed from now on."""

    async def go() -> None:
        if (preset is None) == (template is None):
            raise typer.BadParameter("give a preset or --template, not both")
        async with operations() as system:
            done = await system.presets.invalidate(actor(), preset=preset, template=template)
        document(done, human=f"presets invalidated: {done.presets}, prebuilds to be replaced: {done.prebuilds}")

    run_command(go())


@app.command()
def resume(preset: Annotated[str, typer.Argument(help="organization/template/preset, or an id")]) -> None:
    """Lift the hold that failed creations put on a preset, and try again now."""

    async def go() -> None:
        async with operations() as system:
            done = await system.presets.lift_holds(actor(), preset)
        outcome = f"resumed: {done.lifted} is lifted" if done.lifted else "not held by failed creations"
        document(done, human=f"{done.preset}: {outcome}")

    run_command(go())


@app.command()
def lint(preset: Annotated[str, typer.Argument(help="organization/template/preset, or an id")]) -> None:
    """Plan a claim of a ready prebuild without applying it, and list the resources that it would replace (exit code 1
    if there are any)."""

    async def go() -> None:
        from prebuilds.api import ClaimWouldReplace

        async with lints() as linting:
            with progress("planning a claim"):
                report = await linting.preset(preset)
        if not report.replacements:
            document(report, human=f"{report.preset}: a claim replaces nothing")
            return
        if not output.AS_JSON:
            rows = [(one.resource, ", ".join(one.paths) or "its plan") for one in report.replacements]
            table(("REPLACED", "FORCED BY"), rows, empty="")
        raise ClaimWouldReplace(
            f"a claim of {report.preset} replaces {len(report.replacements)} of its resources",
            report.model_dump(mode="json"),
            remedy="do not use owner, name or claim parameters in attributes that cannot change in place",
        )

    run_command(go())
