"""What a worker serves: its roles, and its queues."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from prebuilds.vocabulary import PROVISIONER_QUEUE, check_provisioner_queue
from prebuilds.vocabulary.plain_text import escape

Role = Literal["control", "claims", "provisioner", "http"]
ROLES: tuple[Role, ...] = ("control", "claims", "provisioner")
"""The roles of `all`. The HTTP server is a separate process: it needs no Temporal, and listens at an address."""
HTTP: Role = "http"


@dataclass(frozen=True)
class WorkerOptions:
    """The roles and queues that this process serves."""

    roles: tuple[Role, ...] = ROLES
    queues: tuple[str, ...] = (PROVISIONER_QUEUE,)
    """Provisioner queues. Each stands for four task queues: for pool and people's builds, on any host and on this one.
    """
    listening: Callable[[str], None] | None = None
    """Called with the HTTP server's address once it answers; None when nobody asks."""


def options_for(role: str, queues: Sequence[str]) -> WorkerOptions:
    """Check the options of a worker.

    Args:
        role: One role, or `all`.
        queues: Provisioner queues; empty for the default queue.
    Raises:
        ValueError: *queues* are given for a role that serves none, or the name of a queue is not valid.
    """
    if queues and role not in ("provisioner", "all"):
        raise ValueError("--queue is for --role provisioner or all")
    for queue in queues:
        try:
            check_provisioner_queue(queue)
        except ValueError as error:
            raise ValueError(f"--queue {escape(queue)}: {error}") from error
    roles = ROLES if role == "all" else (cast("Role", role),)
    return WorkerOptions(roles, tuple(queues or (PROVISIONER_QUEUE,)))
