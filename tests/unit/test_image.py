"""The image: its contents, its user, and its health check."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from hatch_build import MODULES, PACKAGES

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
HEALTHCHECK = ROOT / "deploy/image/healthcheck.py"


def copied() -> set[str]:
    """Return what the Dockerfile copies from the repository."""
    lines = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY ")]
    return {word for words in lines if not words[0].startswith("--from") for word in words}


def test_the_image_has_every_package() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    made_of = {*wheel["packages"], *PACKAGES, *(f"{name}.py" for name in MODULES), wheel["hooks"]["custom"]["path"]}
    assert made_of <= copied()


def test_a_build_sees_what_is_copied_and_no_secret() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*", "everything is left out"
    seen = [line.removeprefix("!") for line in lines if line.startswith("!")]
    for path in copied():
        assert any(fnmatch(path, f"{pattern}*") for pattern in seen), path
    assert not any(fnmatch(".env", pattern) for pattern in seen)


def test_the_image_is_pinned_and_runs_as_an_ordinary_user_below_an_init() -> None:
    assert re.search(r"^ARG PYTHON=python:\S+@sha256:[0-9a-f]{64}$", DOCKERFILE, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${PYTHON}"}
    assert "--require-hashes --only-binary :all: -r requirements-runtime.lock" in DOCKERFILE
    final = DOCKERFILE.rpartition("FROM ")[2]
    assert "USER 10001:10001" in final, "a number: Kubernetes cannot tell whether a name is root"
    assert 'ENTRYPOINT ["/usr/bin/tini", "--"]' in final
    assert "STOPSIGNAL SIGTERM" in final, "at which a worker drains"
    assert HEALTHCHECK.relative_to(ROOT).as_posix() in copied()


class Answering(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthz" else 503)
        self.end_headers()
        self.wfile.write(b"draining\n")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def checked(*words: str, port: int) -> tuple[int, str]:
    command = [sys.executable, "-I", "-S", HEALTHCHECK, *words]
    environment = {"PREBUILDS_METRICS_PORT": str(port)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)
    return done.returncode, done.stderr


def test_the_healthcheck_passes_only_when_the_process_says_that_it_is_well(port: int) -> None:
    assert checked(port=port) == (0, "")
    code, output = checked(f"http://127.0.0.1:{port}/readyz", port=port)
    assert (code, output) == (1, f"http://127.0.0.1:{port}/readyz: 503 draining\n")


def test_the_healthcheck_of_a_dead_process_fails_with_one_line() -> None:
    code, output = checked(port=1)
    assert (code, output.count("\n")) == (1, 1)
    assert output.startswith("http://127.0.0.1:1/healthz: ")
