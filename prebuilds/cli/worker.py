"""`prebuilds worker`: runs a worker, as `python worker.py` does in a checkout."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

CHECKOUT = Path(__file__).parents[2]


def worker(
    role: Annotated[
        Literal["control", "claims", "provisioner", "http", "all"], typer.Option(help="Which tasks to serve.")
    ] = "all",
    queue: Annotated[
        list[str] | None, typer.Option(help="Provisioner queue, by default prebuilds-provisioner; repeat for more.")
    ] = None,
) -> None:
    """Run a worker until Ctrl-C or SIGTERM. It then drains: it takes no new tasks, and running ones get 10 s to end."""
    prefer_checkout()
    from prebuilds.settings.worker_options import options_for
    from worker import serve_until_signalled

    try:
        options = options_for(role, queue or ())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    serve_until_signalled(options)


def prefer_checkout() -> None:
    """Make this process import our `workflows`, `activities` and `worker` before other modules with these names.

    An editable install finds ours at the end of the path, after PYTHONPATH. A wheel has them under `prebuilds`.
    """
    if (CHECKOUT / "pyproject.toml").exists():
        sys.path.insert(0, str(CHECKOUT))
