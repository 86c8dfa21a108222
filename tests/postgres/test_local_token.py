"""The embedded stack's own token: kept while valid, renewed otherwise, and sent to no other server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.operations.access import Gate
from prebuilds.operations.tokens import TokenOperations
from prebuilds.stack.local_token import keep_local_token
from prebuilds.temporal.stack_file import STACK_FILE, bearer_token
from prebuilds.vocabulary.actors import Actor
from prebuilds.vocabulary.scopes import EVERYTHING

OPS = Actor("ops")


async def test_the_local_token_is_kept_while_it_is_good(engine: AsyncEngine, database_url: str, tmp_path: Path) -> None:
    path = await keep_local_token(database_url, tmp_path)
    token = path.read_text().strip()
    assert (await Gate(engine).authenticate(token)).scopes == EVERYTHING
    path.chmod(0o644)
    assert await keep_local_token(database_url, tmp_path) == path
    assert (path.read_text().strip(), path.stat().st_mode & 0o777) == (token, 0o600)


@pytest.mark.parametrize("harm", ["revoked", "lost", "garbled", "killed"])
async def test_the_local_token_is_made_anew_when_it_is_not(
    engine: AsyncEngine, database_url: str, tmp_path: Path, harm: str
) -> None:
    path = await keep_local_token(database_url, tmp_path)
    before = path.read_text()
    match harm:
        case "revoked":
            await TokenOperations(engine).revoke(OPS, "local")
        case "lost":
            path.unlink()
        case "garbled":
            path.write_bytes(b"\xff")
        case "killed":  # after it was made, before the file was in its place
            path.rename(tmp_path / "token.new")
            (tmp_path / "token.new").chmod(0o644)
    await keep_local_token(database_url, tmp_path)
    assert path.read_text() != before
    assert path.stat().st_mode & 0o777 == 0o600
    await Gate(engine).authenticate(path.read_text().strip())
    assert [row.state for row in (await TokenOperations(engine).list()).rows] == ["good"]
    assert [file.name for file in tmp_path.iterdir()] == ["token"]


def test_the_local_token_is_presented_to_its_own_server_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREBUILDS_TOKEN", raising=False)
    (tmp_path / "token").write_text("pbt_x\n")
    facts = {"http": "http://127.0.0.1:8080", "token_file": str(tmp_path / "token")}
    (tmp_path / STACK_FILE).write_text(json.dumps(facts))
    assert bearer_token(tmp_path, "http://127.0.0.1:8080/") == "pbt_x"
    assert bearer_token(tmp_path, "http://127.0.0.1:8081") is None
    assert bearer_token(tmp_path, "https://prebuilds.example.com") is None
    monkeypatch.setenv("PREBUILDS_TOKEN", "pbt_y")
    assert bearer_token(tmp_path, "https://prebuilds.example.com") == "pbt_y"
    monkeypatch.delenv("PREBUILDS_TOKEN")
    (tmp_path / STACK_FILE).write_text(json.dumps({"token_file": str(tmp_path / "token")}))
    assert bearer_token(tmp_path, "http://127.0.0.1:8080") is None, "a stack without a server"
