"""Compose without an engine: each service a process of an ordinary user, by TLS and password, with its own role."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
import pytest

from prebuilds.client import PrebuildsClient
from tests.e2e.compose_apart import ComposeApart
from tests.e2e.debian_postgres import BIN
from tests.e2e.dev_stack import until

SERVICES = ("control", "claims", "provisioner", "http")
TEMPLATES: dict[str, Any] = {
    "organizations": [
        {
            "name": "acme",
            "members": ["alice"],
            "templates": [
                {
                    "name": "python",
                    "provisioner": "process",
                    "source": {"command": ["sleep", "infinity"]},
                    "presets": [{"name": "small", "parameters": {"size": "small"}, "instances": 2}],
                }
            ],
        }
    ]
}


@pytest.fixture
def apart() -> Iterator[ComposeApart]:
    folder = Path(tempfile.mkdtemp(prefix="prebuilds-compose-"))  # pytest's own folders are open to root alone
    folder.chmod(0o755)
    stack = ComposeApart(folder)
    try:
        stack.start_servers()
        yield stack
    finally:
        stack.end()
        _end_workspaces(folder)
        shutil.rmtree(folder)


def _end_workspaces(folder: Path) -> None:
    """Workspaces outlive their worker."""
    file = folder / "state-provisioner/host-id"
    host = file.read_text() if file.exists() else "none"
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get("PREBUILDS_HOST_ID", "").endswith(f"/{host}"):
                os.kill(process.pid, signal.SIGKILL)


async def roles_connected(apart: ComposeApart) -> set[tuple[str, bool]]:
    """Who is connected, and whether by TLS."""
    connection = await asyncpg.connect(apart.postgres.superuser)
    try:
        query = "SELECT usename, ssl FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE datname = 'prebuilds'"
        return {tuple(row) for row in await connection.fetch(query)}
    finally:
        await connection.close()


async def read_as_reader(apart: ComposeApart, statement: str, **changes: str) -> Any:
    password = apart.passwords["PREBUILDS_READER_PASSWORD"]
    connection = await asyncpg.connect(apart.postgres.url("prebuilds_reader", **changes), password=password)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


@pytest.mark.skipif(BIN is None or sys.platform != "linux", reason="needs Debian's `postgresql`, which has TLS")
def test_every_role_apart_serves_claims_by_tls_and_drains(apart: ComposeApart) -> None:
    made = apart.run("migrate")
    assert "roles: prebuilds_worker, prebuilds_server, prebuilds_reader" in made
    assert "warning" not in made
    for service in SERVICES:
        apart.start(service)
    address = f"http://127.0.0.1:{apart.ports['api']}"
    for service in SERVICES:
        until(lambda service=service: apart.is_healthy(service), f"{service} to be healthy", 60, apart.log(service))
    until(lambda: apart.is_healthy("http", f"{address}/readyz"), "the API", 60, apart.log("http"))

    token = apart.run("http", "prebuilds", "tokens", "create", "portal", "--scope", "admin", "--scope", "claim:others")
    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {token.strip()}"}, timeout=30) as http:
        assert http.get("/v1/status", headers={"Authorization": ""}).status_code == 401
        assert http.put("/v1/templates", json=TEMPLATES).status_code == 200

        def ready(number: int) -> bool:
            [preset] = http.get("/v1/presets").json()["presets"]
            return bool(preset["ready"] == number)

        until(lambda: ready(2), "the pool to be ready", 60, apart.log("provisioner"))
        claim = {"preset": "acme/python/small", "owner": "alice", "name": "by-http"}
        over_http = http.put("/v1/claims/by-http", json=claim)
        assert (over_http.status_code, over_http.json()["source"]) == (201, "prebuilt"), over_http.text

        async def claim_by_temporal() -> str:
            client = await PrebuildsClient.connect(apart.temporal.address)
            return (await client.claim(preset="acme/python/small", owner="alice", name="by-temporal")).source

        assert asyncio.run(claim_by_temporal()) == "prebuilt"
        until(lambda: ready(2), "the refill", 60, apart.log("control"))

    assert asyncio.run(roles_connected(apart)) == {("prebuilds_worker", True), ("prebuilds_server", True)}
    assert asyncio.run(read_as_reader(apart, "SELECT count(*) FROM claims WHERE outcome = 'prebuilt'")) == 2
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        asyncio.run(read_as_reader(apart, "SELECT digest FROM tokens"))
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        asyncio.run(read_as_reader(apart, "SELECT 1", more="sslmode=disable"))

    assert apart.stop() == dict.fromkeys(SERVICES, 0)
    for service in ("control", "claims", "http"):
        assert not any((apart.folder / f"state-{service}").iterdir()), "its root file system is read-only"
    secrets = set(apart.passwords.values()) | {token.strip()}
    for service in SERVICES:
        assert apart.lines(service), "JSON, line by line"
        assert not any(secret in apart.log(service).read_text() for secret in secrets)
