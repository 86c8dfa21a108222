"""Arbitrary input to a claim's workflow ends it with a typed failure and never parks it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.client import WorkflowFailureError
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment

from activities.claims import ClaimActivities
from prebuilds.operations.claims import Claims
from prebuilds.planning.rules import Rules
from prebuilds.store.claims import ClaimStore
from tests.workflow.claim_steps import REQUEST, failure_of, start
from tests.workflow.fakes import claims_worker

BAD: list[tuple[list[Any], str]] = [
    ([], "owner"),
    ([None], "owner"),
    (["alice"], "input"),
    ([[1, 2]], "input"),
    ([7], "input"),
    ([REQUEST | {"prest": "x"}], "prest"),
    ([REQUEST | {"name": "Not A Name"}], "name"),
    ([REQUEST | {"on_empty": "perhaps"}], "on_empty"),
    ([REQUEST | {"on_timeout": "perhaps"}], "on_timeout"),
    ([REQUEST | {"wait_timeout_seconds": 0}], "wait_timeout_seconds"),
    ([REQUEST | {"wait_timeout_seconds": 1e9}], "wait_timeout_seconds"),
    ([REQUEST | {"wait_timeout_seconds": "soon"}], "wait_timeout_seconds"),
    ([REQUEST | {"ttl_seconds": -1}], "ttl_seconds"),
    ([REQUEST | {"lease_seconds": 59.9}], "lease_seconds"),
    ([REQUEST | {"lease_seconds": 2_592_001}], "lease_seconds"),
    ([REQUEST | {"owner": "prebuilds"}], "owner"),
    ([REQUEST | {"initiator": "prebuilds"}], "initiator"),
    ([REQUEST | {"template": "acme/python"}], "input"),
    ([REQUEST | {"next_start_at": "2026-03-02T09:14:00Z"}], "next_start_at"),
    ([REQUEST | {"next_start_at": "2026-03-02T09:14:00"}], "next_start_at"),
    ([REQUEST | {"autostart_schedule": "at nine"}], "autostart_schedule"),
    ([REQUEST | {"preset": "acme/small"}], "preset"),
    ([REQUEST, REQUEST], "input"),
    ([RawValue(Payload(metadata={"encoding": b"json/plain"}, data=b'"\\ud83d"'))], "input"),  # half of an emoji
    ([RawValue(Payload(metadata={"encoding": b"json/plain"}, data=b"{"))], "input"),
    ([RawValue(Payload(metadata={"encoding": b"private/1"}, data=b"\xff"))], "input"),
]


class NoDatabase:
    """A connection pool that gives out no connection."""

    def get_max_size(self) -> int:
        return 1


@pytest.fixture
async def real(skipping: WorkflowEnvironment) -> AsyncIterator[None]:
    """The real activities without a database: bad input never reaches it."""
    nothing = cast("Any", None)
    store = ClaimStore(cast("Any", NoDatabase()), enabled=True)
    claims = ClaimActivities(Claims(nothing, store, nothing, Rules()))
    async with claims_worker(skipping.client, [claims.claim, claims.claim_all]):
        yield


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize(("inputs", "field"), BAD, ids=[f"{n}-{b[1]}" for n, b in enumerate(BAD)])
async def test_bad_input_is_a_typed_failure(skipping: WorkflowEnvironment, inputs: list[Any], field: str) -> None:
    handle = await start(skipping.client, *inputs)
    async with asyncio.timeout(10):
        failed = await failure_of(handle)
    assert failed.type == "InvalidInput"
    assert field in failed.details[0]


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        ([], "owner"),
        ([REQUEST], "names"),
        ([{"preset": "acme/python/small", "owner": "alice", "names": ["a"], "on_empty": "wait"}], "on_empty"),
        ([{"preset": "acme/python/small", "owner": "alice", "names": ["a"], "on_timeout": "create"}], "on_timeout"),
        ([{"preset": "acme/python/small", "owner": "alice", "names": ["a"], "count": 3}], "count"),
        ([{"preset": "acme/python/small", "owner": "alice", "names": ["a"]}, 1], "input"),
    ],
    ids=str,
)
async def test_bad_input_of_many_is_too(skipping: WorkflowEnvironment, inputs: list[Any], field: str) -> None:
    handle = await start(skipping.client, *inputs, workflow="ClaimWorkspaces")
    async with asyncio.timeout(10):
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "InvalidInput"
    assert field in failed.value.cause.details[0]
