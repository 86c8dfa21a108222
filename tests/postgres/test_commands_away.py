"""Commands that write while Temporal is away: a committed change counts as done and is reported as one document."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.cli import run
from prebuilds.vocabulary.tokens import read_token
from tests.builders import find_preset, make_preset
from tests.rows import add_prebuild
from tests.template_files import CONTRACT

Command = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def command(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run a command without Temporal; return its exit code and output."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("PREBUILDS_DATABASE_URL", database_url)
    monkeypatch.setenv("PREBUILDS_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("TEMPORAL_ADDRESS", address)

    async def run_words(*words: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(run, words)
        output = capsys.readouterr()
        return code, output.out, output.err

    return run_words


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


async def test_every_file_is_applied_or_none(command: Command, tmp_path: Path) -> None:
    first, second, broken = (tmp_path / name for name in ("a.yaml", "b.yaml", "c.yaml"))
    first.write_text(CONTRACT)
    second.write_text(CONTRACT.replace("name: acme", "name: other"))
    broken.write_text(CONTRACT.replace("name: acme", "name: third").replace("instances: 3", "instances: many"))
    code, _, err = await command("apply", "-f", str(first), "-f", str(broken))
    path = "organizations[third].templates[python].presets[small].instances"
    line = broken.read_text().splitlines().index("            instances: many") + 1
    assert (code, f"{broken}:{line}: {path}: must be a whole number" in err) == (1, True)
    code, out, _ = await command("apply", "-f", str(first), "-f", str(second), "--json")
    created = json.loads(out)["created"]
    assert (code, created[0], "organization other" in created) == (0, "organization acme", True)


async def test_a_dry_run_says_old_and_new_and_what_is_replaced(
    command: Command, engine: AsyncEngine, tmp_path: Path
) -> None:
    file = tmp_path / "templates.yaml"
    file.write_text(CONTRACT)
    await command("apply", "-f", str(file))
    preset = await find_preset(engine)
    for hours in (1, 2):
        await add_prebuild(engine, preset, timedelta(hours=hours))
    file.write_text(CONTRACT.replace("instances: 3", "instances: 5").replace("size: small", "size: large"))
    code, out, _ = await command("apply", "-f", str(file), "--dry-run")
    assert code == 0
    assert out.splitlines() == [
        "dry run, nothing was changed",
        "updated: template acme/python, preset acme/python/small",
        "  preset acme/python/small: instances: 3 -> 5",
        "  preset acme/python/small: parameters.size: small -> large",
        "activated: version 2 of acme/python",
        "replaced: 2 prebuilds of acme/python/small would be replaced",
        "unchanged: 3",
    ]
    other = CONTRACT[CONTRACT.index("          - name: small") :].replace("small", "other").replace("true", "false")
    file.write_text(CONTRACT + other)
    _, out, _ = await command("apply", "-f", str(file))
    assert out.splitlines()[-2:] == ["kept: 2 prebuilds of 1 preset with the same content", "unchanged: 4"]
    file.write_text(CONTRACT[: CONTRACT.index("          - name: small")] + other)
    _, out, _ = await command("apply", "-f", str(file))
    assert "removed: 2 prebuilds of acme/python/small are being removed" in out.splitlines()


async def test_tokens_are_made_shown_once_and_revoked(command: Command, engine: AsyncEngine) -> None:
    await make_preset(engine)
    code, token, output = await command("tokens", "create", "ci", "--scope", "read:acme", "--scope", "claim:others")
    assert (code, read_token(token.strip()) is not None) == (0, True), "stdout is the token alone, for $(...)"
    assert "token ci: claim:others, read:acme; it never expires, and is not shown again" in output
    words = ("tokens", "create", "bob", "--scope", "claim", "--user", "bob", "--expires", "90d", "--json")
    code, out, _ = await command(*words)
    made = json.loads(out)
    assert code == 0
    assert made.keys() == {"token", "id", "name", "scopes", "user", "expires_at"}
    code, out, err = await command(*words[:-1])
    assert (code, out) == (1, "")
    assert err.startswith("error: InvalidInput: name: a token bob exists")
    code, out, err = await command("tokens", "create", "x", "--scope", "read", "--expires", "8")
    assert (code, err.startswith("error: InvalidInput: --expires: 8 has no unit")) == (1, True)
    code, out, _ = await command("tokens", "list", "--json")
    assert [(t["name"], t["state"], t["scopes"]) for t in json.loads(out)["tokens"]] == [
        ("bob", "good", ["claim"]),
        ("ci", "good", ["claim:others", "read:acme"]),
    ]
    assert made["token"] not in out
    assert await command("tokens", "revoke", "ci") == (0, "revoked ci\n", "")
    assert await command("tokens", "revoke", "ci") == (0, "nothing to do: ci is revoked already\n", "")
    code, _, err = await command("tokens", "revoke", "nobodys")
    assert (code, err.startswith("error: TokenNotFound: no token is called nobodys")) == (1, True)
    code, out, _ = await command("tokens", "list")
    assert (code, "ci" in out, "bob" in out) == (0, False, True)
    assert await command("tokens", "confirm", "--all") == (0, "nothing to do: they are confirmed already\n", "")
    assert (await command("tokens", "confirm"))[0] == 1


async def test_a_read_only_database_is_reported_as_read_only(command: Command, engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        database = await connection.scalar(text("SELECT current_database()"))
        await connection.execute(text(f'ALTER DATABASE "{database}" SET default_transaction_read_only = on'))
    for words in (("pause", "--reason", "upgrade"), ("tokens", "create", "ci", "--scope", "read")):
        code, out, _ = await command(*words, "--json")
        error = json.loads(out)["error"]
        assert (code, error["type"]) == (3, "StackUnreachable"), words
        assert "the database is read-only" in error["message"]
    assert (await command("presets", "list", "--json"))[0] == 0, "reading commands still work"
