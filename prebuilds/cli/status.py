"""`prebuilds status`: the loop and the pools, once or again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from prebuilds.api import InvalidInput
from prebuilds.cli import output
from prebuilds.cli.connections import operations
from prebuilds.cli.ending import run_command
from prebuilds.cli.output import ago, document, say_line, table, table_lines
from prebuilds.cli.system import duration
from prebuilds.vocabulary.plain_text import escape
from prebuilds.vocabulary.words import held_in_words, one_line

if TYPE_CHECKING:
    from prebuilds.views import LoopStatus, PresetRow, SystemStatus

INTERVAL = "2s"
INTERVAL_MIN_S = 1.0
"""Each refresh counts every pool, so a watch that is forgotten must not become a load."""

_COLUMNS = (
    *("PRESET", "VERSION", "DESIRED", "READY", "ACTUAL", "STARTING", "STOPPING", "DELETING", "EXPIRED", "FAILED"),
    "HELD",
)
_STANDBY = "PAUSED"
"""The column of paused prebuilds, shown only if a pool should have or does have some."""
_DROP = ("EXPIRED", "VERSION", "DELETING", "STOPPING", "FAILED", "ACTUAL")
_EMPTY = "no presets; see `prebuilds apply`"


def status(
    watch: Annotated[
        bool, typer.Option("--watch", help="Until Ctrl-C: in place on a terminal, else a block at each change")
    ] = False,
    interval: Annotated[
        str | None, typer.Option(help=f"With --watch: between two refreshes; {INTERVAL} unless said")
    ] = None,
) -> None:
    """The loop, and each preset's pool."""
    every = _watch_interval(watch, interval)

    async def go() -> None:
        async with operations() as system:
            if every is not None:
                from prebuilds.cli.watching import watch_status

                await watch_status(system.status.read, every)
            found = await system.status.read()
        document(found)
        if not output.AS_JSON:
            _print_status(found)

    run_command(go())


def _watch_interval(watch: bool, interval: str | None) -> float | None:
    """The seconds between two refreshes; None for a status that is shown once.

    Raises:
        InvalidInput: The options cannot be combined, or the interval is no duration or too short.
    """
    if not watch:
        if interval is not None:
            raise InvalidInput.field("interval", "is for --watch only", remedy="add --watch, or leave --interval out")
        return None
    if output.AS_JSON or output.FORMAT == "name":
        other = "--json" if output.FORMAT is None else f"-o {output.FORMAT}"
        raise InvalidInput.field(
            "watch",
            f"cannot be combined with {other}, which prints one document and ends",
            remedy=f"leave out --watch, and repeat the command with {other} as often as you need it",
        )
    seconds = duration(interval or INTERVAL, "interval").total_seconds()
    if seconds < INTERVAL_MIN_S:
        raise InvalidInput.field("interval", f"must be at least {INTERVAL_MIN_S:g}s", remedy="give a longer interval")
    return seconds


def _print_status(found: SystemStatus) -> None:
    names_alone = output.FORMAT == "name"
    if not names_alone:
        for line in _head(found):
            say_line(line)
    columns, rows = _pools(found)
    table(columns, rows, empty=_EMPTY, drop=_DROP)
    if not names_alone:
        for line in _notes(found):
            say_line(line)


def status_lines(found: SystemStatus, width: int | None = None) -> list[str]:
    """Return the status as lines that are safe for a terminal.

    Args:
        width: Cells of a terminal's line, for which the table leaves out columns; None for no bound.
    """
    columns, rows = _pools(found)
    pools = table_lines(columns, rows, width, _DROP)[0] if rows else [_EMPTY]
    return [*map(escape, _head(found)), *pools, *map(escape, _notes(found))]


def _head(found: SystemStatus) -> list[str]:
    return [_loop_line(found.loop), f"deployment: {found.deployment_id}"]


def _loop_line(loop: LoopStatus) -> str:
    facts = [f"loop: {loop.state.replace('_', ' ')}"]
    if loop.cause and loop.state != "running":
        facts.append(f"cause: {loop.cause}")
    if loop.last_pass_at is not None:
        facts.append(f"{loop.passes} passes, the last {ago(loop.last_pass_at)}")
    if loop.paused:
        facts.append(f"paused by {loop.paused_by}: {loop.paused_reason}")
    if loop.note:
        facts.append(loop.note)
    return "; ".join(facts)


def _pools(found: SystemStatus) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Return the table's columns and rows."""
    rows = [_row(preset) for preset in found.presets]
    if not any(preset.standby or preset.paused for preset in found.presets):
        return _COLUMNS, rows
    paused = [f"{p.paused} of {p.standby}" if p.paused or p.standby else None for p in found.presets]
    with_paused = [(*row[:-1], shown, row[-1]) for row, shown in zip(rows, paused, strict=True)]
    return (*_COLUMNS[:-1], _STANDBY, _COLUMNS[-1]), with_paused


def _row(p: PresetRow) -> tuple[object, ...]:
    name = f"{p.organization}/{p.template}/{p.preset}" + ("" if p.active else " (inactive)")
    return (
        *(name, p.version, p.desired, p.eligible, p.actual, p.starting, p.stopping, p.deleting, p.expired, p.failed),
        held_in_words(p.held, p.held_until) if p.held is not None else None,
    )


def _notes(found: SystemStatus) -> list[str]:
    """The last error and the warnings of each preset."""
    lines = []
    for preset in found.presets:
        path = f"{preset.organization}/{preset.template}/{preset.preset}"
        if (last := preset.last_error) is not None:
            lines.append(f"last error of {path}, {ago(last.at)}: {one_line(last.message)}")
        lines += [f"warning for {path}: {warning}" for warning in preset.warnings]
    return lines
