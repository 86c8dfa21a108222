"""The state of the whole deployment: the loop, every preset's pool, and the snapshot from which a pass would plan."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from prebuilds.operations.context import Context
from prebuilds.operations.loop_status import loop_status
from prebuilds.planning.snapshot import GlobalSnapshot
from prebuilds.store import presets
from prebuilds.store.identity import read_identity
from prebuilds.store.status import read_snapshot, read_status
from prebuilds.temporal.queues import queue_warnings
from prebuilds.views import PresetRow, StatusPage, SystemStatus, status_page

STATUS_BYTES_MAX = 400_000
"""Maximum bytes of one status page. Temporal warns about payloads above 512 KiB and refuses those above 2 MiB."""
STATUS_ROWS_MAX = 1000
"""Maximum rows of one status page, about as many as `STATUS_BYTES_MAX` allows. Each page reads the whole status again,
so few large pages cost less than many small ones."""


@dataclass(frozen=True, slots=True)
class StatusOperations:
    """Reads the state of the deployment; changes nothing."""

    context: Context

    async def read(self) -> SystemStatus:
        """Read the state of the loop and of every preset's pool. While Temporal is away, a note says so."""
        engine = self.context.engine
        identity, loop, rows = await asyncio.gather(
            read_identity(engine), loop_status(engine, self.context.client), self._read_preset_rows()
        )
        return SystemStatus(deployment_id=identity.deployment_id, loop=loop, presets=rows)

    async def _read_preset_rows(self) -> list[PresetRow]:
        """Read the pools' rows, with a warning at each preset whose provisioner queue no worker polls."""
        rows = await read_status(self.context.engine, await self.context.rules())
        queues = await presets.queues_of(self.context.engine, [row.preset_id for row in rows])
        unserved = await queue_warnings(self.context.client, set(queues.values()))
        warnings = {preset: unserved[queue] for preset, queue in queues.items() if queue in unserved}
        return [
            row.model_copy(update={"warnings": [*row.warnings, warnings[row.preset_id]]})
            if row.preset_id in warnings
            else row
            for row in rows
        ]

    async def page(self, after: str | None, limit: int | None) -> StatusPage:
        """Read one page of the status that fits into one Temporal payload. The client joins the pages.

        Args:
            after: The `next` of the previous page; None for the first page.
            limit: Maximum number of rows; None or a larger number means `STATUS_ROWS_MAX`.
        """
        rows_max = min(limit or STATUS_ROWS_MAX, STATUS_ROWS_MAX)
        return status_page(await self.read(), after, rows_max, STATUS_BYTES_MAX)

    async def snapshot(self) -> GlobalSnapshot:
        """Read all pools at one instant, as a pass would read them now."""
        return await read_snapshot(self.context.engine, await self.context.rules())
