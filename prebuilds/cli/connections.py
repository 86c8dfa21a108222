"""Opens what a command works with: over HTTP if PREBUILDS_URL names a server, otherwise the database and Temporal.

Each function imports its modules when it is called, to keep commands quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

from prebuilds.api import StackUnreachable

if TYPE_CHECKING:
    from prebuilds.client import PrebuildsClient
    from prebuilds.doctor import DoctorReport
    from prebuilds.operations.facade import Operations
    from prebuilds.operations.inventory import InventoryOperations
    from prebuilds.operations.lint import LintOperations
    from prebuilds.operations.logs import LogOperations
    from prebuilds.operations.remote import RemoteOperations
    from prebuilds.operations.remote.pools import RemoteLint
    from prebuilds.operations.remote.system import RemoteInventory
    from prebuilds.remote.claims import RemoteClaims
    from prebuilds.remote.logs import RemoteLogs
    from prebuilds.remote.transport import Transport

    AnyOperations: TypeAlias = Operations | RemoteOperations

URL_VARIABLE, DATABASE_VARIABLE = "PREBUILDS_URL", "PREBUILDS_DATABASE_URL"


def over_http() -> bool:
    """Return whether commands ask a server over HTTP."""
    return bool(os.environ.get(URL_VARIABLE, "").strip())


def require_database() -> None:
    """Refuse a command that works on the database itself where only a server is configured.

    The database of a `prebuilds dev` in this folder is not taken then: whoever has named a server does not mean that.

    Raises:
        StackUnreachable: PREBUILDS_URL is set, and PREBUILDS_DATABASE_URL is not.
    """
    if over_http() and not os.environ.get(DATABASE_VARIABLE):
        raise StackUnreachable(
            f"this command works on the database itself, not over HTTP, and {DATABASE_VARIABLE} is not set",
            remedy=f"set {DATABASE_VARIABLE}, or unset {URL_VARIABLE} to use the `prebuilds dev` of this folder",
        )


def operations() -> AbstractAsyncContextManager[AnyOperations]:
    """Open every operation, over HTTP or with `database_operations`."""
    if over_http():
        _skip_httpx_command()
        from prebuilds.operations.remote import open_remote_operations

        return open_remote_operations()
    return database_operations()


def database_operations() -> AbstractAsyncContextManager[Operations]:
    """Open every operation, on a database and a Temporal that belong together; see `open_operations`."""
    require_database()
    from prebuilds.operations.opening import open_operations

    return open_operations()


@asynccontextmanager
async def build_logs() -> AsyncIterator[LogOperations | RemoteLogs]:
    """Open the build logs, over HTTP or on the database; they need no Temporal. See `open_logs`."""
    if over_http():
        async with _server() as server:
            from prebuilds.remote.logs import RemoteLogs

            yield RemoteLogs(server)
        return
    from prebuilds.operations.opening import open_logs

    async with open_logs() as logs:
        yield logs


@asynccontextmanager
async def claims() -> AsyncIterator[PrebuildsClient | RemoteClaims]:
    """Open claims as services make them: over HTTP or Temporal, without a database in this process."""
    if over_http():
        async with _server() as server:
            from prebuilds.remote.claims import RemoteClaims

            yield RemoteClaims(server)
        return
    yield await _prebuilds_client()


@asynccontextmanager
async def inventories() -> AsyncIterator[InventoryOperations | RemoteInventory]:
    """Open comparisons of the hosts with the record, over HTTP or Temporal."""
    if over_http():
        async with _server() as server:
            from prebuilds.operations.remote.system import RemoteInventory

            yield RemoteInventory(server)
        return
    from prebuilds.operations.inventory import InventoryOperations

    yield InventoryOperations((await _prebuilds_client()).temporal)


@asynccontextmanager
async def lints() -> AsyncIterator[LintOperations | RemoteLint]:
    """Open lints of presets, over HTTP or Temporal."""
    if over_http():
        async with _server() as server:
            from prebuilds.operations.remote.pools import RemoteLint

            yield RemoteLint(server)
        return
    from prebuilds.operations.lint import LintOperations

    yield LintOperations((await _prebuilds_client()).temporal)


async def examine() -> DoctorReport:
    """Run the doctor's checks, on the server or in this process."""
    if over_http():
        async with _server() as server:
            from prebuilds.operations.remote.system import RemoteDoctor

            return await RemoteDoctor(server).examine()
    from prebuilds.operations.doctor import DoctorOperations

    return await DoctorOperations().examine()


def _skip_httpx_command() -> None:
    """Let httpx be imported without its own command line, which takes a tenth of a command's time: the module is absent
    where click, pygments or rich are not installed, and httpx does without it."""
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]


@asynccontextmanager
async def _server() -> AsyncIterator[Transport]:
    _skip_httpx_command()
    from prebuilds.remote.transport import open_transport

    transport = await open_transport()
    try:
        yield transport
    finally:
        await transport.close()


async def _prebuilds_client() -> PrebuildsClient:
    """Connect the client that services use, over Temporal."""
    from prebuilds.client import PrebuildsClient, connect
    from prebuilds.settings import load_settings, temporal_address

    return PrebuildsClient(await connect(temporal_address(load_settings())))
