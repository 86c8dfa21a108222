"""A Temporal client that checks its deployment before its first request, whenever that request comes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from temporalio.client import (
    CancelWorkflowInput,
    CountWorkflowsInput,
    DescribeWorkflowInput,
    Interceptor,
    OutboundInterceptor,
    QueryWorkflowInput,
    SignalWorkflowInput,
    StartWorkflowInput,
    StartWorkflowUpdateInput,
    TerminateWorkflowInput,
)
from temporalio.service import RPCError

Check = Callable[[], Awaitable[object]]
EARLY_CHECK_TIMEOUT_S = 2.0
"""Limit of the check at a command's start: commands that need only the database must not wait for Temporal."""


class CheckedAtFirstUse(Interceptor):
    """An interceptor for a lazy client that runs `check` before the first request. Set `check` before using it."""

    check: Check
    """Raises when the client must not be used."""

    def __init__(self) -> None:
        self._check_passed = False
        self._lock = asyncio.Lock()

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:
        """Put the check before every request of the client (the SDK calls this)."""
        return _CheckingOutbound(super().intercept_client(next), self.require)

    async def require(self) -> None:
        """Run the check unless it has passed before; a failed check runs again at the next request."""
        async with self._lock:
            if not self._check_passed:
                await self.check()
                self._check_passed = True

    async def check_early(self) -> None:
        """Run the check before the command writes anything. If Temporal is away, the first request runs it instead."""
        try:
            async with asyncio.timeout(EARLY_CHECK_TIMEOUT_S):
                await self.require()
        except (RPCError, RuntimeError, ValueError, TimeoutError):  # errors of a client that cannot connect
            return


class _CheckingOutbound(OutboundInterceptor):
    def __init__(self, next: OutboundInterceptor, require: Check) -> None:
        super().__init__(next)
        self._require = require

    async def start_workflow(self, input: StartWorkflowInput) -> Any:
        await self._require()
        return await super().start_workflow(input)

    async def cancel_workflow(self, input: CancelWorkflowInput) -> None:
        await self._require()
        await super().cancel_workflow(input)

    async def describe_workflow(self, input: DescribeWorkflowInput) -> Any:
        await self._require()
        return await super().describe_workflow(input)

    async def count_workflows(self, input: CountWorkflowsInput) -> Any:
        await self._require()
        return await super().count_workflows(input)

    async def query_workflow(self, input: QueryWorkflowInput) -> Any:
        await self._require()
        return await super().query_workflow(input)

    async def signal_workflow(self, input: SignalWorkflowInput) -> None:
        await self._require()
        await super().signal_workflow(input)

    async def terminate_workflow(self, input: TerminateWorkflowInput) -> None:
        await self._require()
        await super().terminate_workflow(input)

    async def start_workflow_update(self, input: StartWorkflowUpdateInput) -> Any:
        await self._require()
        return await super().start_workflow_update(input)
