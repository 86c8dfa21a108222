"""`prebuilds bench`: measures claims, also over HTTP, and passes on the stack in use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from prebuilds.cli.connections import require_database
from prebuilds.cli.ending import run_command
from prebuilds.cli.output import document, progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prebuilds.bench.figures import Report

app = typer.Typer(
    no_args_is_help=True,
    help="Measure the stack in use, with an organization that is removed afterwards. It adds load to the stack.",
)


@app.command()
def claim(
    pairs: Annotated[
        int, typer.Option(min=1, max=10_000, help="How many claims, each compared with a no-op workflow")
    ] = 100,
) -> None:
    """Measure single claims, through the claims workers and through a worker embedded in this process."""
    require_database()
    from prebuilds.bench.deployment import bench_claims

    with progress("claiming"):
        _print_reports(run_command(bench_claims(pairs)))


@app.command()
def burst(
    number: Annotated[int, typer.Option(min=1, max=2000, help="How many claims at once")] = 100,
    rounds: Annotated[int, typer.Option(min=1, max=100)] = 3,
) -> None:
    """Measure many simultaneous claims on a pool of the same size, compared with as many no-op workflows."""
    require_database()
    from prebuilds.bench.deployment import bench_bursts

    with progress("claiming"):
        _print_reports(run_command(bench_bursts(number, rounds)))


@app.command()
def http(
    url: Annotated[str | None, typer.Option(help="The HTTP server; that of `prebuilds dev` unless said")] = None,
    pairs: Annotated[int, typer.Option(min=1, max=10_000, help="How many claims one after the other")] = 100,
    at_once: Annotated[int, typer.Option("--at-once", min=1, max=2000, help="How many claims at once")] = 100,
) -> None:
    """Measure claims over HTTP, compared with a request that does nothing and with the claim's statement."""
    from prebuilds.bench.deployment import bench_http

    with progress("claiming"):
        _print_reports(run_command(bench_http(url, pairs, at_once)))


@app.command()
def reconcile(
    passes: Annotated[int, typer.Option(min=1, max=1000, help="How many passes")] = 7,
) -> None:
    """Measure passes over this deployment as it is, compared with the bare statement that counts its pools."""
    require_database()
    from prebuilds.bench.deployment import bench_passes

    with progress("reconciling"):
        _print_reports(run_command(bench_passes(passes)))


def _print_reports(reports: Sequence[Report]) -> None:
    document({"reports": reports}, human="\n\n".join(report.text() for report in reports))
