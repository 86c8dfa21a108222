"""The services of docker-compose.yml as processes: its commands, its environment and its roles, without an engine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prebuilds.stack.temporal_server import TemporalDevServer, free_port
from tests.e2e.debian_postgres import DebianPostgres
from tests.e2e.dev_stack import BIN
from tests.unit.compose_file import ROOT, resolved

SOMEBODY = 54322
AS_SOMEBODY = (
    *("setpriv", f"--reuid={SOMEBODY}", f"--regid={SOMEBODY}", "--clear-groups"),
    # The services may have to read root's Python, which runs the tests.
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)
AWKWARD = "a'b\"c\\d$e/f@g#h%i j"
"""Characters in each password that a shell, a URL or YAML would misread without quoting."""
DRAIN_S = 20.0
"""Seconds that Compose waits for a service to stop (`stop_grace_period`)."""


class ComposeApart:
    """One server of each kind and our services. *folder* can be entered by every user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres = DebianPostgres(folder / "postgres")
        self.temporal = TemporalDevServer(folder / "temporal")
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ports: dict[str, int] = {}
        self.passwords: dict[str, str] = {}

    def start_servers(self) -> None:
        """Start PostgreSQL and Temporal, and make databases and roles twice, as a repeated Compose does."""
        self.postgres.start()
        (self.folder / "temporal").mkdir()
        (self.folder / "temporal/ports.json").write_text("[0, 0]")  # free ports
        asyncio.run(self.temporal.start())
        subprocess.run([BIN / "python", ROOT / "deploy/compose/make_env.py", self.folder / ".env"], check=True)
        lines = [line.partition("=") for line in (self.folder / ".env").read_text().splitlines() if line[0] != "#"]
        first = {name: value.strip("'") for name, _, value in lines}
        awkward = {name: value + AWKWARD * name.endswith("PASSWORD") for name, value in first.items()}
        empty = self.folder / "empty.sql"
        empty.write_text("DROP DATABASE prebuilds;")  # the supervisor sets its own
        self.postgres.psql(empty, {})
        for self.passwords in (first, awkward):
            self.postgres.psql(ROOT / "deploy/compose/databases.sql", self.passwords)

    def environment(self, service: str) -> dict[str, str]:
        """Return what Compose gives *service*, with the addresses of these servers."""
        given: dict[str, str] = resolved(self.passwords)["services"][service]["environment"]
        role = given["PREBUILDS_DATABASE_URL"].partition("//")[2].partition("@")[0]
        state = self.folder / f"state-{service}"
        state.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            os.chown(state, SOMEBODY, SOMEBODY)
        own = {
            "PREBUILDS_DATABASE_URL": self.postgres.url(role),
            "PREBUILDS_HTTP_PORT": str(self.ports.setdefault("api", free_port(0))),
            "PREBUILDS_METRICS_PORT": str(self.ports.setdefault(service, free_port(0))),
            "PREBUILDS_METRICS_HOST": "127.0.0.1",
            "PREBUILDS_STATE_DIR": str(state),
            "TEMPORAL_ADDRESS": self.temporal.address,
        }
        return {"PATH": os.environ["PATH"], "HOME": str(state), **given, **own}

    def words(self, words: Sequence[str]) -> list[str | Path]:
        """Return a command of the Compose file, to be run as an ordinary user."""
        return [*(AS_SOMEBODY if os.geteuid() == 0 else ()), BIN / words[0], *words[1:]]

    def run(self, service: str, *words: str) -> str:
        """Run a command with *service*'s environment, as `docker compose exec` does, and return its output."""
        command = self.words(words or resolved(self.passwords)["services"][service]["command"])
        done = subprocess.run(
            command, env=self.environment(service), cwd="/", capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, service: str) -> None:
        command = self.words(resolved(self.passwords)["services"][service]["command"])
        with self.log(service).open("wb") as log:
            self.processes[service] = subprocess.Popen(
                command, env=self.environment(service), cwd="/", stdout=log, stderr=log, start_new_session=True
            )

    def log(self, service: str) -> Path:
        return self.folder / f"{service}.log"

    def is_healthy(self, service: str, url: str = "") -> bool:
        """Whether the image's health check passes for *service*."""
        assert self.processes[service].poll() is None, self.log(service).read_text()
        words = [BIN / "python", "-I", "-S", ROOT / "deploy/image/healthcheck.py", *([url] if url else [])]
        done = subprocess.run(words, env=self.environment(service), capture_output=True, check=False)
        return done.returncode == 0

    def stop(self) -> dict[str, int]:
        """Stop all services at once, as Compose does, and return their exit codes."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        return {service: process.wait(DRAIN_S) for service, process in self.processes.items()}

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        self.temporal.stop()
        self.postgres.stop()

    def lines(self, service: str) -> list[dict[str, Any]]:
        """Return the lines that *service* has logged."""
        return [json.loads(line) for line in self.log(service).read_text().splitlines()]
