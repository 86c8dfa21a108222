"""The client and the commands over HTTP, against a server on a real database: the same records and errors as with the
database. Temporal is away."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import uvicorn
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import (
    ClaimIdReused,
    DrillNotFound,
    InvalidInput,
    NameTaken,
    NoClaimablePrebuiltWorkspaces,
    PresetNotFound,
    WorkspaceBuildFailed,
    WorkspaceNotFound,
)
from prebuilds.cli import run
from prebuilds.client import PrebuildsClient
from prebuilds.http.app import create_app
from prebuilds.remote.routes import ROUTES
from prebuilds.store.build_end import end_build
from prebuilds.vocabulary import BuildStatus
from tests.builders import make_preset
from tests.postgres.http_steps import KnownTokens, Server, person, serving
from tests.postgres.log_steps import run as run_build
from tests.postgres.log_steps import telling
from tests.postgres.pool_steps import fail, make_ready
from tests.rows import one
from tests.template_files import CONTRACT

CLAIM = {"preset": "acme/python/small", "owner": "alice"}


class Uvicorn(uvicorn.Server):
    """A server that does not change the test's signal handlers."""

    @contextmanager
    def capture_signals(self) -> Any:
        yield


@asynccontextmanager
async def listening(server: Server, gate: KnownTokens) -> AsyncIterator[str]:
    """The server's application at a port of its own."""
    app = create_app(server.service, gate)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        config = uvicorn.Config(app, lifespan="off", log_config=None, ws="none", timeout_graceful_shutdown=1)
        real = Uvicorn(config)
        task = asyncio.create_task(real.serve(sockets=[sock]))
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            real.should_exit = True
            await task


@pytest.fixture
async def server(engine: AsyncEngine, database_url: str) -> AsyncIterator[Server]:
    async with serving(engine, database_url) as server:
        yield server


@pytest.fixture
async def url(server: Server) -> AsyncIterator[str]:
    async with listening(server, KnownTokens(alice=person("alice", "claim"))) as url:
        yield url


@pytest.fixture
async def client(url: str) -> AsyncIterator[PrebuildsClient]:
    async with await PrebuildsClient.connect(url, token="operator") as client:
        yield client


def test_the_table_of_routes_is_that_of_the_server(server: Server) -> None:
    for name, route in ROUTES.items():
        operation = server.document["paths"][route.path][route.method.lower()]
        query = {one["name"] for one in operation.get("parameters", []) if one["in"] == "query"}
        assert set(route.query) <= query, name
        if not route.body:
            continue
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        [reference] = {one["$ref"] for one in schema.get("anyOf", [schema]) if "$ref" in one}
        fields = server.document["components"]["schemas"][reference.rpartition("/")[2]]["properties"]
        assert set(route.body) <= set(fields), name


# --- The client ------------------------------------------------------------------------------------------------------


