"""`PREBUILDS_PAYLOAD_KEY`: Temporal gets encrypted payloads, and a process without the key fails with its name."""

from __future__ import annotations

import base64
import os
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from temporalio import activity, workflow
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment

from prebuilds.api import InvalidInput
from prebuilds.client import PrebuildsClient
from prebuilds.client import claims as claiming
from prebuilds.doctor.examination import Examination
from prebuilds.settings import load_settings
from prebuilds.temporal.connecting import connect
from prebuilds.temporal.payload_key import PayloadKeyUnusable, parse_payload_keys
from prebuilds.temporal.workers import worker_on
from prebuilds.vocabulary import ORCHESTRATOR_ID
from tests.workflow.claim_steps import CLAIMED
from tests.workflow.fakes import FakeClaims

SECRET = "hunter2-51de"
OLD, NEW = (base64.b64encode(os.urandom(32)).decode() for _ in range(2))
VARIABLE = "PREBUILDS_PAYLOAD_KEY"


@activity.defn
async def repeat(token: str) -> str:
    return token


@workflow.defn(name="Repeats", sandboxed=False)
class Repeats:
    """Sends its input through each kind of payload, and fails with it on request."""

    @workflow.run
    async def run(self, given: dict[str, Any]) -> dict[str, Any]:
        token = await workflow.execute_local_activity(
            repeat, given["token"], start_to_close_timeout=timedelta(seconds=10)
        )
        if given.get("fails"):
            raise ApplicationError(f"it is {token}", token, type="Told") from ValueError(f"beneath it: {token}")
        return {"token": token}


async def client_with(dev: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch, keys: str) -> Client:
    monkeypatch.setenv(VARIABLE, keys)
    return await connect(dev.client.service_client.config.target_host)


async def test_histories_are_encrypted_and_plain_json_is_taken(
    dev: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await client_with(dev, monkeypatch, OLD)
    ours = await client_with(dev, monkeypatch, f"{NEW},{OLD}")
    keyless = await client_with(dev, monkeypatch, "")
    started = await old.start_workflow("Repeats", {"token": SECRET}, id="before-the-rotation", task_queue="q")
    async with worker_on(ours, "q", workflows=[Repeats], activities=[repeat]):
        assert await ours.get_workflow_handle(started.id).result() == {"token": SECRET}
        failing = await ours.start_workflow("Repeats", {"token": SECRET, "fails": True}, id="fails", task_queue="q")
        with pytest.raises(WorkflowFailureError) as failed:
            await failing.result()
        assert isinstance(failed.value.cause, ApplicationError)
        assert SECRET in str(failed.value.cause.__cause__)
        assert (failed.value.cause.message, failed.value.cause.type) == (f"it is {SECRET}", "Told")
        for handle in (started, failing):
            history = await keyless.get_workflow_handle(handle.id).fetch_history()
            kept = b"".join(event.SerializeToString() for event in history.events)
            assert b"binary/encrypted" in kept
            assert SECRET.encode() not in kept
        with pytest.raises(PayloadKeyUnusable, match=f"{VARIABLE} is not set"):
            await keyless.get_workflow_handle(started.id).result()
        with pytest.raises(PayloadKeyUnusable, match=f"is not in {VARIABLE}"):
            await old.get_workflow_handle(started.id).result()
        plain = await keyless.start_workflow("Repeats", {"token": "plain"}, id="plain", task_queue="q")
        assert await ours.get_workflow_handle(plain.id).result() == {"token": "plain"}


async def test_a_claim_whose_answer_cannot_be_read_says_its_id(
    dev: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyless = PrebuildsClient(await client_with(dev, monkeypatch, ""))
    ours = await client_with(dev, monkeypatch, NEW)
    monkeypatch.setattr(claiming, "uuid4", lambda: UUID(int=7))
    terms = {"preset": "acme/python/small", "owner": "alice", "name": "dev"}
    for claim_id in (None, "mine"):
        known = claim_id or str(UUID(int=7))
        async with FakeClaims({"claim": [CLAIMED]}).worker(ours):
            with pytest.raises(PayloadKeyUnusable, match=f"^claim {known}: .*{VARIABLE} is not set") as refused:
                await keyless.claim(**terms, claim_id=claim_id)
        assert refused.value.details == {"claim_id": known}


async def test_the_doctor_compares_with_what_the_loop_was_started_with(
    dev: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = await client_with(dev, monkeypatch, NEW)
    visit = Examination(None)
    visit._client = ours
    assert "no loop has been started" in await visit.payload_key()
    await ours.start_workflow("PrebuildsOrchestrator", {}, id=ORCHESTRATOR_ID, task_queue="nobody")
    assert await visit.payload_key() == "this environment's key decrypts what the deployment encrypts"
    for keys, missing in (("", "is not set"), (OLD, "is not in")):
        monkeypatch.setenv(VARIABLE, keys)
        with pytest.raises(PayloadKeyUnusable, match=missing) as refused:
            await visit.payload_key()
        assert refused.value.remedy == f"set {VARIABLE} as the deployment's workers have it"


async def test_a_payload_changed_in_transit_is_not_opened() -> None:
    codec = parse_payload_keys(NEW)
    [sent] = await codec.encode([Payload(metadata={"encoding": b"json/plain"}, data=b'"x"')])
    assert (await codec.decode([sent]))[0].data == b'"x"'
    changed = Payload(metadata=sent.metadata, data=sent.data[:-1] + bytes([sent.data[-1] ^ 1]))
    with pytest.raises(PayloadKeyUnusable, match="damaged"):
        await codec.decode([changed])


@pytest.mark.parametrize("keys", ["hunter2", f"{'A' * 43}=,aGk=", "é"])
async def test_an_invalid_key_is_refused_by_name(keys: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, keys)
    with pytest.raises(InvalidInput, match=f"{VARIABLE}: must be base64 keys of 32 bytes") as refused:
        load_settings()
    assert keys not in str(refused.value)
    with pytest.raises(InvalidInput, match=f"{VARIABLE}: must be base64"):
        await connect("127.0.0.1:1")
