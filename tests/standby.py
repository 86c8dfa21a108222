"""Servers of PostgreSQL that may be standbys: they answer only reads until they are promoted."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

from prebuilds.stack.postgres import USER, EmbeddedPostgres, as_ordinary_user, wheel_bin_dir

PROGRAM = wheel_bin_dir() / "pg_basebackup"


class MayStandBy(EmbeddedPostgres):
    """A server that has started once it answers, be it as a standby."""

    def stand_by(self) -> None:
        """Make it a standby of the server in its settings at its next start."""
        (self._data / "standby.signal").touch()

    def _is_ready(self, pid: int) -> bool:
        lines = []
        with contextlib.suppress(OSError):
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        return len(lines) > 7 and lines[0].strip() == str(pid) and lines[7].strip() in ("ready", "standby")


class Standby(MayStandBy):
    """A copy of another server, which follows it where it is told to, until it is promoted."""

    def __init__(self, folder: Path, primary: EmbeddedPostgres, *, follows: bool) -> None:
        super().__init__(folder, durable=False)
        folder.mkdir()
        source = f"host={primary._socket_dir} user={USER} dbname=postgres"
        words = [str(PROGRAM), "-d", source, "-D", str(self._data), "--checkpoint=fast", *(["-R"] if follows else [])]
        subprocess.run([*as_ordinary_user(folder, PROGRAM), *words], check=True, capture_output=True)
        self.stand_by()
