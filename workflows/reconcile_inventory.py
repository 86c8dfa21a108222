"""ReconcileInventory: compares what exists with what is recorded, at every place where a driver has made something.

The relay starts it every ten minutes with `fix`, so that it acts; operators start it for a report. One runs at a time.
It ends with a report. The report lists the places that did not answer; nothing is concluded about them.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import FailureError, TimeoutError, TimeoutType

with workflow.unsafe.imports_passed_through():
    from activities.inventory import InspectPlace, InventoryActivities, PlaceActivities, PlaceReport
    from prebuilds.api import InvalidInput
    from prebuilds.payloads import InventoryInput, parse_input
    from prebuilds.store.builds import provisioning_queue
    from prebuilds.store.inventory import Place
    from prebuilds.views import InventoryReport, Unavailable
    from prebuilds.vocabulary.plain_text import escape
    from workflows.raw import only_input
    from workflows.refusal import cause_of, refused

HOST_TIMEOUT = timedelta(seconds=60)
"""A place is away when no worker picks up its task within this time."""
PLACES_AT_ONCE = 20
ROWS_MAX = 2000
"""The most findings in a report: about 700 kB of the 2 MiB that one result may have."""

LIST = workflow.ActivityConfig(
    start_to_close_timeout=timedelta(seconds=30),
    retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_attempts=5),
)


def inspect_on(queue: str) -> workflow.ActivityConfig:
    """Return the timeouts of an inspection on *queue*."""
    return workflow.ActivityConfig(
        task_queue=queue,
        schedule_to_start_timeout=HOST_TIMEOUT,
        start_to_close_timeout=timedelta(minutes=5),
        heartbeat_timeout=timedelta(seconds=5),
        retry_policy=RetryPolicy(maximum_attempts=2),
    )


@workflow.defn
class ReconcileInventory:
    """An inventory of all places."""

    @workflow.run
    async def run(self, *raw: Any) -> InventoryReport:
        """Inspect every place, and report what was found and done.

        Raises:
            ApplicationError: `InvalidInput`; or `StoreUnavailable`: the places could not be read.
        """
        try:
            self._input = parse_input(InventoryInput, only_input(raw), "input")
            places = await workflow.execute_activity_method(PlaceActivities.list_places, **LIST)
        except (InvalidInput, FailureError) as error:
            raise refused(error) from None
        at_once = asyncio.Semaphore(PLACES_AT_ONCE)
        reports = await asyncio.gather(*[self._inspect_place(place, at_once) for place in places])
        rows = [row for report in reports if isinstance(report, PlaceReport) for row in report.findings]
        rows.sort(key=lambda row: (row.finding, str(row.workspace_id)))
        return InventoryReport(
            findings=rows[:ROWS_MAX],
            unavailable=[report for report in reports if isinstance(report, Unavailable)],
            fix=self._input.fix,
            omitted=sum(report.omitted for report in reports if isinstance(report, PlaceReport))
            + max(len(rows) - ROWS_MAX, 0),
        )

    async def _inspect_place(self, place: Place, at_once: asyncio.Semaphore) -> PlaceReport | Unavailable:
        """Inspect a place through the first of its queues that a worker serves."""
        async with at_once:
            for queue in place.queues:
                served = provisioning_queue(queue, pool=True, host=place.host)
                try:
                    return await workflow.execute_activity_method(
                        InventoryActivities.inspect_place, InspectPlace(place, self._input.fix), **inspect_on(served)
                    )
                except FailureError as error:
                    failure = Unavailable(
                        provisioner=place.provisioner, host=place.host, queue=served, error=_failure_text(error, served)
                    )
                    workflow.logger.warning("A place could not be inspected", extra=failure.model_dump(mode="json"))
            return failure


def _failure_text(error: FailureError, queue: str) -> str:
    cause = cause_of(error)
    if isinstance(cause, TimeoutError) and cause.type is TimeoutType.SCHEDULE_TO_START:
        return f"no worker serves {queue}"
    return escape(str(cause))
