"""`prebuilds provisioners`: lists the installed drivers, and checks whether one keeps the protocol's promises."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prebuilds.cli.ending import run_command
from prebuilds.cli.output import document, progress, say, say_line, table

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from prebuilds.conformance.examine import Outcome

app = typer.Typer(no_args_is_help=True, help="List and check the drivers that are installed here.")


@app.command("list")
def list_() -> None:
    """List the installed drivers: name, distribution, and locality (which hosts can act on a workspace)."""
    from importlib.metadata import entry_points

    from prebuilds.cli import output
    from prebuilds.provisioners import GROUP

    rows = [_row(entry) for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)]
    document({"provisioners": rows})
    if not output.AS_JSON:
        shown = [(row["name"], row["distribution"], row["locality"] or row["error"]) for row in rows]
        table(("NAME", "DISTRIBUTION", "LOCALITY"), shown, empty="no driver is installed")


def _row(entry: EntryPoint) -> dict[str, Any]:
    from prebuilds.provisioners import NO_DEPLOYMENT

    locality = error = None
    with TemporaryDirectory(prefix="prebuilds-list-") as folder:
        try:
            locality = str(entry.load()(Path(folder), NO_DEPLOYMENT).locality)
        except Exception as failure:  # foreign code: a driver that cannot be loaded must not hide the others
            error = f"{type(failure).__name__}: {failure}"
    return {
        "name": entry.name,
        "distribution": f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else None,
        "locality": locality,
        "error": error,
    }


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="The driver's name, as in templates")],
    source: Annotated[
        Path | None,
        typer.Option(help="A YAML file with a small source that works here, instead of the driver's own"),
    ] = None,
) -> None:
    """Check with real workspaces whether a driver keeps the protocol's promises (exit code 1 if it breaks one)."""
    from prebuilds.cli import output
    from prebuilds.conformance.examine import Verdict, attempt, examine
    from prebuilds.conformance.subject import subject_named

    subject = subject_named(name, _read_source(source) if source is not None else None)

    async def go(state_dir: Path) -> list[Outcome]:
        await attempt(subject, state_dir)
        return await examine(subject, state_dir, report=None if output.AS_JSON else _print_outcome)

    with TemporaryDirectory(prefix="prebuilds-check-") as folder, progress(f"checking {name}"):
        Path(folder).chmod(0o711)  # workspaces that run as other users must reach their folders below it
        outcomes = run_command(go(Path(folder)))
    count = {verdict: [one.verdict for one in outcomes].count(verdict) for verdict in Verdict}
    summary = ", ".join(f"{number} {verdict}" for verdict, number in count.items() if number)
    ok = not count[Verdict.FAILED]
    document({"provisioner": name, "ok": ok, "checks": outcomes}, human=summary)
    if not ok:
        raise typer.Exit(1)


def _print_outcome(outcome: Outcome) -> None:
    say_line(f"{outcome.verdict:8} {outcome.check}: {outcome.promise}")
    if outcome.reason is not None:
        say("         " + outcome.reason.replace("\n", "\n         "))


def _read_source(path: Path) -> dict[str, Any]:
    """Read the value of a template's `source:` from a YAML file.

    Raises:
        InvalidInput: The file cannot be read, or it is not a mapping in YAML.
    """
    import yaml

    from prebuilds.api import InvalidInput

    try:
        source = yaml.safe_load(path.read_text())
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise InvalidInput.field("source", message, "name a file that can") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput.field("source", f"{path} is no YAML: {error}", "correct it there") from error
    if not isinstance(source, dict):
        raise InvalidInput.field("source", f"{path} must be a mapping, as below `source:` in a template")
    return source
