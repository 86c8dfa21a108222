"""Debian's PostgreSQL with TLS: reached by TCP with certificate and password, as a managed database is."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from prebuilds.stack.child import dying_with_parent, start_child
from prebuilds.stack.postgres import USER, EmbeddedPostgres, _environment
from prebuilds.stack.temporal_server import free_port
from tests.tls import Authority

FOUND = sorted(Path("/usr/lib/postgresql").glob("[0-9]*/bin/postgres"), key=lambda path: int(path.parts[4]))
BIN = FOUND[-1].parent if FOUND else None
"""The newest installed PostgreSQL; None without one."""
ACCESS = """
local all {user} trust
hostssl all all 127.0.0.1/32 scram-sha-256
"""
"""pg_hba.conf: the superuser connects by the socket, everybody else only by TLS with a password."""


class DebianPostgres(EmbeddedPostgres):
    """A server with TLS on a free port; its superuser connects only by the socket."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        super().__init__(folder, bin_dir=BIN, durable=False)
        self.authority = Authority(folder)
        self._own = self.authority.sign("server")
        Path(self._own.key).chmod(0o600)
        self.port = free_port(0)

    @property
    def superuser(self) -> str:
        """The superuser's URL."""
        return f"postgresql://{USER}@/postgres?host={self._socket_dir}&port={self.port}"

    def psql(self, file: Path, variables: dict[str, str]) -> None:
        """Run a file as the superuser."""
        environment = {"PGHOST": str(self._socket_dir), "PGPORT": str(self.port), "PGUSER": USER, **variables}
        words = [self._bin / "psql", "--no-psqlrc", "--quiet", "--dbname=postgres", f"--file={file}"]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=30)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr

    def url(self, role: str, *, more: str = "") -> str:  # type: ignore[override]
        """The URL of our database for *role*, which trusts this server alone."""
        trusting = f"sslmode=verify-full&sslrootcert={self.authority.cert}"
        return f"postgresql://{role}@localhost:{self.port}/prebuilds?{more or trusting}"

    def _initialize(self) -> None:
        super()._initialize()
        (self._data / "pg_hba.conf").write_text(ACCESS.format(user=USER))
        with (self._data / "postgresql.conf").open("a") as settings:
            settings.write(f"listen_addresses = '127.0.0.1'\nport = {self.port}\nssl = on\n")
            settings.write(f"ssl_cert_file = '{self._own.cert}'\nssl_key_file = '{self._own.key}'\n")

    def _start_once(self, deadline: float) -> bool:
        words = [str(self._bin / "postgres"), "-D", str(self._data), "-k", str(self._socket_dir)]
        self._child = start_child([*self._as_user, *dying_with_parent(words, "INT")], env=_environment(), log=self._log)
        while self._child.poll() is None and time.monotonic() < deadline:
            if self._is_ready(self._child.pid):
                return True
            time.sleep(0.01)
        return False
