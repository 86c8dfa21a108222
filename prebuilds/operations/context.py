"""What every operation works with, and what several of them do after a commit."""

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
from prebuilds.client import PrebuildsClient
from prebuilds.planning.rules import Rules
from prebuilds.settings import Settings
from prebuilds.store import control

logger = logging.getLogger(__name__)

NUDGE_TIMEOUT_S = 3.0
"""The change is committed before the nudge, so nobody should wait long for a Temporal that is away."""
NOT_CONNECTED = (PrebuildsError, TimeoutError, RuntimeError, ValueError)
"""How a nudge fails while Temporal is away: a lazy client that cannot connect raises the last two."""


@dataclass(frozen=True, slots=True)
class Context:
    """A deployment: its database, its Temporal, the starting of what is recorded, and this process's settings."""

    engine: AsyncEngine
    client: Client
    dispatcher: Dispatcher
    settings: Settings

    async def rules(self) -> Rules:
        """The rules by which the control workers decide, as they last recorded them; before their first pass, those of
        this process's environment."""
        return (await control.read_control(self.engine)).rules or self.settings.rules

    async def nudge(self, preset_ids: Sequence[UUID] = ()) -> None:
        """Let a committed change take effect now, for these presets or for all. Never fails: a lost nudge delays the
        change by one interval of the loop."""
        try:
            async with asyncio.timeout(NUDGE_TIMEOUT_S):
                await PrebuildsClient(self.client).nudge(preset_ids if len(preset_ids) <= NUDGED_MAX else [])
        except OrchestratorNotRunning:
            return  # the loop is stopped, and stays so
        except NOT_CONNECTED as error:
            logger.debug("A nudge was lost: %s", error)
        except Exception as error:
            logger.warning("A nudge was lost", exc_info=error)


def report_batches(
    act: Callable[[Sequence[UUID]], None], on_progress: Callable[[int], None] | None
) -> Callable[[Sequence[UUID]], None]:
    """A callback for each batch of a bulk action.

    Args:
        act: Gets the build ids of the batch.
        on_progress: Gets the number of builds so far; None if nobody watches.
    """
    done = 0

    def on_batch(build_ids: Sequence[UUID]) -> None:
        nonlocal done
        act(build_ids)
        done += len(build_ids)
        if on_progress is not None:
            on_progress(done)

    return on_batch
