"""Requests to a server: the address, the retries, and the errors. The network is a function here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pydantic import BaseModel

from prebuilds.api import (
    ClaimIdReused,
    InvalidInput,
    NoClaimablePrebuiltWorkspaces,
    PrebuildsError,
    ProvisionerUnavailable,
    RateLimited,
    RequestFailed,
    StackUnreachable,
    StoreUnavailable,
    Unauthenticated,
)
from prebuilds.client import PrebuildsClient
from prebuilds.client.over_http import ACTIONS
from prebuilds.http.problems import describe, respond
from prebuilds.http.templates import _yaml_of
from prebuilds.operations.remote.pools import file_as_json
from prebuilds.payloads import ClaimRequest
from prebuilds.remote import address, routes, transport
from prebuilds.remote.address import ServerAddress
from prebuilds.remote.claims import RemoteClaims
from prebuilds.remote.problems import error_of_problem
from prebuilds.remote.transport import Transport
from prebuilds.templates import parse_template_file
from prebuilds.views import Reconciled
from prebuilds.vocabulary import OnEmpty
from tests.template_files import CONTRACT

EXAMPLES = Path(__file__).parents[2] / "examples"
TOKEN = "pbt_secret"
CLAIMED = {
    "claim_id": "c1",
    "workspace_id": str(uuid4()),
    "name": "dev",
    "owner": "alice",
    "initiator": "alice",
    "preset_id": str(uuid4()),
    "source": "prebuilt",
    "miss_reason": None,
    "build_id": str(uuid4()),
    "claimed_at": "2026-03-02T09:14:00Z",
    "address": None,
}
REQUEST = ClaimRequest(preset="acme/python/small", owner="alice", name="dev")
Step = Callable[[httpx.Request], httpx.Response] | httpx.Response | Exception


class Network(httpx.AsyncBaseTransport):
    """Answers each request with the next step and repeats the last one."""

    def __init__(self, *steps: Step) -> None:
        self.steps = list(steps)
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        if isinstance(step, Exception):
            raise step
        return step(request) if callable(step) else step

    @property
    def lines(self) -> list[str]:
        return [f"{request.method} {request.url.raw_path.decode()}" for request in self.requests]


def asking(network: Network) -> Transport:
    return Transport(ServerAddress("http://here/prebuilds", TOKEN), transport=network)


def problem(error: PrebuildsError, **facts: Any) -> httpx.Response:
    answer = respond(describe(error, **facts))
    return httpx.Response(answer.status_code, headers=dict(answer.headers), content=bytes(answer.body))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(transport, "PAUSE_MAX_S", 0.001)
    monkeypatch.setattr(address, "_warned_addresses", set())
    monkeypatch.delenv("PREBUILDS_TOKEN", raising=False)
    monkeypatch.delenv("PREBUILDS_URL", raising=False)


async def test_a_lost_request_is_repeated_under_the_same_claim_id() -> None:
    away = httpx.Response(502, text="<html>bad gateway")
    network = Network(
        httpx.ConnectError("refused"),
        httpx.ReadError(""),
        away,
        problem(StoreUnavailable("the database does not answer")),
        problem(RateLimited("too many", {"limit": 1, "retry_after_seconds": 0})),
        httpx.Response(201, json=CLAIMED | {"of_a_newer_release": 1}),
    )
    # Both problems ask for a second; the test does not wait for it.
    for step in network.steps:
        if isinstance(step, httpx.Response):
            step.headers.pop("Retry-After", None)
            if step.status_code == 503:
                step.headers["Retry-After"] = "0"
    claimed = await RemoteClaims(asking(network)).claim_request(REQUEST, "a/b")
    assert str(claimed.workspace_id) == CLAIMED["workspace_id"]
    assert network.lines == ["PUT /prebuilds/v1/claims/a%2Fb"] * 6
    assert {request.headers["Authorization"] for request in network.requests} == {f"Bearer {TOKEN}"}
    assert json.loads(network.requests[0].content) == {"preset": "acme/python/small", "owner": "alice", "name": "dev"}


@pytest.mark.parametrize(
    "error",
    [
        NoClaimablePrebuiltWorkspaces("nothing", {"miss_reason": "empty"}),
        ClaimIdReused("in use"),
        ProvisionerUnavailable("away", {"host": "h"}, remedy="bring it back"),
        InvalidInput("no", {"name": "is too long"}, inputs={"on_empty": "wait"}),
    ],
)
async def test_an_answer_is_the_error_of_the_server_and_is_not_asked_for_again(error: PrebuildsError) -> None:
    network = Network(problem(error))
    with pytest.raises(type(error)) as refused:
        await RemoteClaims(asking(network)).claim_request(REQUEST, "c1")
    got = refused.value
    assert (got.message, got.details, got.remedy, str(got)) == (error.message, error.details, error.remedy, str(error))
    assert (got.inputs, len(network.requests)) == (error.inputs, 1)


async def test_a_miss_says_when_to_come_back() -> None:
    network = Network(problem(NoClaimablePrebuiltWorkspaces("nothing", {"miss_reason": "empty"}), retry_after_s=7.2))
    with pytest.raises(NoClaimablePrebuiltWorkspaces) as missed:
        await RemoteClaims(asking(network)).claim_request(REQUEST, "c1")
    assert missed.value.details == {"miss_reason": "empty", "retry_after_seconds": 8}


async def test_an_error_of_a_newer_server_keeps_its_type() -> None:
    error = error_of_problem({"code": "MoonTooFar", "detail": "far", "details": {"km": 1}, "remedy": "wait"})
    assert (error.type, error.message, error.details, error.remedy) == ("MoonTooFar", "far", {"km": 1}, "wait")


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (httpx.Response(302, headers={"Location": "http://evil/"}), StackUnreachable, "not followed"),
        (httpx.Response(403, text="<html>"), StackUnreachable, "not as Prebuilds does"),
        (httpx.Response(200, text="<html>"), RequestFailed, "cannot read"),
        (httpx.Response(404, json={"code": "NotFound", "detail": "Not Found"}), RequestFailed, "upgraded"),
        (httpx.Response(413, json={"code": "ContentTooLarge", "detail": "long"}), InvalidInput, "too long"),
        (httpx.Response(500, json={"code": "InternalError", "detail": "its log"}), RequestFailed, "log"),
    ],
)
async def test_a_foreign_answer_is_reported_plainly(
    answer: httpx.Response, kind: type[PrebuildsError], says: str
) -> None:
    network = Network(answer)
    with pytest.raises(kind, match=says):
        await asking(network).ask(routes.RECONCILE, Reconciled)
    assert len(network.requests) == 1, "it is neither followed nor asked again"


async def test_without_a_token_the_refusal_says_how_to_give_one() -> None:
    anonymous = Transport(ServerAddress("http://here"), transport=Network(problem(Unauthenticated("no good token"))))
    with pytest.raises(Unauthenticated) as refused:
        await anonymous.ask(routes.STATUS, Reconciled)
    assert "PREBUILDS_TOKEN" in refused.value.remedy


async def test_an_act_that_must_not_be_done_twice_is_sent_again_only_if_it_was_never_received() -> None:
    network = Network(httpx.ConnectError("refused"), httpx.ReadError("lost"))
    with pytest.raises(StackUnreachable):
        await asking(network).send(routes.CREATE_TOKEN, {"name": "ci"})
    assert len(network.requests) == 2


async def test_a_cancelled_caller_releases_a_workspace_won_meanwhile() -> None:
    arrived, answered = asyncio.Event(), asyncio.Event()

    class Slow(Network):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.method == "PUT":
                self.requests.append(request)
                arrived.set()
                await answered.wait()
                return httpx.Response(201, json=CLAIMED)
            return await super().handle_async_request(request)

    claimed = httpx.Response(200, json={"claim_id": "c1", "state": "claimed", "claim": CLAIMED})
    released = httpx.Response(200, json={"workspace_id": CLAIMED["workspace_id"], "build_id": CLAIMED["build_id"]})
    network = Slow(claimed, released)
    claiming = asyncio.create_task(RemoteClaims(asking(network)).claim_request(REQUEST, "c1", abandon=True))
    await arrived.wait()
    claiming.cancel()
    await asyncio.sleep(0)
    answered.set()
    with pytest.raises(asyncio.CancelledError) as left:
        await claiming
    assert not hasattr(left.value, "__notes__"), "it is certain that nothing is left"
    assert network.lines == [
        "PUT /prebuilds/v1/claims/c1",
        "DELETE /prebuilds/v1/claims/c1",
        f"DELETE /prebuilds/v1/workspaces/{CLAIMED['workspace_id']}",
    ]


async def test_a_claim_without_an_answer_names_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prebuilds.remote.claims.ANSWER_TIMEOUT_S", 0.05)
    with pytest.raises(StackUnreachable) as lost:
        await RemoteClaims(asking(Network(httpx.ReadError("")))).claim_request(REQUEST, "c1")
    assert lost.value.details == {"claim_id": "c1"}
    assert "with the same id" in lost.value.remedy
    assert lost.value.inputs == {"claim_id": "c1"}


async def test_a_waiting_claim_is_watched_until_it_has_its_answer() -> None:
    network = Network(
        httpx.Response(202, json={"claim_id": "c1", "state": "deciding"}),
        httpx.Response(202, json={"claim_id": "c1", "state": "waiting", "position": 1}),
        httpx.Response(200, json={"claim_id": "c1", "state": "waiting", "position": 1}),
        httpx.ReadError(""),
        httpx.Response(200, json={"claim_id": "c1", "state": "claimed", "claim": CLAIMED}),
    )
    waiting = REQUEST.model_copy(update={"on_empty": OnEmpty.WAIT})
    claimed = await RemoteClaims(asking(network)).claim_request(waiting, "c1")
    assert claimed.claim_id == "c1"
    assert [line.partition(" ")[0] for line in network.lines] == ["PUT", "PUT", "GET", "GET", "GET"]
    assert {request.headers.get("Prefer") for request in network.requests[2:]} == {"wait=50"}


async def test_a_foreign_server_is_detected_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    not_found = httpx.Response(404, json={"code": "NotFound", "detail": "Not Found"})
    for other in (httpx.Response(200, json={"status": "UP"}), httpx.Response(200, text="<html>"), not_found):
        with pytest.raises(StackUnreachable, match="no Prebuilds server is at"):
            await asking(Network(other)).check()
    monkeypatch.setenv("PREBUILDS_URL", "http://127.0.0.1:1")
    with pytest.raises(StackUnreachable, match=r"cannot reach the server at http://127\.0\.0\.1:1"):
        await PrebuildsClient.connect()
    for wrong in ("http://a:b@127.0.0.1:1", "http://\u202e.com", "http://xn--a"):
        with pytest.raises(InvalidInput, match="address"):
            await PrebuildsClient.connect(wrong)


def test_the_client_has_a_route_for_each_request_of_an_operator() -> None:
    from typing import get_args

    from prebuilds.payloads import OperatorRequest

    requests = {
        word
        for part in get_args(OperatorRequest.model_fields["action"].annotation)
        for word in get_args(part) or [part]
    }
    assert set(ACTIONS) == requests - {"release_claims"}  # a claim that is given up is left and released


@pytest.mark.parametrize("file", [CONTRACT, *(path.read_text() for path in sorted(EXAMPLES.glob("*.yaml")))])
def test_a_template_file_means_the_same_on_the_server(file: str) -> None:
    def set_fields(entry: Any) -> Any:
        """Return the values that the file sets, without defaults."""
        if isinstance(entry, BaseModel):
            return {name: set_fields(getattr(entry, name)) for name in entry.model_fields_set}
        return [set_fields(one) for one in entry] if isinstance(entry, list) else entry

    here = parse_template_file(file)
    there = parse_template_file(_yaml_of(file_as_json(here)))
    assert there == here
    assert set_fields(there) == set_fields(here)
