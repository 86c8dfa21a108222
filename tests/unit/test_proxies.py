"""Proxies in the environment serve their own servers, and their failures are ordinary typed errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from prebuilds.api import InvalidInput, StackUnreachable
from prebuilds.remote.transport import open_transport

DEAD = "127.0.0.1:1"
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


class Healthy(BaseHTTPRequestHandler):
    """A minimal Prebuilds server for `open_transport`, which also acts as a proxy."""

    def do_GET(self) -> None:
        self.server.paths.append(self.path)  # type: ignore[attr-defined]
        body = b'{"status": "ok"}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None: ...


class Listening:
    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.place = f"127.0.0.1:{server.server_address[1]}"
        self.paths: list[str] = server.paths  # type: ignore[attr-defined]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listening]:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as server:
        server.paths = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Listening(server)
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("listed", ["127.0.0.1", "*", "fd00::/8, 127.0.0.0/8", "::1,.example,127.0.0.1:{port}"])
@pytest.mark.parametrize("proxy", ["http://" + DEAD, "socks5h://" + DEAD, "socks4://u:hunter22@h"])
async def test_a_server_that_no_proxy_lists_is_asked_itself(
    server: Listening, monkeypatch: pytest.MonkeyPatch, proxy: str, listed: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setenv("NO_PROXY", listed.format(port=server.place.rpartition(":")[2]))
    await (await open_transport(f"http://{server.place}")).close()
    assert server.paths == ["/healthz"]


@pytest.mark.parametrize(
    ("variable", "scheme"), [("HTTP_PROXY", "http://"), ("http_proxy", ""), ("ALL_PROXY", "http://")]
)
async def test_any_other_is_asked_through_the_proxy(
    server: Listening, monkeypatch: pytest.MonkeyPatch, variable: str, scheme: str
) -> None:
    monkeypatch.setenv(variable, f"{scheme}{server.place}")
    monkeypatch.setenv("NO_PROXY", "fd00::/8,10.0.0.0/8")
    await (await open_transport("http://prebuilds.example")).close()
    assert server.paths == ["http://prebuilds.example/healthz"]


async def test_an_unreachable_or_invalid_proxy_is_named_by_its_variable(
    server: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", f"socks5://{DEAD}")
    with pytest.raises(StackUnreachable):
        await open_transport(f"http://{server.place}")
    for broken in ("socks4://u:hunter22@h", "http://u:hunter22@[::"):
        monkeypatch.setenv("ALL_PROXY", broken)
        with pytest.raises(InvalidInput) as refused:
            await open_transport(f"http://{server.place}")
        assert list(refused.value.details) == ["ALL_PROXY"]
        assert "hunter22" not in str(refused.value)
    assert server.paths == []
