"""`prebuilds apply`: applies template files as one change, or shows what they would change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prebuilds.api import InvalidInput
from prebuilds.cli.connections import operations
from prebuilds.cli.ending import run_command
from prebuilds.cli.output import document
from prebuilds.cli.system import actor

if TYPE_CHECKING:
    from prebuilds.templates import ApplyResult, TemplateFile

STDIN = "-"
VALUE_LENGTH_MAX = 60
"""Maximum characters of an old or new value in the output for people; JSON has the whole values."""


def apply(
    file: Annotated[
        list[Path], typer.Option("--file", "-f", help="A template file, YAML; - for standard input; repeat for more")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, without changing it")] = False,
) -> None:
    """Create or update organizations, members, templates and presets from files, as one change. Applying the same files
    again changes nothing."""

    async def go() -> None:
        parsed = _read_all(file)
        async with operations() as system:
            done = await system.templates.apply(actor(), parsed, dry_run=dry_run)
        document(done, human="\n".join(_describe_result(done, dry_run=dry_run)))

    run_command(go())


def _describe_result(done: ApplyResult, *, dry_run: bool) -> list[str]:
    lines = ["dry run, nothing was changed"] if dry_run else []
    lines += [f"{what}: {', '.join(items)}" for what in ("created", "updated") if (items := getattr(done, what))]
    lines += [f"  {c.what}: {c.field}: {_shorten(c.old)} -> {_shorten(c.new)}" for c in done.changes]
    lines += [f"activated: version {v.version} of {v.template}" for v in done.versions]
    for what in ("replaced", "removed"):
        for pool in getattr(done, what):
            be = "would be" if dry_run else "is being" if pool.prebuilds == 1 else "are being"
            lines.append(f"{what}: {_pluralize(pool.prebuilds, 'prebuild')} of {pool.preset} {be} {what}")
    if done.kept:
        prebuilds = _pluralize(sum(pool.prebuilds for pool in done.kept), "prebuild")
        lines.append(f"kept: {prebuilds} of {_pluralize(len(done.kept), 'preset')} with the same content")
    return lines + ([f"unchanged: {len(done.unchanged)}"] if done.unchanged else [])


def _pluralize(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _shorten(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    text = " ".join(text.split())
    return text if len(text) <= VALUE_LENGTH_MAX else f"{text[:VALUE_LENGTH_MAX]}..."


def _read_all(files: list[Path]) -> TemplateFile:
    """Read all *files* and join them into one.

    Raises:
        InvalidInput: It names every fault of every file.
    """
    from prebuilds.templates import join_files, parse_template_file

    if [str(file) for file in files].count(STDIN) > 1:
        raise InvalidInput.field("file", "standard input can be read only once", "give the others as files")
    if len(files) == 1:
        return parse_template_file(_read(files[0]), _name(files[0]))
    parsed, faults = [], []
    details: dict[str, str] = {}
    for file in dict.fromkeys(files):  # a file that is given twice is read once
        try:
            parsed.append((_name(file), parse_template_file(_read(file), _name(file))))
        except InvalidInput as error:
            faults.append(str(error))
            details |= {f"{_name(file)}: {field}": message for field, message in error.details.items()}
    if faults:
        raise InvalidInput("\n".join(faults), details)
    return join_files(parsed)


def _name(file: Path) -> str:
    return "standard input" if str(file) == STDIN else str(file)


def _read(file: Path) -> str:
    import sys

    try:
        return sys.stdin.read() if str(file) == STDIN else file.read_text()
    except UnicodeDecodeError as error:
        raise InvalidInput.field("file", f"{file} is no UTF-8 text", "give a template file in YAML") from error
    except OSError as error:
        reason = (error.strerror or "no reason given").lower()
        raise InvalidInput.field("file", f"{file} cannot be read ({reason})", "name a file that can") from error
