"""A container engine of a test run's own: podman behind its API socket, storage in a folder, images from no network.

A static busybox in an otherwise empty root file system is the image. A registry of a few lines serves it once more, so
that pulls are real ones, and with a health check, which an import cannot set.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

from prebuilds.stack.child import dying_with_parent
from tests.e2e.dev_stack import until

IMAGE = "localhost/prebuilds-test:latest"
APPLETS = ("sh", "sleep", "httpd", "cat", "echo", "test", "touch", "true", "false", "kill", "mkdir", "stat", "id")
FILES = {
    "www/index.html": "hello\n",
    "etc/passwd": "root:x:0:0:root:/:/bin/sh\ndev:x:1500:1600:Dev:/:/bin/sh\n",
    "etc/group": "root:x:0:\ndev:x:1600:\nstaff:x:1700:\n",
}
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
        """A podman command on the same storage."""
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
        tag = f"localhost/prebuilds-test:{_digest(repr(changes).encode())[-12:]}"
        self("import", *changes, "-", tag, stdin=_root_file_system())
        return tag

    @staticmethod
    def digest(content: bytes) -> str:
        """Return what a registry calls this content."""
        return _digest(content)

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

    def end(self) -> None:
        self.stop()
        self("rm", "--all", "--force", "--time=0", "--volumes")
        self("rmi", "--all", "--force")
        until(self._nothing_runs, "the end of what writes to the engine's folder", 20)

    def _nothing_runs(self) -> bool:
        """Kills what watches over commands that were run in containers, which stays longer."""
        found = False
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if f"{self.folder}/" in " ".join(process.cmdline()):
                    found = True
                    process.kill()
        return not found


@contextmanager
def podman_engine() -> Iterator[Podman]:
    """An engine with `IMAGE`, until the block ends. Skips the test where there can be none, with the reason."""
    for program in ("podman", "runc", "busybox"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here: apt-get install podman runc busybox-static")
    if os.geteuid() != 0:
        pytest.skip("podman's networks need root here")
    # A short path: a socket's may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="podman-"))
    with _registry(_Registry) as registry, _registry(_Private) as private:
        engine = Podman(folder, registry, private)
        try:
            layer = _root_file_system()
            engine("import", "-", IMAGE, stdin=layer)
            engine.start()
            _refuse_half_working(engine)
            yield engine
        finally:
            engine.end()
            shutil.rmtree(folder)


def _refuse_half_working(engine: Podman) -> None:
    words = engine._words("run", "--rm", "--publish=127.0.0.1::80", IMAGE, "true")
    done = subprocess.run(words, env=engine._env, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        pytest.skip(f"podman cannot run a container here: {done.stderr.strip()}")


@functools.cache
def _root_file_system() -> bytes:
    busybox = shutil.which("busybox")
    assert busybox is not None
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in ("bin", "etc", "tmp", "www"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        tar.add(Path(busybox).resolve(), "bin/busybox")
        for name in APPLETS:
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, "busybox", 0o777
            tar.addfile(entry)
        for path, text in FILES.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(text), 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))
    return packed.getvalue()


# --- A registry, as much of it as a pull needs ---


USER, PASSWORD = "robot", "pa:ss wörd/1"


class _Registry(BaseHTTPRequestHandler):
    password: ClassVar[str | None] = None
    """None: anybody may pull."""
    blobs: ClassVar[dict[str, tuple[str, bytes]]] = {}
    """Path below /v2/ -> media type and content."""

    def do_GET(self) -> None:
        basic = base64.b64encode(f"{USER}:{self.password}".encode()).decode()
        if self.password is not None and self.headers["Authorization"] != f"Basic {basic}":
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="tests"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        kind, content = "application/json", b"{}"
        status = 200
        if (path := self.path.removeprefix("/v2/")) != "":
            found = self.blobs.get(path)
            status = 200 if found is not None else 404
            unknown = b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}'
            kind, content = found or (kind, unknown)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None: ...


class _Private(_Registry):
    password = PASSWORD


@contextmanager
def _registry(handler: type[_Registry]) -> Iterator[str]:
    _Registry.blobs = {
        **_image("hello", {}),
        **_image("checked", {"Healthcheck": {"Test": ["CMD", "test", "-e", "/up"]}}),
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _image(name: str, config: dict[str, Any]) -> dict[str, tuple[str, bytes]]:
    layer = _root_file_system()
    packed = gzip.compress(layer, mtime=0)
    about = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    ).encode()
    docker = "application/vnd.docker"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": f"{docker}.distribution.manifest.v2+json",
            "config": _described(f"{docker}.container.image.v1+json", about),
            "layers": [_described(f"{docker}.image.rootfs.diff.tar.gzip", packed)],
        }
    ).encode()
    described = (f"{docker}.distribution.manifest.v2+json", manifest)
    return {
        f"{name}/manifests/latest": described,
        f"{name}/manifests/{_digest(manifest)}": described,
        f"{name}/blobs/{_digest(about)}": ("application/octet-stream", about),
        f"{name}/blobs/{_digest(packed)}": ("application/octet-stream", packed),
    }


def _described(kind: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "size": len(content), "digest": _digest(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
