"""Claims over HTTP on the whole stack: with Temporal away, in the queue, and through the server's end."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from prebuilds.api import NoClaimablePrebuiltWorkspaces
from prebuilds.client import PrebuildsClient
from prebuilds.payloads import ClaimRequest
from tests.e2e.dev_stack import BIN, DevStack, frozen, until

READY = {"command": ["sleep", "infinity"], "ready": None}


def client_of(stack: DevStack, address: str | None = None) -> httpx.AsyncClient:
    token = Path(stack.facts["token_file"]).read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.AsyncClient(base_url=address or stack.facts["http"], headers=headers, timeout=60)


@pytest.fixture
async def http(stack: DevStack) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(stack) as client:
        yield client


def claim_of(organization: str, name: str, **more: Any) -> dict[str, Any]:
    return {"preset": f"{organization}/python/small", "owner": "alice", "name": f"{organization}-{name}"} | more


async def test_ready_prebuilds_are_claimed_while_temporal_stands_still(
    stack: DevStack, http: httpx.AsyncClient
) -> None:
    organization = "httpaway"
    stack.apply(organization, 6, **READY)
    stack.wait_whole(organization)
    with frozen(stack, "temporal"):
        puts = [http.put(f"/v1/claims/away-{n}", json=claim_of(organization, f"n{n}")) for n in range(6)]
        answers = await asyncio.gather(*puts)
        assert [answer.status_code for answer in answers] == [201] * 6, [answer.text for answer in answers]
        again = await http.put("/v1/claims/away-0", json=claim_of(organization, "n0"))
        assert (again.status_code, again.text) == (200, answers[0].text)
        assert (await http.get("/readyz")).status_code == 200
    claimed_ids = {answer.json()["workspace_id"] for answer in answers}
    assert len(claimed_ids) == 6
    stack.wait_whole(organization)

    def handed_over() -> bool:
        rows = {row["id"]: row["status"] for row in stack.workspaces(organization)}
        return all(rows[workspace_id] == "running" for workspace_id in claimed_ids)

    until(handed_over, "the claims' builds to end", 60, stack.log)
    await send_and_leave(http, "/v1/claims/left", claim_of(organization, "left"))

    async def state() -> str:
        found = await http.get("/v1/claims/left", headers={"Prefer": "wait=30"})
        return str(found.json().get("state", found.json().get("code")))

    async with asyncio.timeout(30):
        while await state() != "claimed":
            await asyncio.sleep(0.05)
    explained = stack.ask("explain", "claim", "away-3")
    assert (explained["outcome"], explained["workspace_id"]) == ("prebuilt", answers[3].json()["workspace_id"])


async def test_a_claim_waits_in_the_queue_until_it_gets_its_workspace(stack: DevStack, http: httpx.AsyncClient) -> None:
    organization = "httpwait"
    stack.apply(organization, 0, **READY)
    with frozen(stack, "provisioner"):
        first = await http.put("/v1/claims/wait%2F1", json=claim_of(organization, "one", on_empty="wait"))
        second = await http.put("/v1/claims/wait%2F2", json=claim_of(organization, "two", on_empty="wait"))
        assert (first.status_code, second.status_code) == (202, 202), (first.text, second.text)
        assert (first.headers["location"], first.json()["state"]) == ("/v1/claims/wait%2F1", "waiting")
        assert (first.json()["position"], second.json()["position"]) == (1, 2)
        again = await http.put("/v1/claims/wait%2F1", json=claim_of(organization, "one", on_empty="wait"))
        assert (again.status_code, again.json()["position"]) == (202, 1), "it keeps its place"
        other = await http.put("/v1/claims/wait%2F1", json=claim_of(organization, "other", on_empty="wait"))
        assert (other.status_code, other.json()["code"]) == (422, "ClaimIdReused")
        assert stack.ask("explain", "claim", "wait/1")["outcome"] == "waiting"
        left = await http.delete("/v1/claims/wait%2F2")
        assert (left.status_code, left.json()["state"], left.json()["error"]["code"]) == (
            200,
            "failed",
            "RequestCanceled",
        )
        reading = asyncio.create_task(http.get("/v1/claims/wait%2F1/events"))
        holding = asyncio.create_task(http.get("/v1/claims/wait%2F1", headers={"Prefer": "wait=50"}))
        await asyncio.sleep(0)
    held, events = await holding, await reading
    assert (held.json()["state"], held.json()["claim"]["name"]) == ("claimed", "httpwait-one")
    assert [line for line in events.text.splitlines() if line.startswith("id: ")][-1].startswith("id: claimed.")
    claimed = await http.put("/v1/claims/wait%2F1", json=claim_of(organization, "one", on_empty="wait"))
    assert (claimed.status_code, claimed.json()) == (200, held.json()["claim"])


async def test_a_server_answers_what_is_under_way_before_it_ends(stack: DevStack) -> None:
    organization = "httpdrain"
    stack.apply(organization, 2, **READY)
    stack.wait_whole(organization)
    with serve(stack) as (process, address):
        async with client_of(stack, address) as http:
            waiting = claim_of(organization, "later", on_empty="wait")
            with frozen(stack, "provisioner"):
                for n in range(2):
                    assert (await http.put(f"/v1/claims/d{n}", json=claim_of(organization, f"d{n}"))).status_code == 201
                assert (await http.put("/v1/claims/later", json=waiting)).status_code == 202
                held = asyncio.create_task(http.get("/v1/claims/later", headers={"Prefer": "wait=60"}))
                claims = [
                    asyncio.create_task(http.put(f"/v1/claims/many-{n}", json=claim_of(organization, f"m{n}")))
                    for n in range(50)
                ]
                await asyncio.wait(claims, return_when=asyncio.FIRST_COMPLETED)
                process.send_signal(signal.SIGTERM)
                answers = await asyncio.gather(*claims, return_exceptions=True)
                assert (await held).json()["state"] == "waiting", "nobody is kept waiting by a server that ends"
        assert process.wait(30) == 0
    answered = [answer for answer in answers if isinstance(answer, httpx.Response)]
    assert {answer.status_code for answer in answered} == {429}
    assert len(answered) == len(claims), [error for error in answers if isinstance(error, Exception)]


async def test_the_documentation_page_loads_nothing_from_other_servers(
    stack: DevStack, http: httpx.AsyncClient
) -> None:
    page = await http.get("/docs")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "://" not in page.text
    for file in ("swagger-ui.css", "swagger-ui-bundle.js", "start.js"):
        assert (await http.get(f"/docs/{file}")).status_code == 200
    document = (await http.get("/openapi.json")).json()
    assert document["openapi"] == "3.1.0"
    del http.headers["Authorization"]
    unknown = await http.put("/v1/claims/c", json={})
    assert (unknown.status_code, unknown.headers["www-authenticate"]) == (401, "Bearer")


async def send_and_leave(http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    """Send a claim, and close the connection at once: the decision goes on without its caller."""
    content = json.dumps(body).encode()
    _, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
    head = f"PUT {path} HTTP/1.1\r\nhost: x\r\nauthorization: {http.headers['Authorization']}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)
    await writer.drain()
    writer.close()


@contextmanager
def serve(stack: DevStack) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a `prebuilds serve` beside the stack's; yield the process and its address."""
    log = Path(stack.files / "serve.log")
    with log.open("wb") as errors:
        argv = [BIN / "prebuilds", "serve", "--port", "0"]
        process = subprocess.Popen(argv, env=stack.env, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving http://127.0.0.1:"), log.read_text()
        yield process, line.split()[1]
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_an_address_and_a_token_are_all_that_a_command_needs(stack: DevStack, tmp_path: Path) -> None:
    organization = "httpcommands"
    stack.apply(organization, 1, command=["sleep", "infinity"], ready=None)
    stack.wait_whole(organization)
    token = Path(stack.facts["token_file"]).read_text().strip()
    away = {"PREBUILDS_STATE_DIR": str(tmp_path), "TEMPORAL_ADDRESS": "127.0.0.1:1"}
    over_http = {"PREBUILDS_URL": stack.facts["http"], "PREBUILDS_TOKEN": token, **away}

    def ask(*words: str) -> Any:
        output = stack.cli(*words, "--json", **over_http)
        assert output.code == 0, (words, output)
        return output.json

    preset = ("--preset", f"{organization}/python/small", "--owner", "alice")
    claim = ("claim", *preset, "--name", "cmd-one", "--claim-id", "http/1", "--wait-ready")
    claimed = ask(*claim)
    assert stack.ask(*claim) == claimed, "the same answer over Temporal"
    other = (*claim[:-1], "--ttl", "9h", "--json")
    refused = stack.cli(*other, **over_http)
    over_temporal = stack.cli(*other)
    for output in (refused, over_temporal):
        error = output.json["error"]
        assert (output.code, error["type"], error["details"]) == (1, "ClaimIdReused", {"claim_id": "http/1"})
    waited_claim = ask("claim", *preset, "--name", "cmd-two", "--on-empty", "wait", "--timeout", "60s", "--wait-ready")
    assert waited_claim["source"] == "prebuilt"
    assert ask("workspaces", "stop", "alice/cmd-one", "--wait")["status"] == "stopped"
    assert ask("logs", "alice/cmd-one", "--follow") == stack.ask("logs", "alice/cmd-one")
    assert ask("explain", "claim", "http/1") == stack.ask("explain", "claim", "http/1")
    assert ask("release", "alice/cmd-one", "--wait")["workspace_id"] == claimed["workspace_id"]
    gone = stack.cli(*claim, "--json", **over_http)
    assert (gone.code, gone.json["error"]["type"]) == (1, "WorkspaceNotFound"), "its address may be somebody else's"
    assert ask("reconcile", "--wait") == {"reconciled": True}
    assert ask("inventory")["unavailable"] == []
    checks = [check["name"] for check in stack.cli("doctor", "--json", **over_http).json["checks"]]
    assert checks == [check["name"] for check in stack.cli("doctor", "--json").json["checks"]]
    assert ask("stop", "--cause", "a test", "--wait")["state"] == "stopped"
    assert ask("start")["changed"]


async def test_a_service_does_over_http_what_it_does_over_temporal(stack: DevStack) -> None:
    organization = "httpservice"
    stack.apply(organization, 0, **READY)
    token = Path(stack.facts["token_file"]).read_text().strip()
    over_temporal = await PrebuildsClient.connect(stack.facts["temporal_address"])
    request = ClaimRequest.model_validate(claim_of(organization, "svc-one", on_empty="wait"))
    async with await PrebuildsClient.connect(stack.facts["http"], token=token) as client:
        loop, same = await client.loop(), await over_temporal.loop()
        assert (loop.state, loop.started_at) == (same.state, same.started_at)
        await client.nudge()
        await client.reconcile([UUID(stack.preset(organization)["preset_id"])])
        with pytest.raises(NoClaimablePrebuiltWorkspaces) as over_http:
            await client.lint_preset(f"{organization}/python/small")
        with pytest.raises(NoClaimablePrebuiltWorkspaces) as there:
            await over_temporal.lint_preset(f"{organization}/python/small")
        assert str(over_http.value) == str(there.value)
        with frozen(stack, "provisioner"):
            await client.start_claim(request, "service/1")
            assert await client.leave_queue("service/1")
            assert not await client.leave_queue("service/none")
            waiting = asyncio.create_task(client.claim_request(request, "service/2"))
            while not stack.ask("explain", "waiting", f"{organization}/python/small")["waiting"]:
                await asyncio.sleep(0.05)
        claimed = await waiting
        assert claimed == await over_temporal.claim_request(request, "service/2")
        ready, same_build = await client.wait_until_ready(claimed), await over_temporal.wait_until_ready(claimed)
        assert ready == same_build
