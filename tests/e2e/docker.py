"""Docker as the engine of one test run: a daemon with its own bridge, socket and folder.

Tests give it Podman's commands; the few that Docker writes in another way are translated here.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from prebuilds.stack.child import dying_with_parent
from tests.e2e.dev_stack import until
from tests.e2e.podman import Podman

ENDING_S = 30


class Docker(Podman):
    """One Docker Engine with the part of `Podman`'s interface that tests use."""

    def __init__(self, folder: Path, registry: str, private: str) -> None:
        super().__init__(folder, registry, private)
        self.address = f"unix://{folder / 'docker.sock'}"
        self._env = os.environ | {"DOCKER_HOST": self.address, "DOCKER_CONFIG": str(folder / "cli")}
        number = os.getpid() % 2**14
        self._bridge = f"prebuilds{number}"
        self._subnet = f"10.{192 + number // 256}.{number % 256}.1/24"

    def __call__(self, *words: str, stdin: bytes | None = None) -> str:
        if words[:2] == ("healthcheck", "run"):
            return ""  # Docker runs them itself
        plain = [word for word in words if word != "--time=0"]
        return super().__call__(*[re.sub(r"index \.Labels", ".Label", word) for word in plain], stdin=stdin)

    def _words(self, *words: str) -> list[str]:
        return ["docker", *words]

    def start(self) -> None:
        subprocess.run(["ip", "link", "add", self._bridge, "type", "bridge"], check=False, capture_output=True)
        subprocess.run(["ip", "address", "replace", self._subnet, "dev", self._bridge], check=True)
        subprocess.run(["ip", "link", "set", self._bridge, "up"], check=True)
        at = self.folder
        serve = [
            *("dockerd", "--iptables=false", "--ip6tables=false", "--storage-driver=vfs", "--live-restore"),
            *(f"--data-root={at}/data", f"--exec-root={at}/exec", f"--pidfile={at}/pid", f"--host={self.address}"),
            *(f"--bridge={self._bridge}", f"--config-file={at}/daemon.json"),
        ]
        (at / "daemon.json").write_text("{}")
        with (at / "service.log").open("ab") as log:
            self._service = subprocess.Popen(
                dying_with_parent(serve, "TERM"), env=self._env, stdout=log, stderr=log, start_new_session=True
            )
        until(self._answers, "the Docker daemon", ENDING_S, at / "service.log")

    def _answers(self) -> bool:
        done = subprocess.run(["docker", "version"], env=self._env, check=False, capture_output=True)
        return done.returncode == 0

    def stop(self) -> None:
        if self._service is not None:
            self._service.terminate()
            self._service.wait(ENDING_S)
            self._service = None
            (self.folder / "docker.sock").unlink(missing_ok=True)

    def remove_all(self) -> None:
        if found := self("ps", "--all", "--quiet").split():
            self("rm", "--force", "--volumes", *found)
        if found := self("volume", "ls", "--quiet").split():
            self("volume", "rm", *found)

    def end(self) -> None:
        try:
            if self._service is not None:
                self.remove_all()
            self.stop()
            until(self._nothing_runs, "the end of what writes to the engine's folder", ENDING_S)
            self._unmount()
        finally:
            subprocess.run(["ip", "link", "delete", self._bridge], check=False, capture_output=True)
