"""The base of the client's parts: a Temporal client, and operator requests through it."""

from __future__ import annotations

from typing import Any, Self

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

    async def close(self) -> None:
        """Close what the client has opened. A connection to Temporal belongs to whoever made it, and stays."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
