"""Opens what a command works with. Each function imports its modules when it is called, to keep commands quick."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prebuilds.client import PrebuildsClient
    from prebuilds.operations.facade import Operations
    from prebuilds.operations.logs import LogOperations


def operations() -> AbstractAsyncContextManager[Operations]:
    """Open every operation, on a database and a Temporal that belong together; see `open_operations`."""
    from prebuilds.operations.opening import open_operations

    return open_operations()


def build_logs() -> AbstractAsyncContextManager[LogOperations]:
    """Open the build logs, which need only the database; see `open_logs`."""
    from prebuilds.operations.opening import open_logs

    return open_logs()


async def prebuilds_client() -> PrebuildsClient:
    """Connect the client that services use. It needs only Temporal: a claim needs no database in this process."""
    from prebuilds.client import PrebuildsClient
    from prebuilds.settings import load_settings, temporal_address

    return await PrebuildsClient.connect(temporal_address(load_settings()))
