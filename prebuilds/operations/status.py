"""The state of the whole: the loop and every preset's pool, and the snapshot that a pass would decide from."""

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
"""Bytes of one status through Temporal, which warns of a payload above 512 KiB and refuses one above 2 MiB."""
STATUS_ROWS_MAX = 1000
"""About as many rows as that. Each page reads the whole status anew, so few large ones cost less than many."""


@dataclass(frozen=True, slots=True)
class StatusOperations:
    context: Context

    async def read(self) -> SystemStatus:
        """The loop, and every preset's pool. Answers also while Temporal does not, with a note."""
        engine = self.context.engine
        who, loop, rows = await asyncio.gather(
            read_identity(engine), loop_status(engine, self.context.client), self._preset_rows()
        )
        return SystemStatus(deployment_id=who.deployment_id, loop=loop, presets=rows)

    async def _preset_rows(self) -> list[PresetRow]:
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
        """A part of the status that one Temporal payload can carry; the client puts the parts together.

        Args:
            after: The `next` of the page before; None for the first page.
            limit: Rows at most; None for `STATUS_ROWS_MAX`, which is also the most.
        """
        rows_max = min(limit or STATUS_ROWS_MAX, STATUS_ROWS_MAX)
        return status_page(await self.read(), after, rows_max, STATUS_BYTES_MAX)

    async def snapshot(self) -> GlobalSnapshot:
        """All pools at one instant, as a pass would read them now."""
        return await read_snapshot(self.context.engine, await self.context.rules())
