"""`prebuilds apply`: what files say becomes so, as one change; or what that would change."""

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
"""Of an old and of a new value, in a line for people; JSON has them whole."""


def apply(
    file: Annotated[
        list[Path], typer.Option("--file", "-f", help="A template file, YAML; - for standard input; repeat for more")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, and change nothing")] = False,
) -> None:
    """Make organizations, members, templates and presets as files say, all as one change. The same files again change
    nothing."""

    async def go() -> None:
        parsed = _read_all(file)
        async with operations() as system:
            done = await system.templates.apply(actor(), parsed, dry_run=dry_run)
        document(done, human="\n".join(_in_words(done, dry_run=dry_run)))

    run_command(go())


def _in_words(done: ApplyResult, *, dry_run: bool) -> list[str]:
    lines = ["dry run, nothing was changed"] if dry_run else []
    lines += [f"{what}: {', '.join(items)}" for what in ("created", "updated") if (items := getattr(done, what))]
    lines += [f"  {c.what}: {c.field}: {_shown(c.old)} -> {_shown(c.new)}" for c in done.changes]
    lines += [f"activated: version {v.version} of {v.template}" for v in done.versions]
    for what in ("replaced", "removed"):
        for pool in getattr(done, what):
            be = "would be" if dry_run else "is being" if pool.prebuilds == 1 else "are being"
            lines.append(f"{what}: {_count(pool.prebuilds, 'prebuild')} of {pool.preset} {be} {what}")
    if done.kept:
        prebuilds = sum(pool.prebuilds for pool in done.kept)
        lines.append(
            f"kept: {_count(prebuilds, 'prebuild')} of {_count(len(done.kept), 'preset')} with the same content"
        )
    return lines + ([f"unchanged: {len(done.unchanged)}"] if done.unchanged else [])


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _shown(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    text = " ".join(text.split())
    return text if len(text) <= VALUE_LENGTH_MAX else f"{text[:VALUE_LENGTH_MAX]}..."


def _read_all(files: list[Path]) -> TemplateFile:
    """All of *files* as one.

    Raises:
        InvalidInput: With everything that is wrong in any of them.
    """
    from prebuilds.templates import join_files, parse_template_file

    if [str(file) for file in files].count(STDIN) > 1:
        raise InvalidInput.field("file", "standard input can be read once only", "give the others by files")
    if len(files) == 1:
        return parse_template_file(_read(files[0]), _name(files[0]))
    parsed, wrong = [], []
    details: dict[str, str] = {}
    for file in dict.fromkeys(files):  # a file given twice says the same twice
        try:
            parsed.append((_name(file), parse_template_file(_read(file), _name(file))))
        except InvalidInput as error:
            wrong.append(str(error))
            details |= {f"{_name(file)}: {field}": message for field, message in error.details.items()}
    if wrong:
        raise InvalidInput("\n".join(wrong), details)
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
