"""ReconcileInventory: what exists, against what is recorded, at every place where a driver has made something.

The relay starts it every ten minutes, to act; operators start it to look. One runs at a time. It ends with a report; a
place that does not answer is told, and nothing is concluded of it.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import FailureError, TimeoutError, TimeoutType

with workflow.unsafe.imports_passed_through():
    from activities.inventory import InventoryActivities, Look, Looked, PlaceActivities
    from prebuilds.api import InvalidInput
    from prebuilds.payloads import InventoryInput, parse_input
    from prebuilds.store.builds import provisioning_queue
    from prebuilds.store.inventory import Place
    from prebuilds.views import InventoryReport, InventoryRow, Unavailable
    from prebuilds.vocabulary.plain_text import escape
    from workflows.raw import only_input
    from workflows.refusal import cause_of, refused

HOST_TIMEOUT = timedelta(seconds=60)
"""A place that takes nothing up in this time is away."""
PLACES_AT_ONCE = 20
ROWS_MAX = 2000
"""Of a report: about 700 kB, of the 2 MiB that one result may have."""

LIST = workflow.ActivityConfig(
    start_to_close_timeout=timedelta(seconds=30),
    retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_attempts=5),
)


def look_on(queue: str) -> workflow.ActivityConfig:
    return workflow.ActivityConfig(
        task_queue=queue,
        schedule_to_start_timeout=HOST_TIMEOUT,
        start_to_close_timeout=timedelta(minutes=5),
        heartbeat_timeout=timedelta(seconds=5),
        retry_policy=RetryPolicy(maximum_attempts=2),
    )


@workflow.defn
class ReconcileInventory:
    @workflow.run
    async def run(self, *raw: Any) -> InventoryReport:
        try:
            self._input = parse_input(InventoryInput, only_input(raw), "input")
            places = await workflow.execute_activity_method(PlaceActivities.list_places, **LIST)
        except (InvalidInput, FailureError) as error:
            raise refused(error) from None
        at_once = asyncio.Semaphore(PLACES_AT_ONCE)
        looks = await asyncio.gather(*[self._look(place, at_once) for place in places])
        rows = [row for look in looks if isinstance(look, Looked) for row in look.findings]
        rows.sort(key=lambda row: (row.finding, str(row.workspace_id)))
        return InventoryReport(
            findings=rows[:ROWS_MAX],
            unavailable=[look for look in looks if isinstance(look, Unavailable)],
            fix=self._input.fix,
            omitted=sum(look.omitted for look in looks if isinstance(look, Looked)) + _beyond(rows),
        )

    async def _look(self, place: Place, at_once: asyncio.Semaphore) -> Looked | Unavailable:
        """Look at a place through the first of its queues that somebody serves."""
        async with at_once:
            for queue in place.queues:
                served = provisioning_queue(queue, pool=True, host=place.host)
                try:
                    return await workflow.execute_activity_method(
                        InventoryActivities.look, Look(place, self._input.fix), **look_on(served)
                    )
                except FailureError as error:
                    failure = Unavailable(
                        provisioner=place.provisioner, host=place.host, queue=served, error=_told(error, served)
                    )
                    workflow.logger.warning("A place could not be looked at", extra=failure.model_dump(mode="json"))
            return failure


def _beyond(rows: list[InventoryRow]) -> int:
    return max(len(rows) - ROWS_MAX, 0)


def _told(error: FailureError, queue: str) -> str:
    cause = cause_of(error)
    if isinstance(cause, TimeoutError) and cause.type is TimeoutType.SCHEDULE_TO_START:
        return f"no worker serves {queue}"
    return escape(str(cause))
