"""`prebuilds size`: what each rule of a pool's size would have held, hit and cost."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prebuilds.cli import output
from prebuilds.cli.connections import operations
from prebuilds.cli.ending import run_command
from prebuilds.cli.output import document, progress, say_line, table
from prebuilds.cli.size_chart import chart_lines
from prebuilds.cli.system import duration

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from prebuilds.views.sizes import SizeLine, SizeReport

COLUMNS = ("", "RULE", "HIT", "P95 WAIT", "IDLE", "PEAK", "HOURS", "COST", "NOW", "MET")
DROP = ("HOURS", "PEAK", "P95 WAIT", "COST")
CSV_LINES_MAX = 1_000_000
"""Maximum number of lines of a file. At most the newest 200,000 claims are replayed."""
YEARS = range(1970, 9000)


def size(
    preset: Annotated[str, typer.Argument(metavar="PRESET", help="organization/template/preset, or an id")],
    target: Annotated[
        str | None,
        typer.Option(help="A hit rate such as 0.99, or a wait such as 5s that 19 of 20 claims keep; the preset's own"),
    ] = None,
    last: Annotated[str, typer.Option(help="How much of the past is replayed, such as 14d")] = "14d",
    csv: Annotated[
        Path | None, typer.Option(help="Replay these claims instead: a time in the first column of each line")
    ] = None,
    lead: Annotated[str | None, typer.Option(help="The lead time to assume, such as 60s; as it was measured")] = None,
    max_paused: Annotated[
        int, typer.Option(help="Try up to so many paused prebuilds beside ready ones; 0: as the preset's own target")
    ] = 0,
    paused_cost: Annotated[
        float | None,
        typer.Option(help="What a paused prebuild costs, as a share of a ready one; as in the preset's target, or 0.1"),
    ] = None,
    promotion: Annotated[
        str | None, typer.Option(help="How long a paused prebuild takes to be ready, such as 2s; as it was measured")
    ] = None,
    suggest: Annotated[bool, typer.Option("--suggest", help="Print the target as YAML, and nothing else")] = False,
) -> None:
    """Show what each rule of a pool's size would have held, hit and cost on its past claims. It changes nothing."""

    async def go() -> None:
        from prebuilds.planning.sizing.question import SizeQuestion

        hit_rate, wait = (None, None) if target is None else read_target(target)
        question = SizeQuestion(
            hit_rate=hit_rate,
            wait_p95=None if wait is None else duration(wait, "target"),
            last=duration(last, "last"),
            lead=None if lead is None else duration(lead, "lead"),
            times=None if csv is None else read_times(csv),
            max_paused=max_paused,
            paused_cost=paused_cost,
            promotion=None if promotion is None else duration(promotion, "promotion"),
        )
        async with operations() as system:
            with progress("replaying claims"):
                report = await system.sizes.size(preset, question)
        if suggest and not output.AS_JSON:
            say_line(report.suggestion)
            return
        document(report, human=_summary(report))
        if not output.AS_JSON:
            table(*size_table(report), empty="", drop=DROP)
            for line in chart_lines(report, shutil.get_terminal_size().columns):
                say_line(line)

    run_command(go())


def read_target(text: str) -> tuple[float | None, str | None]:
    """Return a hit rate or a wait: `0.99` and `99%` are hit rates, `5s` is a wait."""
    share = text.removesuffix("%")
    try:
        rate = float(share)
    except ValueError:
        return None, text
    return (rate / 100 if text.endswith("%") else rate), None


def read_times(path: Path) -> Sequence[datetime]:
    """Read the times of claims from the first column of a CSV file. A first line without a time is a heading.

    Raises:
        InvalidInput: A line, which the message names, has no time or a time without a zone; or the file is no text, or
            has more than `CSV_LINES_MAX` lines.
    """
    import csv
    from datetime import datetime

    from prebuilds.api import InvalidInput

    times = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for number, row in enumerate(csv.reader(file), start=1):
                if number > CSV_LINES_MAX:
                    raise InvalidInput.field("csv", f"has more than {CSV_LINES_MAX} lines", "give its newest ones")
                if not row or not row[0].strip():
                    continue
                try:
                    at = datetime.fromisoformat(row[0].strip())
                except ValueError:
                    if number == 1:
                        continue
                    raise InvalidInput.field(
                        "csv", f"line {number}: {row[0]!r} is no time", "write it as 2026-03-02T09:14:00Z"
                    ) from None
                if at.tzinfo is None:
                    raise InvalidInput.field("csv", f"line {number}: {row[0]!r} has no time zone", "end it with Z")
                if at.year not in YEARS:
                    raise InvalidInput.field("csv", f"line {number}: {row[0]!r} is no time of a claim")
                times.append(at)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput.field("csv", f"{path} cannot be read: {error}") from error
    return times


def _summary(report: SizeReport) -> str:
    wanted = report.target
    wish = (
        f"{wanted.hit_rate:.4g} of the claims find one ready"
        if wanted.hit_rate is not None
        else f"19 of 20 claims wait at most {wanted.wait_p95_seconds:g} s"
    )
    idle = "" if wanted.max_idle is None else f", with at most {wanted.max_idle:g} idle on average"
    text = (
        f"{report.preset}: {report.claims} claims, lead time {report.lead_seconds:.0f} s; target: {wish}, "
        f"between {wanted.min} and {wanted.max}{idle}"
    )
    if report.promotion_seconds is not None:
        tried = f"; up to {wanted.max_paused} are tried" if wanted.max_paused else ""
        text = (
            f"{text}\nA paused prebuild is ready {report.promotion_seconds:.1f} s after its claim, and costs "
            f"{report.paused_cost:g} of a ready one{tried}. HOURS are those of ready ones and of creations."
        )
    if report.windows:
        windows = "; ".join(f"{window.cron}: {window.count}" for window in report.windows)
        text = f"{text}\nThe schedule's windows hold under each rule: {windows}"
    if not report.enough_history:
        return (
            f"{text}\nThere is less than a day of claims, or fewer than 50, so that no rule can be told from another."
        )
    if not report.met:
        return f"{text}\nNo rule met it; the chosen one came nearest."
    return text


def size_table(report: SizeReport) -> tuple[Sequence[str], list[tuple[object, ...]]]:
    """The columns and rows; paused prebuilds have a column where some were replayed."""
    rows = [_row(line) for line in report.lines]
    if report.paused_cost is None:
        return COLUMNS, rows
    with_paused = [(*row[:-1], line.paused, row[-1]) for row, line in zip(rows, report.lines, strict=True)]
    return (*COLUMNS[:-1], "PAUSED", COLUMNS[-1]), with_paused


def _row(line: SizeLine) -> tuple[object, ...]:
    return (
        "today" if line.today else "chosen" if line.chosen else "",
        line.rule,
        f"{100 * line.hit_rate:.1f}%",
        f"{line.wait_p95_seconds:.1f}s",
        f"{line.idle_mean:.1f}",
        line.idle_peak,
        f"{line.member_hours:.0f}",
        None if line.cost is None else f"{line.cost:.2f}",
        line.size_now,
        "yes" if line.met else "no",
    )
