"""The context that every operation gets, and the steps that several operations take after a commit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from prebuilds.api import OrchestratorNotRunning, PrebuildsError
from prebuilds.background.dispatch import NUDGED_MAX, Dispatcher
from prebuilds.planning.rules import Rules
from prebuilds.settings import Settings
from prebuilds.store import loop

logger = logging.getLogger(__name__)

NUDGE_TIMEOUT_S = 3.0
"""Limit of a nudge. The change is committed before it, so the caller should not wait long when Temporal is away."""
NOT_CONNECTED = (PrebuildsError, TimeoutError, RuntimeError, ValueError)
"""Errors of a nudge while Temporal is away. A lazy client that cannot connect raises the last two."""


@dataclass(frozen=True, slots=True)
class Context:
    """One deployment as operations use it: database, Temporal client, dispatcher and this process's settings."""

    engine: AsyncEngine
    client: Client
    dispatcher: Dispatcher
    settings: Settings

    async def rules(self) -> Rules:
        """The rules by which control workers decide.

        They are what the workers recorded last, or this process's own rules when no worker has run a pass yet.
        """
        return (await loop.read_control(self.engine)).rules or self.settings.rules

    async def nudge(self, preset_ids: Sequence[UUID] = ()) -> None:
        """Ask the loop for a pass over these presets, or over all, so that a committed change takes effect now.

        Never fails: a lost nudge delays the change by one interval of the loop.
        """
        from prebuilds.client import PrebuildsClient  # only commands that change something need it

        try:
            async with asyncio.timeout(NUDGE_TIMEOUT_S):
                await PrebuildsClient(self.client).nudge(preset_ids if len(preset_ids) <= NUDGED_MAX else [])
        except OrchestratorNotRunning:
            return  # a nudge does not start a stopped loop
        except NOT_CONNECTED as error:
            logger.debug("A nudge was lost: %s", error)
        except Exception as error:
            logger.warning("A nudge was lost", exc_info=error)


def report_batches(
    act: Callable[[Sequence[UUID]], None], on_progress: Callable[[int], None] | None
) -> Callable[[Sequence[UUID]], None]:
    """Make the callback that a bulk action calls after each batch.

    Args:
        act: Called with the build ids of the batch.
        on_progress: Called with the number of builds so far; None to report nothing.
    """
    done = 0

    def on_batch(build_ids: Sequence[UUID]) -> None:
        nonlocal done
        act(build_ids)
        done += len(build_ids)
        if on_progress is not None:
            on_progress(done)

    return on_batch
