"""The metrics server listens at the configured address."""

from __future__ import annotations

import socket
from contextlib import closing
from urllib.request import urlopen

import pytest

from prebuilds.api import InvalidInput
from prebuilds.telemetry.metrics_server import serve_metrics


def free_port(family: socket.AddressFamily, host: str) -> int:
    with closing(socket.socket(family)) as sock:
        try:
            sock.bind((host, 0))
        except OSError as error:
            pytest.skip(f"{host}: {error}")
        return int(sock.getsockname()[1])


@pytest.mark.parametrize(
    ("host", "family", "shown"),
    [
        ("127.0.0.1", socket.AF_INET, "127.0.0.1"),
        ("0.0.0.0", socket.AF_INET, "127.0.0.1"),
        ("::1", socket.AF_INET6, "[::1]"),
        ("::", socket.AF_INET6, "[::1]"),
    ],
)
def test_metrics_are_served_at_addresses_of_both_kinds(host: str, family: socket.AddressFamily, shown: str) -> None:
    port = free_port(family, host)
    close = serve_metrics(host, port)
    try:
        with urlopen(f"http://{shown}:{port}/healthz", timeout=10) as answer:
            assert answer.read() == b"ok\n"
    finally:
        close()


def test_an_address_of_nobody_is_refused_by_its_variable() -> None:
    with pytest.raises(InvalidInput, match="PREBUILDS_METRICS_PORT: cannot listen at 2001:db8::1:9"):
        serve_metrics("2001:db8::1", 9)
