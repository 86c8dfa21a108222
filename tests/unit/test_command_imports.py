"""A command imports only what it needs. The test names forbidden modules: a time limit would fail on a busy machine."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from prebuilds.cli.app import COMMANDS, GROUPS, command_tree
from prebuilds.cli.ending import run_command

NEVER = {"alembic", "aiodocker", "httpx", "mako", "pygments", "yaml"}
"""For schema changes, drivers and files: nothing that a claim or a status is made of."""
DRIVERS = {f"prebuilds.provisioners.{name}" for name in ("process", "container", "terraform")}
OTHERS = {"prebuilds.cli.applying", "prebuilds.cli.dev", "prebuilds.templates", "prebuilds.stack", "prebuilds.doctor"}

CONNECTING = {
    ("claim", "--preset", "acme/python/small", "--owner", "alice", "--name", "dev"): {"sqlalchemy", "asyncpg", "rich"},
    ("status",): {"rich", "prebuilds.client"},
}
"""Commands that connect, and what they may not have imported when they do, beside what none may."""


OVER_HTTP = NEVER - {"httpx"} | {"sqlalchemy", "asyncpg", "grpc", "temporalio", "prebuilds.client", "rich"}


def imported(words: tuple[str, ...], folder: Path, **variables: str) -> set[str]:
    """Return the modules that a command line imports until it ends or connects to a server.

    Args:
        variables: More for its environment, where {port} is the server's.
    """
    program = "from prebuilds.cli import main; main()"
    imports = folder / "imports"
    with socket.create_server(("127.0.0.1", 0)) as server, imports.open("wb") as err:
        port = server.getsockname()[1]
        env = os.environ | {
            "PREBUILDS_DATABASE_URL": f"postgresql://nobody@127.0.0.1:{port}/none",
            "TEMPORAL_ADDRESS": f"127.0.0.1:{port}",
        }
        env |= {name: value.format(port=port) for name, value in variables.items()}
        argv = [sys.executable, "-X", "importtime", "-c", program, *words]
        with subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=err) as process:
            if words in CONNECTING:
                server.settimeout(60)
                server.accept()[0].close()
                process.kill()
    return set(re.findall(r"^import time:[^|]*\|[^|]*\| *(\S+)$", imports.read_text(), re.MULTILINE))


def under(modules: set[str], forbidden: set[str]) -> set[str]:
    return {name for name in modules if any(name == one or name.startswith(f"{one}.") for one in forbidden)}


@pytest.mark.parametrize("words", CONNECTING, ids=lambda words: words[0])
def test_a_command_imports_only_what_it_needs(words: tuple[str, ...], tmp_path: Path) -> None:
    modules = imported(words, tmp_path)
    assert {"temporalio.client", "pydantic"} <= modules
    assert under(modules, NEVER | DRIVERS | OTHERS | CONNECTING[words]) == set()


@pytest.mark.parametrize("words", CONNECTING, ids=lambda words: words[0])
def test_a_command_over_http_needs_neither_temporal_nor_a_database(words: tuple[str, ...], tmp_path: Path) -> None:
    modules = imported(words, tmp_path, PREBUILDS_URL="http://127.0.0.1:{port}")
    assert {"httpx", "prebuilds.remote.transport"} <= modules
    assert under(modules, OVER_HTTP | DRIVERS | OTHERS) == set()


@pytest.mark.parametrize("words", [("--version",), ("--help",)], ids=lambda words: words[0])
def test_a_command_without_a_server_imports_no_client(words: tuple[str, ...], tmp_path: Path) -> None:
    modules = imported(words, tmp_path)
    assert "typer" in modules
    assert under(modules, NEVER | DRIVERS | {"temporalio", "sqlalchemy", "asyncpg", "prebuilds.payloads"}) == set()


VALIDATORS = """
from prebuilds import payloads, views
from prebuilds.payloads.base import Payload
def all_of(base):
    return [one for model in base.__subclasses__() for one in (model, *all_of(model))]
print(len(all_of(Payload)) > 40, any(model.__pydantic_complete__ for model in all_of(Payload)))
payloads.build_validators()
print(all(model.__pydantic_complete__ for model in all_of(Payload)))
"""


def test_a_payloads_validator_is_built_when_it_is_used_and_by_a_worker_before() -> None:
    result = subprocess.run([sys.executable, "-c", VALIDATORS], check=True, capture_output=True, text=True)
    assert result.stdout.split() == ["True", "False", "True"]


def test_nothing_is_collected_until_a_command_has_imported_what_it_needs() -> None:
    async def work() -> list[bool]:
        before = gc.isenabled()
        await asyncio.sleep(0)
        return [before, gc.isenabled(), gc.get_freeze_count() > 0]

    gc.disable()  # as `main` does
    try:
        assert run_command(work()) == [False, True, True]
    finally:
        gc.enable()
        gc.unfreeze()


def test_each_command_is_the_same_alone_and_among_all() -> None:
    from typer.main import get_command

    everything = get_command(command_tree()).commands
    assert list(everything) == [*COMMANDS, *GROUPS]
    for name, command in everything.items():
        [(alone, found)] = get_command(command_tree([name])).commands.items()
        assert (alone, found.help) == (name, command.help)
        assert [parameter.opts for parameter in found.params] == [parameter.opts for parameter in command.params]
