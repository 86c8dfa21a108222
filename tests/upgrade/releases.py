"""The release before, taken from the repository's history, and workers of either release as processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BEFORE = "9fe8e73e51593b4d1a2725c0b88407c75175c0a4"
"""The last commit of the release before: its schema is 0001."""
DRAIN_S = 30.0


@dataclass(frozen=True)
class Release:
    """A source tree, and the interpreter that runs it."""

    name: str
    tree: Path
    python: Path

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREBUILDS_", "TEMPORAL_", "PYTEST_"))}
        return {**kept, **env, "PYTHONPATH": str(self.tree)}

    def run(self, env: Mapping[str, str], *words: str) -> tuple[int, Any]:
        """Run a command of this release with --json; returns its exit code and its document."""
        done = subprocess.run(
            [self.python, "-m", "prebuilds", *words, "--json"],
            cwd=self.tree,
            env=self.environment(env),
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.stdout, f"{self.name}: {words}: {done.returncode} {done.stderr}"
        return done.returncode, json.loads(done.stdout)


def this_release() -> Release:
    return Release("this release", ROOT, Path(sys.executable))


def release_before(folder: Path, *, own_venv: bool) -> Release | None:
    """Unpack the release before into *folder*; None where the repository's history does not reach so far.

    Args:
        own_venv: Install what its own lock file says. Otherwise it runs on the dependencies of this release.
    """
    packed = subprocess.run(
        ["git", "archive", "--format=tar", BEFORE], cwd=ROOT, capture_output=True, check=False, timeout=60
    )
    if packed.returncode != 0:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["tar", "--extract", "--directory", folder], input=packed.stdout, check=True, timeout=60)
    python = Path(sys.executable)
    if own_venv:
        subprocess.run(["make", "install"], cwd=folder, check=True, capture_output=True, timeout=600)
        python = folder / ".venv" / "bin" / "python"
    return Release("the release before", folder, python)


class Worker:
    """A worker of one role, which is started again whenever it has been killed."""

    def __init__(self, release: Release, role: str, env: Mapping[str, str], log: Path) -> None:
        self.release = release
        self.role = role
        self._env = release.environment(env)
        self._log = log
        self._log_begin = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._log_begin = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self.release.python, "-m", "prebuilds", "worker", "--role", self.role],
                cwd=self.release.tree,
                env=self._env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def is_serving(self) -> bool:
        self.check()
        return b"Serving" in self._log.read_bytes()[self._log_begin :]

    def check(self) -> None:
        """Fail if it has ended by itself."""
        assert self._process is not None
        code = self._process.poll()
        assert code is None, f"{self.role} of {self.release.name} has ended with {code}:\n{self.tail()}"

    def kill(self) -> None:
        self.check()
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def drain(self) -> None:
        self.check()
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(DRAIN_S)
        assert code == 0, f"{self.role} of {self.release.name} has drained with {code}:\n{self.tail()}"

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def tail(self) -> str:
        return "\n".join(self._log.read_text().splitlines()[-20:])
