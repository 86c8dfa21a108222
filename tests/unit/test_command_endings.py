"""How a command ends when something is wrong: one document with --json, the true reason, and no traceback."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prebuilds.cli import run
from prebuilds.failures import as_typed

MAIN = "from prebuilds.cli import main; main()"


def prebuilds(
    *words: str, code: str = MAIN, env: dict[str, str] | None = None, stdout: Any = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """Run a command line in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREBUILDS_", "TEMPORAL_"))} | (env or {})
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(
        command, env=environment, text=True, check=False, stdout=stdout, stderr=subprocess.PIPE, timeout=60
    )


def test_a_full_disk_is_named_and_no_lost_connection(tmp_path: Path) -> None:
    error = as_typed(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert error is not None
    assert (error.type, str(error)) == (
        "DiskFull",
        "no space is left on this machine's disk; free some space there, then try again",
    )
    error = as_typed(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path)))
    assert error is not None
    assert (error.type, str(tmp_path) in str(error)) == ("DiskFull", True)
    error = as_typed(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
    assert error is not None
    assert "too many files open" in str(error)
    error = as_typed(ConnectionResetError(errno.ECONNRESET, "reset"))
    assert error is not None
    assert error.type == "StackUnreachable"


PRINTS = """
import prebuilds.cli.app as tree
from prebuilds.cli import main, output
def app(words, **_):
    output.document({"a": 1})
    output.AS_JSON or output.table(("A",), [("b",)], empty="")
tree.app = app
main()
"""


@pytest.mark.parametrize("json_", [(), ("--json",)], ids=["table", "json"])
def test_an_unwritable_output_is_named_in_the_error(json_: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        ended = prebuilds(*json_, code=PRINTS, stdout=full)
    assert ended.returncode == 1
    reason = "standard output cannot be written (no space left on device)"
    assert ended.stderr == f"error: OutputFailed: {reason}; the command may have done its work all the same\n"


def test_a_closed_pipe_ends_the_command_without_a_message() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        ended = prebuilds(code=PRINTS, stdout=write)
    finally:
        os.close(write)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, "")


BROKEN = {
    "TEMPORAL_PROFILE": ("no-such", "the profile file has no profile no-such"),
    "TEMPORAL_CONFIG_FILE": ("{file}", "cannot be read (Configuration loading error: TOML parse error at line 1"),
    "TEMPORAL_TLS_CLIENT_CERT_PATH": ("/no/such", "/no/such cannot be read (no such file or directory)"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_without_a_profile_that_can_be_read_temporal_is_out_of_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    file = tmp_path / "temporal.toml"
    file.write_text("api_key: secret")
    value, expected = BROKEN[name]
    monkeypatch.delenv("TEMPORAL_ADDRESS", raising=False)
    monkeypatch.setenv("PREBUILDS_STATE_DIR", str(tmp_path))
    monkeypatch.setenv(name, value.format(file=file))
    assert run(["claim", "--preset", "a/b/c", "--owner", "a", "--name", "n", "--json"]) == 3
    output = capsys.readouterr()
    error = json.loads(output.out)["error"]
    assert (output.err, error["type"]) == ("", "StackUnreachable")
    assert expected in error["message"]
    assert error["remedy"].startswith("correct ")
    assert "secret" not in error["message"]


INTERRUPTED_IMPORT = """
import os, signal, sys
class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[-1]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupts())
words, module = sys.argv[1:-1], sys.argv[-1]
from prebuilds.cli import main
sys.argv = ["prebuilds", *words, module]
main()
"""


@pytest.mark.usefixtures("heard_interrupts")
@pytest.mark.parametrize("module", ["prebuilds.cli.ending", "typer", "prebuilds.telemetry.undumpable"])
def test_an_interrupt_in_the_first_moments_ends_a_command_quietly(module: str) -> None:
    ended = prebuilds("status", module, code=INTERRUPTED_IMPORT)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "interrupted\n")
    ended = prebuilds("status", "--json", module, code=INTERRUPTED_IMPORT)
    assert (ended.returncode, ended.stderr) == (130, "")
    assert json.loads(ended.stdout)["error"]["type"] == "Interrupted"
