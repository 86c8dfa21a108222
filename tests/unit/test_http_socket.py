"""The HTTP server's address: one server's alone, unless both say that they share it."""

from __future__ import annotations

import socket

import pytest

from prebuilds.api import StackUnreachable
from prebuilds.http.serving import bound_socket
from prebuilds.stack.temporal_server import PORT_MIN, PORT_OUTGOING_MIN, free_port


def test_an_address_is_shared_only_by_servers_that_say_so() -> None:
    with bound_socket("127.0.0.1", 0, shared=True) as first:
        port = first.getsockname()[1]
        first.listen()
        with bound_socket("127.0.0.1", port, shared=True) as second:
            second.listen()
        with (
            pytest.raises(StackUnreachable, match=f"cannot listen at 127.0.0.1 port {port}"),
            bound_socket("127.0.0.1", port),
        ):
            pass
    with bound_socket("127.0.0.1", port) as alone:
        alone.listen()
        with (
            pytest.raises(StackUnreachable, match=f"cannot listen at 127.0.0.1 port {port}"),
            bound_socket("127.0.0.1", port, shared=True),
        ):
            pass


def test_a_free_port_is_not_one_that_an_outgoing_connection_may_take() -> None:
    for _ in range(20):
        assert PORT_MIN <= free_port(0) < PORT_OUTGOING_MIN


def test_a_port_that_is_in_use_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) != port
    assert free_port(port) == port
