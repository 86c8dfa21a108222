"""Servers for workflow tests: the time-skipping one for the loop's hours, the dev server for what that one lacks."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import pytest
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment


def binary(name: str) -> str:
    """A server of the test's own environment; nothing is downloaded."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    assert found is not None, f"{name} is not installed; run make install"
    return found


@pytest.fixture
async def skipping() -> AsyncIterator[WorkflowEnvironment]:
    env = await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=binary("temporal-test-server"), data_converter=pydantic_data_converter
    )
    async with env:
        yield env


@pytest.fixture
async def dev() -> AsyncIterator[WorkflowEnvironment]:
    env = await WorkflowEnvironment.start_local(
        dev_server_existing_path=binary("temporal"), data_converter=pydantic_data_converter
    )
    async with env:
        yield env


@pytest.fixture
async def now(skipping: WorkflowEnvironment) -> datetime:
    """The time-skipping server's time as the test begins."""
    return await skipping.get_current_time()
