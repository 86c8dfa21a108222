"""`prebuilds worker`: what `python worker.py` is in a checkout, as an installed command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

CHECKOUT = Path(__file__).parents[2]


def worker(
    role: Annotated[Literal["control", "claims", "provisioner", "all"], typer.Option(help="What to serve.")] = "all",
    queue: Annotated[
        list[str] | None, typer.Option(help="Provisioner queue, prebuilds-provisioner unless said; repeatable.")
    ] = None,
) -> None:
    """Run a worker until Ctrl-C or SIGTERM, which drain it: nothing new is taken, what runs gets 10 s to end."""
    _prefer_checkout()
    from worker import options_for, serve_until_signalled

    try:
        options = options_for(role, queue or ())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    serve_until_signalled(options)


def _prefer_checkout() -> None:
    """Let this process import our `workflows`, `activities` and `worker` before others of the same names.

    An editable install finds the three at the end of the path, behind PYTHONPATH. A wheel has them under `prebuilds`.
    """
    if (CHECKOUT / "pyproject.toml").exists():
        sys.path.insert(0, str(CHECKOUT))
