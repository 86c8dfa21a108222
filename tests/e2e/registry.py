"""Images without a network: a static busybox in an otherwise empty root file system, and a registry that serves it.

The registry implements what a pull needs: pulls are real, and its images have settings that an import cannot give.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

APPLETS = ("sh", "sleep", "httpd", "cat", "echo", "test", "touch", "true", "false", "kill", "mkdir", "stat", "id")
FILES = {
    "www/index.html": "hello\n",
    "etc/passwd": "root:x:0:0:root:/:/bin/sh\ndev:x:1500:1600:Dev:/:/bin/sh\n",
    "etc/group": "root:x:0:\ndev:x:1600:\nstaff:x:1700:\n",
}
USER, PASSWORD = "robot", "pa:ss wörd/1"


@functools.cache
def root_file_system() -> bytes:
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


# --- A registry that implements pulls ---


class Public(BaseHTTPRequestHandler):
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


class Private(Public):
    password = PASSWORD


@contextmanager
def registry(handler: type[Public]) -> Iterator[str]:
    Public.blobs = {
        **_image("hello", {}),
        **_image("checked", {"Healthcheck": {"Test": ["CMD", "test", "-e", "/up"], "Interval": 1_000_000_000}}),
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
    layer = root_file_system()
    packed = gzip.compress(layer, mtime=0)
    about = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
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
        f"{name}/manifests/{digest(manifest)}": described,
        f"{name}/blobs/{digest(about)}": ("application/octet-stream", about),
        f"{name}/blobs/{digest(packed)}": ("application/octet-stream", packed),
    }


def _described(kind: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "size": len(content), "digest": digest(content)}


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