async def test_a_service_claims_and_operates_without_temporal(
    engine: AsyncEngine, server: Server, client: PrebuildsClient
) -> None:
    await make_ready(engine, await make_preset(engine), 2)
    claimed = await client.claim(**CLAIM, name="dev", claim_id="ticket/17")
    assert (claimed.claim_id, claimed.owner, claimed.source) == ("ticket/17", "alice", "prebuilt")
    assert await client.claim(**CLAIM, name="dev", claim_id="ticket/17") == claimed, "the same answer for ever"
    with pytest.raises(ClaimIdReused):
        await client.claim(**CLAIM, name="other", claim_id="ticket/17")
    with pytest.raises(NameTaken) as taken:
        await client.claim(**CLAIM, name="dev")
    assert list(taken.value.details) == ["name"]
    with pytest.raises(PresetNotFound):
        await client.claim(owner="alice", name="x", preset="acme/python/none")
    second = await client.claim(**CLAIM, name="two")
    with pytest.raises(NoClaimablePrebuiltWorkspaces) as missed:
        await client.claim(**CLAIM, name="three")
    assert missed.value.details["miss_reason"] == "empty"
    assert missed.value.details["retry_after_seconds"] >= 1

    shown = await client.show_workspace("alice/dev")
    assert shown.id == claimed.workspace_id
    with pytest.raises(InvalidInput, match="has no lease"):
        await client.renew("alice/two")
    assert (await client.set_workspace("alice/two", lease_seconds=600)).lease_seconds == 600
    renewed = [await client.renew("alice/two"), await client.renew("alice/two", lease_seconds=900)]
    assert [one.lease_seconds for one in renewed] == [600, 900]
    assert renewed[0].lease_until < renewed[1].lease_until
    assert [row.id for row in await client.list_workspaces(owner="alice")] == [
        claimed.workspace_id,
        second.workspace_id,
    ]
    status = await client.status(limit=1)
    assert [row.preset for row in status.presets] == ["small"]
    assert (await client.add_members("acme", ["carol"])).added == ["carol"]
    moved = await client.transfer("alice/two", "carol", by="nobody")
    assert (moved.workspace, moved.from_workspace) == ("carol/two", "alice/two")
    left = await client.remove_members("acme", ["carol"])
    assert [one.workspace for one in left.users[0].workspaces] == ["carol/two"]
    drill = await client.run_drill("acme/python")
    assert (drill.status, drill.requested_by) == ("running", "operator")
    assert await client.run_drill("acme/python") == drill, "one drill at a time of each target"
    assert (await client.list_drills("acme/python", limit=1)).drills == [await client.show_drill(drill.id)]
    with pytest.raises(DrillNotFound):
        await client.show_drill(claimed.workspace_id)
    assert (await client.pause("moving")).paused
    assert not (await client.resume()).paused
    released = await client.release("alice/dev")
    assert released.workspace_id == claimed.workspace_id
    with pytest.raises(WorkspaceNotFound):
        await client.stop_workspace("alice/none")
    assert released.build_id in server.dispatcher.started


async def test_a_build_is_waited_for_until_it_has_ended(
    engine: AsyncEngine, database_url: str, client: PrebuildsClient
) -> None:
    await make_ready(engine, await make_preset(engine), 2)
    claimed = await client.claim(**CLAIM, name="dev")
    waiting = asyncio.create_task(client.wait_until_ready(claimed))
    await run_build(engine, telling("handing over"), claimed.build_id)
    assert (await waiting).status is BuildStatus.SUCCEEDED
    lost = await client.claim(**CLAIM, name="two")
    await end_build(engine, lost.build_id, BuildStatus.FAILED, error="no owner")
    with pytest.raises(WorkspaceBuildFailed) as failed:
        await client.wait_until_ready(lost)
    assert failed.value.details == {"build_id": str(lost.build_id), "error": "no owner"}
    with pytest.raises(WorkspaceNotFound):
        await client.wait_until_ready(uuid4())
    await client.release("alice/dev")
    with pytest.raises(WorkspaceNotFound, match="released"):
        await client.wait_until_ready(claimed)


async def test_a_token_alone_says_who_asks(engine: AsyncEngine, url: str) -> None:
    await make_ready(engine, await make_preset(engine), 1)
    async with await PrebuildsClient.connect(url, token="alice") as alice:
        await alice.claim(**CLAIM, name="dev")
        await alice.release("alice/dev", by="somebody else")
    assert (await one(engine, "SELECT actor FROM events WHERE kind = 'released'")).actor == "alice"


# --- The commands ----------------------------------------------------------------------------------------------------

Command = Callable[..., Awaitable[tuple[int, Any]]]


