"""The state of the whole deployment: the loop, every preset's pool, and the snapshot from which a pass would plan."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from prebuilds.failures.database import reaching
from prebuilds.operations.context import Context
from prebuilds.operations.loop_status import loop_status
from prebuilds.planning.policy import EVERYWHERE, Reach
from prebuilds.planning.snapshot import GlobalSnapshot
from prebuilds.store.status import RecordedStatus, read_snapshot, read_status
from prebuilds.temporal.queues import queue_warnings
from prebuilds.views import StatusPage, SystemStatus, status_page

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
        """Read the state of the loop and of every preset's pool. While Temporal is away, a note says so.

        It takes one connection to the database and one transaction, which has ended before Temporal is asked.

        Raises:
            StackUnreachable: The database went away.
        """
        with reaching("the status was read"):
            found = await read_status(self.context.engine, self.context.settings.rules)
        return await self.complete(found)

    async def complete(self, found: RecordedStatus) -> SystemStatus:
        """Add to what the database has recorded what Temporal says of the loop and of the queues."""
        client = self.context.client
        loop, unserved = await asyncio.gather(
            loop_status(found.control, client), queue_warnings(client, set(found.queues.values()))
        )
        warnings = {preset: unserved[queue] for preset, queue in found.queues.items() if queue in unserved}
        rows = [
            row.model_copy(update={"warnings": [*row.warnings, warnings[row.preset_id]]})
            if row.preset_id in warnings
            else row
            for row in found.presets
        ]
        return SystemStatus(deployment_id=found.deployment_id, loop=loop, presets=rows)

    async def page(self, after: str | None, limit: int | None, *, reach: Reach = EVERYWHERE) -> StatusPage:
        """Read one page of the status that fits into one Temporal payload. The client joins the pages.

        Args:
            after: The `next` of the previous page; None for the first page.
            limit: Maximum number of rows; None or a larger number means `STATUS_ROWS_MAX`.
            reach: Only presets within it.
        """
        rows_max = min(limit or STATUS_ROWS_MAX, STATUS_ROWS_MAX)
        found = await self.read()
        rows = [row for row in found.presets if reach.has_all_of(row.organization)]
        return status_page(found.model_copy(update={"presets": rows}), after, rows_max, STATUS_BYTES_MAX)

    async def snapshot(self) -> GlobalSnapshot:
        """Read all pools at one instant, as a pass would read them now."""
        return await read_snapshot(self.context.engine, await self.context.rules())
