"""The claim worker in a service's own process: it starts eagerly, and survives a kill of that process."""

from __future__ import annotations

import asyncio
import base64
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from temporalio.bridge import worker as bridge
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from prebuilds.api import NameTaken, StackUnreachable
from prebuilds.client import PrebuildsClient
from prebuilds.embedded import claims_worker
from prebuilds.payloads import ClaimResult, ClaimsRequest, ClaimsResult
from prebuilds.settings import Settings
from prebuilds.temporal.connecting import connect
from prebuilds.vocabulary import claim_workflow_id
from tests.e2e.dev_stack import DevStack

SERVICE = Path(__file__).with_name("embedded_service.py")
ROOT = Path(__file__).parents[2]
CLAIMS = 30
PRESET = "embedded/python/small"


async def test_a_killed_service_leaves_its_claims_to_others(stack: DevStack) -> None:
    stack.apply("embedded", CLAIMS, command=["sleep", "infinity"], ready=None)
    stack.wait_whole("embedded")
    temporal = await connect(stack.facts["temporal_address"])
    client = PrebuildsClient(temporal)
    await client.pause("the exact count")
    try:
        answered = await claim_until_killed(stack)
        assert len(answered) == 2, "it dies with claims in the air"
        requests = [
            client.claim(preset=PRESET, owner="alice", name=f"embedded-{n}", claim_id=f"embedded-{n}")
            for n in range(CLAIMS)
        ]
        results = await asyncio.gather(*requests)
    finally:
        await client.resume()
    assert len({r.workspace_id for r in results}) == CLAIMS, "each has one of its own"
    by_id = {r.claim_id: r for r in results}
    assert all(by_id[r.claim_id] == r for r in answered), "the same answer again"
    owned = [w for w in stack.workspaces("embedded") if w["owner"] == "alice"]
    assert len(owned) == CLAIMS, "and nobody has two"
    started = await first_event(temporal, answered[0].claim_id)
    assert started.eager_execution_accepted


async def claim_until_killed(stack: DevStack) -> list[ClaimResult]:
    """Run the service, which is killed at the first answer to many claims at once; return the answers it has got."""
    service = await asyncio.create_subprocess_exec(
        *(sys.executable, str(SERVICE), stack.facts["database_url"], PRESET, str(CLAIMS)),
        env=stack.env | {"TEMPORAL_ADDRESS": stack.facts["temporal_address"], "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    lines, _ = await asyncio.wait_for(service.communicate(), 60)
    assert service.returncode == -signal.SIGKILL
    return [ClaimResult.model_validate_json(line) for line in lines.splitlines()]


async def first_event(temporal: Client, claim_id: str):  # type: ignore[no-untyped-def]
    """Return the first event of the claim's first run. A claim that is repeated after its end has another run."""
    workflow_id = claim_workflow_id(claim_id)
    runs = [run async for run in temporal.list_workflows(f'WorkflowId="{workflow_id}"')]
    first = min(runs, key=lambda run: run.start_time)
    history = await temporal.get_workflow_handle(workflow_id, run_id=first.run_id).fetch_history()
    return history.events[0].workflow_execution_started_event_attributes


async def test_claims_are_answered_at_commit_and_temporal_records_them_later(
    stack: DevStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Temporal learns of the decision only after the caller has the answer."""
    stack.apply("at-once", 3, command=["sleep", "infinity"], ready=None)
    stack.wait_whole("at-once")
    record, here = bridge.Worker.complete_workflow_activation, asyncio.Event()

    async def hold(worker: bridge.Worker, completion: Any) -> None:
        if any("complete_workflow_execution" in str(c) for c in completion.successful.commands):
            await here.wait()
        await record(worker, completion)

    monkeypatch.setattr(bridge.Worker, "complete_workflow_activation", hold)
    temporal = await connect(stack.facts["temporal_address"])
    async with claims_worker(temporal, stack.facts["database_url"]) as prebuilds:
        terms = {"preset": "at-once/python/small", "owner": "alice"}
        one, again = await asyncio.gather(
            *[prebuilds.claim(**terms, name="at-once-one", claim_id="at-once") for _ in range(2)]
        )
        assert one == again
        many = await prebuilds.claim_all(ClaimsRequest(**terms, names=["at-once-two", "at-once-three"]), "at-once-many")
        here.set()
        recorded = await temporal.get_workflow_handle(claim_workflow_id("at-once")).result()
        assert ClaimResult.model_validate(recorded) == one
        recorded = await temporal.get_workflow_handle("claim-workspaces/at-once-many").result()
        assert ClaimsResult.model_validate(recorded) == many
        with pytest.raises(NameTaken):
            await prebuilds.claim(**terms, name="at-once-one")
    assert len([w for w in stack.workspaces("at-once") if w["owner"] == "alice"]) == 3


async def test_settings_that_cannot_work_are_refused_at_the_start(stack: DevStack) -> None:
    address = stack.facts["temporal_address"]
    with pytest.raises(TypeError, match="pydantic_data_converter"):
        async with claims_worker(await Client.connect(address), stack.facts["database_url"]):
            pass
    plain = await Client.connect(address, data_converter=pydantic_data_converter)
    encrypting = Settings(payload_key=SecretStr(base64.b64encode(bytes(32)).decode()))
    with pytest.raises(TypeError, match="does not encrypt"):
        async with claims_worker(plain, stack.facts["database_url"], settings=encrypting):
            pass
    with pytest.raises(StackUnreachable, match="cannot reach the database"):
        async with claims_worker(await connect(address), "postgresql://x@127.0.0.1:1/none"):
            pass
