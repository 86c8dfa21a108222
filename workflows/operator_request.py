"""One operation that a service asks for without a database of its own: status, start, stop, pause, resume, release."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from activities.operator import OperatorActivities
    from prebuilds.api import InvalidInput
    from workflows.raw import only_input
    from workflows.refusal import refused

OPERATE = workflow.ActivityConfig(
    start_to_close_timeout=timedelta(seconds=90),  # a start waits for a loop that drains
    schedule_to_close_timeout=timedelta(seconds=120),
    retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_attempts=5),
)


@workflow.defn
class OperatorRequest:
    @workflow.run
    async def run(self, *raw: Any) -> Any:
        try:
            return await workflow.execute_activity_method(OperatorActivities.operate, only_input(raw), **OPERATE)
        except (InvalidInput, FailureError) as error:
            raise refused(error) from None
