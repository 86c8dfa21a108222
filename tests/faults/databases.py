"""Faults of a database, each of which begins and ends: a server that is away, closed, or takes no writes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress

import psutil

from tests.conftest import execute
from tests.standby import MayStandBy

END_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}' AND pid <> pg_backend_pid()"


class Fault:
    """A database with a fault that begins and ends."""

    def __init__(self, url: str, server: MayStandBy) -> None:
        self.url, self.server = url, server
        self.name = url.rpartition("?")[0].rpartition("/")[2]
        self.admin = database_at_server(server, "postgres")

    async def begin(self) -> None:
        raise NotImplementedError

    async def end(self) -> None:
        raise NotImplementedError


class Stopped(Fault):
    async def begin(self) -> None:
        await asyncio.to_thread(self.server.stop)

    async def end(self) -> None:
        self.server.start()  # in this thread, which it requires; it takes some hundredths of a second


class Frozen(Fault):
    """The server's processes are stopped, and its sockets still accept data."""

    def __init__(self, url: str, server: MayStandBy) -> None:
        super().__init__(url, server)
        self._stopped: list[psutil.Process] = []

    async def begin(self) -> None:
        main = psutil.Process(self.server.pid)
        main.send_signal(signal.SIGSTOP)  # first, so that no session begins after the list was read
        self._stopped = [main, *main.children(recursive=True)]
        self._send(signal.SIGSTOP)

    async def end(self) -> None:
        self._send(signal.SIGCONT)

    def _send(self, sent: signal.Signals) -> None:
        for process in self._stopped:
            with suppress(psutil.NoSuchProcess):  # a session that was just ending
                process.send_signal(sent)


class ReadOnly(Fault):
    """The database is read-only, as a disk guard leaves it."""

    async def begin(self) -> None:
        await execute(self.admin, f'ALTER DATABASE "{self.name}" SET default_transaction_read_only = on')
        await execute(self.admin, END_SESSIONS.format(self.name))

    async def end(self) -> None:
        await execute(self.admin, f'ALTER DATABASE "{self.name}" RESET default_transaction_read_only')
        await execute(self.admin, END_SESSIONS.format(self.name))


class StandsBy(Fault):
    """The server is a standby, as reached by a URL with the wrong host, or with both and no `target_session_attrs`."""

    async def begin(self) -> None:
        await asyncio.to_thread(self.server.stop)
        self.server.stand_by()
        self.server.start()

    async def end(self) -> None:
        await execute(self.admin, "SELECT pg_promote()")


class Closed(Fault):
    """The server accepts no connections."""

    async def begin(self) -> None:
        await execute(self.admin, f'ALTER DATABASE "{self.name}" ALLOW_CONNECTIONS false')
        await execute(self.admin, END_SESSIONS.format(self.name))

    async def end(self) -> None:
        await execute(self.admin, f'ALTER DATABASE "{self.name}" ALLOW_CONNECTIONS true')


class Refusing(Fault):
    """The server answers every write of a claim with an unexpected error: its encoding lacks a character."""

    async def begin(self) -> None:
        await execute(
            self.url,
            """
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                RAISE EXCEPTION 'character has no equivalent in encoding "LATIN1"' USING ERRCODE = '22P05';
            END $$;
            CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON claims FOR EACH ROW EXECUTE FUNCTION refuse();
            """,
        )

    async def end(self) -> None:
        await execute(self.url, "DROP TRIGGER refuse ON claims")


FAULTS: dict[str, Callable[[str, MayStandBy], Fault]] = {
    "stopped": Stopped,
    "frozen": Frozen,
    "read-only": ReadOnly,
    "standby": StandsBy,
    "closed": Closed,
    "refusing": Refusing,
}
ON_A_SERVER_OF_ITS_OWN = ("stopped", "frozen", "standby")


def database_at_server(server: MayStandBy, name: str) -> str:
    path, _, query = server.url.partition("?")
    return f"{path.rpartition('/')[0]}/{name}?{query}"
