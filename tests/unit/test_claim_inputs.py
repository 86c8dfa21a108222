"""Claim parameters from files and stdin, and that no refusal repeats a value."""

from __future__ import annotations

import io
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytest

from prebuilds.api import ClaimTimedOut
from prebuilds.cli import claims, run
from prebuilds.client import PrebuildsClient
from prebuilds.payloads import ClaimRequest

CLAIM = ("claim", "--preset", "acme/python/small", "--owner", "alice", "--name", "dev")
SECRET = "hunter2-77aa"


class Deaf(PrebuildsClient):
    """Takes a claim, and sends nothing."""

    request: ClaimRequest

    async def claim_request(self, request: ClaimRequest, claim_id: str, *, abandon: bool = False) -> Any:
        self.request = request
        raise ClaimTimedOut("deaf", {})


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Deaf:
    deaf = Deaf(cast("Any", None))

    monkeypatch.setattr(claims, "claims", lambda: nullcontext(deaf))
    monkeypatch.chdir(tmp_path)
    return deaf


def typed(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))


@pytest.mark.parametrize(
    ("options", "file", "stdin", "sent"),
    [
        (["--claim-param", "token=@-"], b"", f"{SECRET}\n".encode(), {"token": SECRET}),
        (["--claim-param", "token=@-"], b"", SECRET.encode(), {"token": SECRET}),
        (["--claim-param", "token=@f"], f"{SECRET}\r\n".encode(), b"", {"token": SECRET}),
        (["--claim-param", "key=@f"], b"one\ntwo\n", b"", {"key": "one\ntwo\n"}),
        (["--claim-param", "at=@@alice", "--claim-param", "a=x=@y"], b"", b"", {"at": "@alice", "a": "x=@y"}),
        (
            ["--param-file", "f"],
            b"token: 3.10\nswitch: on\nempty:\n",
            b"",
            {"token": "3.10", "switch": "on", "empty": ""},
        ),
        (["--param-file", "-", "--claim-param", "b=2"], b"", b'{"a": "1\\n"}', {"a": "1\n", "b": "2"}),
    ],
)
def test_claim_parameters_come_from_files_and_stdin(
    client: Deaf, monkeypatch: pytest.MonkeyPatch, options: list[str], file: bytes, stdin: bytes, sent: dict[str, str]
) -> None:
    Path("f").write_bytes(file)
    typed(monkeypatch, stdin)
    assert run([*CLAIM, *options]) == 1
    assert client.request.claim_parameters == sent


@pytest.mark.parametrize(
    ("options", "file", "message"),
    [
        (["--claim-param", SECRET], b"", "--claim-param: number 1 must be written k=v"),
        (["--param", SECRET], b"", "--param: number 1 must be written k=v"),
        (["--claim-param", f"token=@{SECRET}"], b"", "--claim-param token: the file cannot be read (No such file"),
        (["--claim-param", "token=@f"], SECRET.encode() + b"\xff", "--claim-param token: must be UTF-8"),
        (["--claim-param", "token=@f"], SECRET.encode() * 100_000, "--claim-param token: is longer than"),
        (["--claim-param", "token=@f"], SECRET.encode() + b"\0", ""),
        (["--claim-param", "a=@-", "--claim-param", "b=@-"], b"", "--claim-param: stdin can be read only once"),
        (["--claim-param", "a=@-", "--param-file", "-"], b"", "--claim-param: stdin can be read only once"),
        (["--param-file", "f"], f"token: *{SECRET}".encode(), "--param-file: must be a mapping"),
        (["--param-file", "f"], f"- {SECRET}".encode(), "--param-file: must be a mapping"),
        (["--param-file", "f"], SECRET.encode(), "--param-file: must be a mapping"),
        (["--param-file", "f"], b"", "--param-file: must be a mapping"),
        (["--param-file", "f"], f"a: {{b: {SECRET}}}".encode(), "--param-file: must be a mapping of names to texts"),
        (["--param-file", "f"], f"a: {SECRET}\na: x".encode(), "--param-file: line 2 repeats a name"),
        (["--param-file", "f"], f"a: {SECRET}\x00".encode(), "--param-file: must be a mapping"),
        (
            ["--param-file", "f", "--claim-param", f"a={SECRET}"],
            b"a: x",
            "--claim-param a: is also given in --param-file",
        ),
        (["--param-file", "f"], f"a: {SECRET}\nowner: \\ud800".encode(), ""),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_no_refusal_repeats_a_value(
    client: Deaf, capsys: pytest.CaptureFixture[str], options: list[str], file: bytes, message: str, as_json: bool
) -> None:
    Path("f").write_bytes(file)
    assert run([*CLAIM, *options, *(["--json"] if as_json else [])]) == 1
    output = capsys.readouterr()
    assert as_json or message in output.err, "in the words that were typed; JSON has the fields' names"
    assert SECRET not in output.out + output.err
