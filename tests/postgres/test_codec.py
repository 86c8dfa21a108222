"""The codec for Temporal's UI: the payloads it decodes, the values it hides, and its access rules."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.api.common.v1 import Payload, Payloads

from prebuilds.http import bounds
from prebuilds.http.codec import origin_of
from prebuilds.operations.codec import hide_claims
from prebuilds.payloads import ClaimRequest
from prebuilds.temporal.converter import environment_converter
from prebuilds.temporal.payload_key import parse_payload_keys
from tests.postgres.http_steps import KnownTokens, Server, person, serving

SECRET = "hunter2-5e1f"
OURS, OTHERS = (base64.b64encode(os.urandom(32)).decode() for _ in range(2))
UI = "https://temporal.example.com"
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-namespace",
}
TOKENS = KnownTokens(
    reader=person("token/reader", "read"),
    here=person("token/here", "operate:acme"),
    ops=person("token/ops", "operate"),
)


@pytest.fixture
async def server(engine: AsyncEngine, database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    monkeypatch.setenv("PREBUILDS_PAYLOAD_KEY", OURS)
    monkeypatch.setenv("PREBUILDS_TEMPORAL_UI", f"{UI}:443/ui/")
    async with serving(engine, database_url, TOKENS) as server:
        yield server


async def encrypted(*payloads: Payload, key: str = OURS) -> list[Payload]:
    return await parse_payload_keys(key).encode(payloads)


def plain(value: Any) -> Payload:
    return Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(value).encode())


def request_body(*payloads: Payload) -> dict[str, Any]:
    found: dict[str, Any] = MessageToDict(Payloads(payloads=payloads))
    return found


async def decoded(server: Server, *payloads: Payload) -> list[Payload]:
    answer = await server.http.post(
        "/codec/decode", json=request_body(*payloads), headers={"Authorization": "Bearer ops"}
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return list(ParseDict(answer.json(), Payloads()).payloads)


async def test_a_workers_payloads_are_decoded_except_claim_secrets(server: Server) -> None:
    request = {"preset": "acme/python/small", "owner": "alice", "name": "dev", "claim_parameters": {"token": SECRET}}
    claim = ClaimRequest.model_validate(request)
    given = await environment_converter().encode([claim, {"nothing": "hidden", "n": 7}, None])
    assert all(payload.metadata["encoding"] == b"binary/encrypted" for payload in given)
    first, second, third = await decoded(server, *given)
    assert first.metadata["encoding"] == b"json/plain"
    shown = json.loads(first.data)
    assert (shown["owner"], shown["claim_parameters"]) == ("alice", {"token": "***"})
    assert SECRET.encode() not in first.data
    assert json.loads(second.data) == {"nothing": "hidden", "n": 7}
    assert third.metadata["encoding"] == b"binary/null"


async def test_unreadable_payloads_are_returned_unchanged(server: Server) -> None:
    others = await encrypted(plain({"a": 1}), key=OTHERS)
    bytes_, twice = await encrypted(
        Payload(metadata={"encoding": b"binary/plain"}, data=SECRET.encode()), *await encrypted(plain({"a": 1}))
    )
    [deep] = await encrypted(Payload(metadata={"encoding": b"json/plain"}, data=b"[" * 100_000))
    [damaged] = await encrypted(plain({"a": 1}))
    damaged.data = damaged.data[:-1] + b"x" if damaged.data[-1:] != b"x" else damaged.data[:-1] + b"y"
    clear = plain({"claim_parameters": {"token": "who asks has it already"}})
    given = [*others, bytes_, twice, deep, damaged, clear]
    assert await decoded(server, *given) == given
    assert await decoded(server) == []


@pytest.mark.parametrize(
    "value",
    [
        {"claims": [{"claim_parameters": {"token": SECRET}}]},
        {"template": "acme/python", "parameters": {"token": SECRET}},
        {"Claim-Parameters": [SECRET]},
        {"claim_parameters": SECRET},
        json.dumps({"claim_parameters": {"token": SECRET}}),
    ],
)
def test_a_claims_parameters_are_hidden_wherever_they_stand(value: Any) -> None:
    assert SECRET not in json.dumps(hide_claims(value))


async def test_a_name_that_stands_twice_hides_both(server: Server) -> None:
    text = f'{{"claim_parameters": {{"token": "{SECRET}"}}, "claim_parameters": {{}}}}'
    [shown] = await decoded(server, *await encrypted(Payload(metadata={"encoding": b"json/plain"}, data=text.encode())))
    assert SECRET.encode() not in shown.data


async def test_only_an_operator_of_everything_may_decode(server: Server) -> None:
    body = request_body(*await encrypted(plain({"a": 1})))
    for token, status in (("reader", 403), ("here", 403), ("guess", 401), ("ops", 200)):
        answer = await server.http.post("/codec/decode", json=body, headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == status, token
    assert "ratelimit" in answer.headers, "it counts as any request"
    assert (await server.http.post("/codec/encode", json=body)).status_code == 404


async def test_only_the_configured_ui_may_read_an_answer_in_a_browser(server: Server) -> None:
    for origin, allowed in ((UI, True), ("https://evil.example.com", False), (f"{UI}:8443", False), ("null", False)):
        preflight = await server.http.options("/codec/decode", headers={"Origin": origin, **PREFLIGHT})
        assert (preflight.status_code == 200) is allowed, origin
        for token in ("ops", "guess"):
            headers = {"Origin": origin, "Authorization": f"Bearer {token}", "X-Namespace": "default"}
            answer = await server.http.post("/codec/decode", json={"payloads": []}, headers=headers)
            assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None), origin
            assert "access-control-allow-credentials" not in answer.headers
    elsewhere = await server.http.get("/v1/status", headers={"Origin": UI})
    assert "access-control-allow-origin" not in elsewhere.headers, "nothing but the codec is open to it"


@pytest.mark.parametrize("body", ["[]", "{", '{"payloads": [{"data": 7}]}', '{"payloads": "x"}', "[" * 10_000, "null"])
async def test_another_body_is_refused(server: Server, body: str) -> None:
    answer = await server.http.post("/codec/decode", content=body, headers={"Authorization": "Bearer ops"})
    assert answer.status_code == 422, answer.text
    assert answer.json()["code"] == "InvalidInput"


async def test_a_body_is_bounded(server: Server) -> None:
    answer = await server.http.post("/codec/decode", content=b" " * (bounds.BODY_BYTES_MAX + 1))
    assert answer.status_code == 413


def test_an_origin_is_as_browsers_send_it() -> None:
    assert origin_of("https://t.example.com:443/ui") == "https://t.example.com"
    assert origin_of("http://[::1]:8233") == "http://[::1]:8233"
    assert origin_of("http://localhost") == "http://localhost"