@pytest.fixture
def both(
    database_url: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run a command with the database and over HTTP; return its exit code and document, which are the same."""
    monkeypatch.setenv("PREBUILDS_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("PREBUILDS_TOKEN", "operator")

    async def run_words(*words: str, http: bool) -> tuple[int, Any]:
        if http:
            monkeypatch.delenv("PREBUILDS_DATABASE_URL", raising=False)
            monkeypatch.setenv("PREBUILDS_URL", f"{url}/")
        else:
            monkeypatch.setenv("PREBUILDS_DATABASE_URL", database_url)
            monkeypatch.delenv("PREBUILDS_URL", raising=False)
        code = await asyncio.to_thread(run, ["--json", *words])
        return code, json.loads(capsys.readouterr().out)

    async def compared(*words: str) -> tuple[int, Any]:
        here, there = await run_words(*words, http=False), await run_words(*words, http=True)
        for _, document in (here, there):
            document.pop("taken_at", None)
        return there if there == here else (-1, {"error": {"type": "different", "here": here, "there": there}})

    return compared


async def test_commands_say_the_same_over_http(engine: AsyncEngine, both: Command, tmp_path: Path) -> None:
    preset = await make_preset(engine)
    ready = await make_ready(engine, preset, 2)
    [failed] = await fail(engine, preset, 1)
    file = tmp_path / "templates.yaml"
    file.write_text(CONTRACT)
    path, at = "acme/python/small", "2026-03-02T09:14:00Z"
    wrong = [
        (words, document)
        for words in (
            ("status",),
            ("workspaces", "list", "--limit", "2"),
            ("workspaces", "list", "--owner", "prebuilds", "--all"),
            ("workspaces", "show", str(ready[0])),
            ("presets", "list"),
            ("templates", "list"),
            ("jobs", "list", "--status", "failed", "--status", "succeeded"),
            ("jobs", "cancel", "--status", "pending", "--dry-run"),
            ("workspaces", "prune", "--failed", "--dry-run"),
            ("explain", "preset", path, "--at", at),
            ("explain", "waiting"),
            ("size", path, "--lead", "60s", "--last", "1d"),
            ("members", "list", "acme"),
            ("users", "list"),
            ("tokens", "list"),
            ("logs", str(failed)),
            ("logs", str(failed), "--all"),
            ("apply", "-f", str(file), "--dry-run"),
            ("snapshot",),
            ("members", "add", "acme", "alice"),
            ("users", "enable", "alice"),
            ("resume",),
        )
        for code, document in [await both(*words)]
        if code != 0
    ]
    assert wrong == []


async def test_commands_are_refused_alike_over_http(engine: AsyncEngine, both: Command) -> None:
    [ready] = await make_ready(engine, await make_preset(engine), 1)
    refusals = {
        ("workspaces", "show", "alice/none"): "WorkspaceNotFound",
        ("workspaces", "show", "nonsense"): "InvalidInput",
        ("workspaces", "list", "--limit", "0"): "InvalidInput",
        ("workspaces", "list", "--after", "nonsense"): "InvalidInput",
        ("workspaces", "start", str(ready)): "InvalidInput",
        ("workspaces", "renew", str(ready), "--lease", "10m"): "InvalidInput",
        ("workspaces", "renew", "alice/none"): "WorkspaceNotFound",
        ("presets", "invalidate", "acme/python/none"): "PresetNotFound",
        ("presets", "resume", "acme"): "InvalidInput",
        ("templates", "delete", "acme/none"): "TemplateNotFound",
        ("jobs", "list", "--template", "acme/none"): "TemplateNotFound",
        ("explain", "claim", "none"): "InvalidInput",
        ("explain", "preset", "acme/python/none"): "PresetNotFound",
        ("size", "acme/python/none"): "PresetNotFound",
        ("size", "acme/python/small", "--target", "1.5"): "InvalidInput",
        ("size", "acme/python/small", "--last", "90d"): "InvalidInput",
        ("members", "list", "none"): "InvalidInput",
        ("members", "add", "none", "alice"): "InvalidInput",
        ("users", "disable", "nobody"): "OwnerNotFound",
        ("tokens", "create", "x", "--scope", "claim"): "InvalidInput",
        ("tokens", "revoke", "none"): "TokenNotFound",
        ("logs", "alice/none"): "WorkspaceNotFound",
        ("release", "alice/none"): "WorkspaceNotFound",
    }
    wrong = [
        (words, document)
        for words, kind in refusals.items()
        for code, document in [await both(*words)]
        if (code, document.get("error", {}).get("type")) != (1, kind)
    ]
    assert wrong == []


async def test_only_database_commands_need_the_database(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PREBUILDS_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("PREBUILDS_STATE_DIR", str(tmp_path))
    monkeypatch.delenv("PREBUILDS_DATABASE_URL", raising=False)
    for words in (["migrate"], ["init"], ["restored", "--dry-run"], ["bench", "claim"], ["keys", "show"]):
        assert await asyncio.to_thread(run, words) == 3, words
        assert "works on the database itself" in capsys.readouterr().err, words
    assert await asyncio.to_thread(run, ["status"]) == 3
    assert "cannot reach the server at http://127.0.0.1:1" in capsys.readouterr().err
    moved = ["workspaces", "transfer", "alice/dev", "--to", "bob", "--by", "carol"]
    assert await asyncio.to_thread(run, moved) == 1
    assert "--by: has no effect over HTTP" in capsys.readouterr().err
