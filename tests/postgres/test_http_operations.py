"""Jobs, templates, the loop and the state of the deployment over HTTP, on a real database; Temporal is away."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.http import examples
from tests.builders import make_preset
from tests.postgres.http_steps import KnownTokens, Server, person, serving
from tests.postgres.pool_steps import make_ready, record_prebuilds
from tests.rows import events, one, rows_of

JSON, YAML = "application/json", "application/yaml"


@pytest.fixture
async def server(engine: AsyncEngine, database_url: str) -> AsyncIterator[Server]:
    gate = KnownTokens(acme=person("token/ops", "operate:acme"), lead=person("lead", "admin:acme"))
    async with serving(engine, database_url, gate) as server:
        yield server


async def put(server: Server, content: str | bytes, kind: str = YAML, query: str = "", of: str = "operator") -> Any:
    headers = {"Content-Type": kind, "Authorization": f"Bearer {of}"}
    return await server.http.put(f"/v1/templates{query}", content=content, headers=headers)


async def test_a_template_file_is_applied_as_yaml_and_as_json(engine: AsyncEngine, server: Server) -> None:
    before = await rows_of(engine)
    tried = await put(server, examples.TEMPLATE_FILE, query="?dry_run=true")
    assert (tried.status_code, "organization acme" in tried.json()["created"]) == (200, True)
    assert await rows_of(engine) == before
    applied = await put(server, examples.TEMPLATE_FILE)
    assert applied.json()["created"] == tried.json()["created"]
    same = await put(server, json.dumps(examples.TEMPLATE_FILE_AS_JSON), JSON)
    assert (same.status_code, same.json()["created"], same.json()["updated"]) == (200, [], [])
    assert yaml.safe_load(examples.TEMPLATE_FILE) == examples.TEMPLATE_FILE_AS_JSON
    assert (await one(engine, "SELECT array_agg(DISTINCT actor) AS by FROM events WHERE kind = 'applied'")).by == [
        "operator"
    ]

    listed = (await server.http.get("/v1/templates")).json()
    assert [(row["template"], row["presets"]) for row in listed["templates"]] == [("python", 1)]
    path = "/v1/templates/acme%2Fpython"
    assert (await server.http.post(f"{path}:deprecate")).json()["deprecated"] is True
    assert (await server.http.post(f"{path}:deprecate?undo=true")).json()["deprecated"] is False
    assert (await server.http.delete(path)).json()["deleted"] is True
    assert (await server.http.post(f"{path}:deprecate")).status_code == 404


@pytest.mark.parametrize(
    ("content", "kind", "field"),
    [
        (b"\xff", YAML, "body"),
        (b"", YAML, "organizations"),
        (b"{", JSON, "body"),
        (b'{"organizations": [], "organizations": []}', JSON, "body"),
        (b"[" * 100_000, JSON, "body"),
        (b"organizations: [", YAML, "file"),
        (b"organizations: [{name: NO!}]", YAML, "organizations[NO!].name"),
        (b'{"organizations": [{"name": "acme", "members": ["\\ud83d"]}]}', JSON, None),
        (b'organizations: [{name: acme, members: ["\\ud83d"]}]', YAML, None),
    ],
)
async def test_a_bad_file_is_refused_by_field_and_changes_nothing(
    engine: AsyncEngine, server: Server, content: bytes, kind: str, field: str | None
) -> None:
    before = await rows_of(engine)
    refused = await put(server, content, kind)
    assert (refused.status_code, refused.json()["code"]) == (422, "InvalidInput"), refused.text
    assert field is None or field in refused.json()["errors"]
    assert await rows_of(engine) == before


async def test_a_source_that_was_sent_reads_no_file_of_the_server_and_runs_no_program(
    engine: AsyncEngine, server: Server, tmp_path: Path
) -> None:
    (tmp_path / "main.tf").write_text('output "address" { value = "secret" }')
    ran = tmp_path / "ran"
    program = tmp_path / "terraform"
    program.write_text(f"#!/bin/sh\ntouch {ran}\n")
    program.chmod(0o755)

    async def apply(source: dict[str, Any]) -> Any:
        template = {"name": "vm", "provisioner": "terraform", "source": source, "presets": [{"name": "small"}]}
        file = {"organizations": [{"name": "acme", "templates": [template]}]}
        return await put(server, json.dumps(file), JSON)

    refused = await apply({"directory": str(tmp_path)})
    assert (refused.status_code, list(refused.json()["errors"])) == (
        422,
        ["organizations[acme].templates[vm].source.directory"],
    )
    assert "folder of the host" in refused.text
    applied = await apply({"files": {"main.tf": 'output "address" { value = "x" }'}, "binary": str(program)})
    assert applied.status_code == 200, applied.text
    assert not ran.exists()
    assert (await one(engine, "SELECT count(*) FROM template_files")).count == 0


async def test_an_administrator_of_an_organization_applies_what_is_its_own(engine: AsyncEngine, server: Server) -> None:
    assert (await put(server, examples.TEMPLATE_FILE, of="lead")).status_code == 200
    both = "organizations: [{name: acme}, {name: beta}]"
    refused = await put(server, both, of="lead")
    assert (refused.status_code, refused.json()["details"]["scope"]) == (403, "admin:beta")
    assert (await put(server, "organizations: []", of="lead")).status_code in (403, 422)
    assert (await one(engine, "SELECT count(*) FROM organizations WHERE name = 'beta'")).count == 0


async def test_jobs_are_listed_and_canceled_within_the_organizations_of_the_token(
    engine: AsyncEngine, server: Server
) -> None:
    for organization in ("acme", "beta"):
        await record_prebuilds(engine, await make_preset(engine, organization=organization), 2)
    as_acme = {"Authorization": "Bearer acme"}
    pending = await server.http.get("/v1/jobs?status=pending&status=running", headers=as_acme)
    assert {job["preset"] for job in pending.json()["jobs"]} == {"acme/python/small"}
    assert len((await server.http.get("/v1/jobs")).json()["jobs"]) == 4
    first = (await server.http.get("/v1/jobs?limit=3")).json()
    rest = (await server.http.get("/v1/jobs", params={"limit": 3, "after": first["next"]})).json()
    assert (len(first["jobs"]), len(rest["jobs"]), rest["next"]) == (3, 1, None)

    for body in ({}, {"initator": "prebuilds"}, {"status": ["lost"]}):
        assert (await server.http.post("/v1/jobs:cancel", json=body)).status_code == 422
    selection = {"initiator": "prebuilds"}
    counted = await server.http.post("/v1/jobs:cancel?dry_run=true", json=selection, headers=as_acme)
    assert counted.json() == {"canceled": 2, "skipped": 0}
    assert await events(engine, "job_canceled") == []
    assert (await server.http.post("/v1/jobs:cancel", json=selection, headers=as_acme)).json() == counted.json()
    left = (await server.http.get("/v1/jobs?status=pending")).json()["jobs"]
    assert {job["preset"] for job in left} == {"beta/python/small"}
    assert (await one(engine, "SELECT DISTINCT actor FROM events WHERE kind = 'job_canceled'")).actor == "token/ops"


async def test_pools_are_paused_and_the_loop_needs_temporal(engine: AsyncEngine, server: Server) -> None:
    await make_ready(engine, await make_preset(engine), 1)
    for path, body in (("stop", {}), ("stop", {"cause": ""}), ("pause", {}), ("pause", {"reason": " "})):
        assert (await server.http.post(f"/v1/loop:{path}", json=body)).status_code == 422, (path, body)
    paused = await server.http.post("/v1/loop:pause", json={"reason": "the host is moved"})
    assert (paused.status_code, paused.json()["paused"], paused.json()["changed"]) == (200, True, True)
    assert not (await server.http.post("/v1/loop:pause", json={"reason": "again"})).json()["changed"]
    assert (await server.http.get("/v1/status")).json()["loop"]["paused_reason"] == "the host is moved"
    assert (await server.http.get("/v1/snapshot")).json()["paused"] is True
    assert (await server.http.post("/v1/loop:resume")).json()["changed"]
    for path, body in (("loop:stop", {"cause": "x"}), ("reconcile", {}), ("reconcile", {"wait": True})):
        away = await server.http.post(f"/v1/{path}", json=body)
        assert (away.status_code, away.json()["code"]) == (503, "StackUnreachable"), away.text
    assert (await server.http.post("/v1/loop:start", json={"interval_seconds": 0})).status_code == 422
    unknown = await server.http.post("/v1/reconcile", json={"preset": "acme/python/none"})
    assert unknown.status_code == 404


@pytest.mark.parametrize("seconds", [0, -1, -2.2e307, 1e307])
async def test_a_token_lives_for_a_time_that_can_be(engine: AsyncEngine, server: Server, seconds: float) -> None:
    body = {"name": "ci", "scopes": ["read"], "expires_seconds": seconds}
    refused = await server.http.post("/v1/tokens", json=body)
    assert (refused.status_code, refused.json()["errors"].keys()) == (422, {"expires_seconds"})
    assert (await one(engine, "SELECT count(*) FROM tokens")).count == 0
