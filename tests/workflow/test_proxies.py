"""Proxies in the environment are used neither for Temporal nor for the database."""

from __future__ import annotations

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.testing import WorkflowEnvironment

from tests.builders import make_preset
from tests.faults.away import serving
from tests.postgres.pool_steps import make_ready


@pytest.mark.parametrize("listed", [None, "fd00::/8,10.0.0.0/8"])
async def test_claims_do_not_meet_the_environment_s_proxy(
    dev: WorkflowEnvironment,
    engine: AsyncEngine,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    listed: str | None,
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, listed) if listed else monkeypatch.delenv(name, raising=False)
    await make_ready(engine, await make_preset(engine), 2)
    address = dev.client.service_client.config.target_host
    terms = {"preset": "acme/python/small", "owner": "alice"}
    async with serving("default", database_url, address) as (client, http):
        claimed = await client.claim(**terms, name="one")
        answer = await http.put("/v1/claims/c2", json={**terms, "name": "two"})
    assert (claimed.source, answer.status_code, answer.json()["source"]) == ("prebuilt", 201, "prebuilt")
