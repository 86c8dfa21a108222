"""What a command computes before it connects: `python -m benchmarks.starting`.

CPU of the process (user and system) from its start to the moment at which it opens its first connection, beside that
of a Python that only imports Temporal's client. Medians of some runs; a machine that does other things adds to both.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
from pathlib import Path

RUNS = 11
PREBUILDS = str(Path(sys.executable).parent / "prebuilds")
COMMANDS = {
    "claim": (PREBUILDS, "claim", "--preset", "acme/python/small", "--owner", "alice", "--name", "dev"),
    "status": (PREBUILDS, "status"),
}
ALONE = {
    "temporalio alone": (sys.executable, "-c", "import temporalio.client, temporalio.envconfig"),
    "--version": (PREBUILDS, "--version"),
    "--help": (PREBUILDS, "--help"),
}


def cpu_until_connected(argv: tuple[str, ...]) -> float:
    """CPU seconds of *argv*, a command that connects to the database or to Temporal, until it does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        env = os.environ | {
            "PREBUILDS_DATABASE_URL": f"postgresql://nobody@127.0.0.1:{port}/none",
            "TEMPORAL_ADDRESS": f"127.0.0.1:{port}",
        }
        with subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            connection, _ = server.accept()
            threads = Path(f"/proc/{process.pid}/task").iterdir()
            used = sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)
            process.kill()
            connection.close()
    return used / 1e9


def cpu_to_the_end(argv: tuple[str, ...]) -> float:
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    _, _, used = os.wait4(process.pid, 0)
    return used.ru_utime + used.ru_stime


def main() -> None:
    measured = {name: [cpu_to_the_end(argv) for _ in range(RUNS)] for name, argv in ALONE.items()}
    measured |= {name: [cpu_until_connected(argv) for _ in range(RUNS)] for name, argv in COMMANDS.items()}
    base = statistics.median(measured["temporalio alone"])
    for name, seconds in measured.items():
        median = statistics.median(seconds)
        beside = f", {median - base:.3f} s beside Temporal's import" if name in COMMANDS else ""
        print(f"{name:18} {median:.3f} s of CPU (least {min(seconds):.3f}){beside}")


if __name__ == "__main__":
    main()
