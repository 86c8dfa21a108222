"""The base of the client's parts: a Temporal client, and operator requests through it."""

from __future__ import annotations

from typing import Any

from temporalio.client import Client

from prebuilds.payloads import OperatorRequest
from prebuilds.temporal.connecting import operate


class TemporalPart:
    """What all parts of `PrebuildsClient` share."""

    def __init__(self, client: Client) -> None:
        """*client* uses pydantic's data converter, as a client of `connect` does."""
        self.temporal = client

    async def _operate(self, request: OperatorRequest) -> Any:
        """Have a control worker carry out *request*, and return its answer as JSON values."""
        return await operate(self.temporal, request)
