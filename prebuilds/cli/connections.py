"""What a command works with, opened when it needs it and closed after it. Little is imported before."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prebuilds.client import PrebuildsClient
    from prebuilds.operations.facade import Operations
    from prebuilds.operations.logs import LogOperations


def operations() -> AbstractAsyncContextManager[Operations]:
    """Every operation, on a database and a Temporal that belong together; see `open_operations`."""
    from prebuilds.operations.opening import open_operations

    return open_operations()


def build_logs() -> AbstractAsyncContextManager[LogOperations]:
    """Builds' logs, on the database alone; see `open_logs`."""
    from prebuilds.operations.opening import open_logs

    return open_logs()


async def prebuilds_client() -> PrebuildsClient:
    """The client that services use: Temporal alone, as a claim needs no database here."""
    from prebuilds.client import PrebuildsClient
    from prebuilds.settings import load_settings, temporal_address

    return await PrebuildsClient.connect(temporal_address(load_settings()))
