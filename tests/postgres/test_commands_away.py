"""Commands that write while Temporal is away: what is committed is done, and told as one document."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from prebuilds.cli import run
from tests.template_files import CONTRACT

Command = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def command(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run a command with no Temporal: its exit code, and what it prints."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("PREBUILDS_DATABASE_URL", database_url)
    monkeypatch.setenv("PREBUILDS_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("TEMPORAL_ADDRESS", address)

    async def told(*words: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(run, words)
        said = capsys.readouterr()
        return code, said.out, said.err

    return told


async def test_apply_is_done_although_its_nudge_is_lost(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "templates.yaml"
    file.write_text(CONTRACT)
    code, out, _ = await command("apply", "-f", str(file), "--json")
    assert code == 0
    assert "template acme/python" in json.loads(out)["created"]
    code, out, _ = await command("apply", "-f", str(file), "--json")
    assert (code, json.loads(out)["created"]) == (0, [])


async def test_pause_is_done_and_start_says_once_who_is_away(command: Command) -> None:
    code, out, _ = await command("pause", "--reason", "upgrade", "--json")
    assert (code, json.loads(out)["changed"]) == (0, True)
    code, out, _ = await command("start", "--json")
    assert (code, json.loads(out)["error"]["type"]) == (3, "StackUnreachable")
