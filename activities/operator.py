"""What a service or an operator asks of the deployment through Temporal."""

from __future__ import annotations

from typing import Any

from temporalio import activity

from prebuilds.operations import Operations
from prebuilds.payloads import OperatorRequest, parse_input


class OperatorActivities:
    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    @activity.defn
    async def operate(self, raw: Any) -> Any:
        """Carry out one request. Asked twice, it has been done once: every operation is a conditional write."""
        return await self._operations.request(parse_input(OperatorRequest, raw, "request"))
