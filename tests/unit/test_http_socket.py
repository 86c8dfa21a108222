"""The HTTP server's address: one server's alone, unless both say that they share it."""

from __future__ import annotations

import pytest

from prebuilds.api import StackUnreachable
from prebuilds.http.serving import bound_socket


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
