"""Podman as the engine of one test run, behind its API socket, with its storage in a folder."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import psutil

from prebuilds.stack.child import dying_with_parent
from tests.e2e.dev_stack import until
from tests.e2e.registry import digest, root_file_system

IMAGE = "localhost/prebuilds-test:latest"
INITS = ("catatonit", "tini-static", "docker-init")
SETTINGS = """
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
log_driver = "k8s-file"
[engine]
init_path = "{init}"
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
exit_command_delay = 1
"""


class Podman:
    """One engine. `address` is for DOCKER_HOST; `registry` is where `hello` and `checked` can be pulled from, and
    `private` where only `USER` with `PASSWORD` can."""

    def __init__(self, folder: Path, registry: str, private: str) -> None:
        self.folder = folder
        self.registry = registry
        self.private = private
        self.address = f"unix://{folder / 'podman.sock'}"
        self.init = next(filter(None, map(shutil.which, INITS)), None)
        """The init that the engine gives containers which want one; None: this machine has none."""
        (folder / "containers.conf").write_text(SETTINGS.format(init=self.init or ""))
        (folder / "registries.conf").write_text(
            "".join(f'[[registry]]\nlocation = "{at}"\ninsecure = true\n' for at in (registry, private))
        )
        self._env = os.environ | {
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(folder / "registries.conf"),
        }
        self._service: subprocess.Popen[bytes] | None = None

    def __call__(self, *words: str, stdin: bytes | None = None) -> str:
        """Run a podman command on the same storage."""
        done = subprocess.run(
            self._words(*words), env=self._env, input=stdin, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, (words, done.stderr.decode())
        return done.stdout.decode()

    def scratch(self) -> str:
        """Return an image with one program, `/sleep`, and nothing else: no shell, no users, no folders."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            tar.add(Path(str(shutil.which("busybox"))).resolve(), "sleep")
        self("import", "--change=USER 1000", "-", "localhost/prebuilds-scratch:latest", stdin=packed.getvalue())
        return "localhost/prebuilds-scratch:latest"

    def image(self, **instructions: str) -> str:
        """Return an image like `IMAGE` with these instructions of a Dockerfile, such as `user="dev"`."""
        changes = [f"--change={name.upper()} {value}" for name, value in instructions.items()]
        tag = f"localhost/prebuilds-test:{digest(repr(changes).encode())[-12:]}"
        self("import", *changes, "-", tag, stdin=root_file_system())
        return tag

    def _words(self, *words: str) -> list[str]:
        at = self.folder
        # A tmpdir and locks of its own: engines that share them count each other's containers.
        return ["podman", f"--root={at}/storage", f"--runroot={at}/run", f"--tmpdir={at}/locks", *words]

    def start(self) -> None:
        serve = self._words("system", "service", "--time=0", self.address)
        with (self.folder / "service.log").open("ab") as log:
            self._service = subprocess.Popen(
                dying_with_parent(serve, "TERM"), env=self._env, stdout=log, stderr=log, start_new_session=True
            )
        until((self.folder / "podman.sock").exists, "podman's socket", 20, self.folder / "service.log")

    def stop(self) -> None:
        """End the service alone; containers go on without it."""
        if self._service is not None:
            self._service.terminate()
            self._service.wait(20)
            self._service = None
            (self.folder / "podman.sock").unlink(missing_ok=True)

    def remove_all(self) -> None:
        """Remove all containers and volumes."""
        self("rm", "--all", "--force", "--time=0")
        self("volume", "prune", "--force")

    def end(self) -> None:
        """End the service with its containers, so that its folder can be removed."""
        self.stop()
        self("rm", "--all", "--force", "--time=0", "--volumes")
        self("rmi", "--all", "--force")
        until(self._nothing_runs, "the end of what writes to the engine's folder", 20)
        self._unmount()

    def _unmount(self) -> None:
        """Unmount what a killed engine has left mounted in its folder."""
        mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for at in sorted((at for at in mounted if at.startswith(f"{self.folder}/")), reverse=True):
            subprocess.run(["umount", at], check=False, capture_output=True)

    def _nothing_runs(self) -> bool:
        """Kill the monitors of commands in containers, which outlive the containers; return whether none is left."""
        found = False
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if f"{self.folder}/" in " ".join(process.cmdline()):
                    found = True
                    process.kill()
        return not found
