"""The container engine of a test run: Podman or Docker, whichever is there; PREBUILDS_TEST_ENGINE names one of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.docker import Docker
from tests.e2e.podman import IMAGE, Podman
from tests.e2e.registry import Private, Public, registry, root_file_system

PROGRAMS = {"podman": ("podman", "runc", "busybox"), "docker": ("dockerd", "docker", "ip", "busybox")}
CLASSES = {"podman": Podman, "docker": Docker}
VARIABLE = "PREBUILDS_TEST_ENGINE"


def _chosen() -> str:
    named = os.environ.get(VARIABLE)
    if named:
        assert named in CLASSES, f"{VARIABLE} is podman or docker"
        missing = [program for program in PROGRAMS[named] if shutil.which(program) is None]
        assert not missing, f"{VARIABLE} is {named}, and there is no {missing[0]}"
        return named
    for name, programs in PROGRAMS.items():
        if all(map(shutil.which, programs)):
            return name
    pytest.skip("no container engine here: apt-get install podman runc busybox-static, or docker.io busybox-static")


@contextmanager
def container_engine() -> Iterator[Podman]:
    """Run an engine that has `IMAGE` inside the block. Skips the test, with the reason, where no engine can run."""
    chosen = _chosen()
    if os.geteuid() != 0:
        pytest.skip("the engine's networks need root here")
    # A short path: a socket's may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix=f"{chosen}-"))
    with registry(Public) as public, registry(Private) as private:
        engine = CLASSES[chosen](folder, public, private)
        try:
            engine.start()
            engine("import", "-", IMAGE, stdin=root_file_system())
            _refuse_half_working(engine)
            yield engine
        finally:
            engine.end()
            shutil.rmtree(folder)


def _refuse_half_working(engine: Podman) -> None:
    words = engine._words("run", "--rm", "--publish=127.0.0.1::80", IMAGE, "true")
    done = subprocess.run(words, env=engine._env, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        pytest.skip(f"the engine cannot run a container here: {done.stderr.strip()}")
