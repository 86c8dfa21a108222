"""Servers for workflow tests: the time-skipping one for hours of the loop, the dev server for its missing features."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from prebuilds.temporal.converter import data_converter


def binary(name: str) -> str:
    """A server of the test's own environment; nothing is downloaded."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    assert found is not None, f"{name} is not installed; run make install"
    return found


_result = WorkflowHandle.result


async def _patient_result(handle: WorkflowHandle[Any, Any], **options: Any) -> Any:
    """The time-skipping server answers after 20 s that nothing has happened, which the SDK takes for an error."""
    while True:
        try:
            return await _result(handle, **options)
        except RuntimeError as error:
            if "No completion event found" not in str(error):
                raise


@pytest.fixture
async def skipping(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WorkflowEnvironment]:
    monkeypatch.setattr(WorkflowHandle, "result", _patient_result)
    env = await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=binary("temporal-test-server"), data_converter=data_converter
    )
    async with env:
        yield env


@pytest.fixture
async def dev() -> AsyncIterator[WorkflowEnvironment]:
    env = await WorkflowEnvironment.start_local(
        dev_server_existing_path=binary("temporal"), data_converter=data_converter
    )
    async with env:
        yield env


@pytest.fixture
async def now(skipping: WorkflowEnvironment) -> datetime:
    """Return the time-skipping server's time at the start of the test."""
    return await skipping.get_current_time()
