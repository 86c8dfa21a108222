"""Checks the deployment before the first request to Temporal, however late in a command that comes."""

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
AT_ONCE_S = 2.0
"""A command that needs only the database must not wait long for a Temporal that is away."""


class CheckedAtFirstUse(Interceptor):
    """An interceptor for a lazy client; set `check` before the client is used."""

    check: Check

    def __init__(self) -> None:
        self._passed = False
        self._turn = asyncio.Lock()

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:
        return _Checked(super().intercept_client(next), self.require)

    async def require(self) -> None:
        """Check, unless that has passed before. A check that found nobody is made again at the next use."""
        async with self._turn:
            if not self._passed:
                await self.check()
                self._passed = True

    async def try_at_once(self) -> None:
        """Check now, before the command writes anything. A Temporal that is away is left to the first use."""
        try:
            async with asyncio.timeout(AT_ONCE_S):
                await self.require()
        except (RPCError, RuntimeError, ValueError, TimeoutError):  # as a client fails that cannot connect
            return


class _Checked(OutboundInterceptor):
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
