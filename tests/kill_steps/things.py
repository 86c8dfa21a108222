"""The existing objects of a driver's workspaces, counted on the system and not by the driver."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any, Protocol

import psutil

from tests.e2e.podman import IMAGE, Podman
from tests.kill_steps.workers import Host
from tests.real_terraform import write_terraform

Counts = dict[str, dict[str, int]]
"""Workspace id -> what there is of it -> how many."""


class World(Protocol):
    """One driver's objects: a template's source, and the expected objects of each running workspace."""

    driver: str
    source: dict[str, Any]
    whole: dict[str, int]
    paused: dict[str, int]
    """The same of a paused one; empty where the driver cannot pause what the source makes."""

    def count(self, host: Host) -> Counts: ...

    def clear(self, host: Host) -> None:
        """End all processes, also after a failed test."""
        ...


class Processes:
    driver = "process"
    # A port without a listener: its reservation could leak.
    source: dict[str, Any] = {  # noqa: RUF012
        "command": ["sh", "-c", "touch up; exec sleep infinity"],
        "env": {"PORT": "{port}"},
        "ready": {"file": "up"},
    }
    whole = {"process": 1, "folder": 1, "port": 1}  # noqa: RUF012
    paused = {"folder": 1, "port": 1}  # noqa: RUF012

    def clear(self, host: Host) -> None:
        for _, process in self._tagged(host):
            process.kill()

    def _tagged(self, host: Host) -> list[tuple[str, psutil.Process]]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                env = process.environ()
                if (
                    env.get("PREBUILDS_HOST_ID", "").endswith(f"/{host.id}")
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    found.append((env["PREBUILDS_WORKSPACE_ID"], process))
        return found

    def count(self, host: Host) -> Counts:
        found = [(workspace_id, "process") for workspace_id, _ in self._tagged(host)]
        found += [(name, "folder") for name in _names(host.folder / "workspaces")]
        ports = host.folder / "ports"
        found += [(os.readlink(path), "port") for path in (ports.iterdir() if ports.is_dir() else ())]
        return _counts(found)


MARK = ".owner"
"""How the volume is called that keeps a claim's mark."""


class Containers:
    driver = "container"
    # Its owner is in its environment, so that a claim replaces the container: the longest way there is.
    source: dict[str, Any] = {  # noqa: RUF012
        "image": IMAGE,
        "command": ["sleep", "1000"],
        "env": {"OWNER": "{owner}"},
        "mounts": [{"volume": "home", "target": "/home"}],
        "pull": "never",
        "network": "none",
        "stop_timeout": "0s",
    }
    whole = {"container": 1, "volume": 1}  # noqa: RUF012
    paused = {"stopped container": 1, "volume": 1}  # noqa: RUF012

    def __init__(self, podman: Podman) -> None:
        self._podman = podman

    def clear(self, host: Host) -> None:
        """The engine ends with all its containers."""

    def count(self, host: Host) -> Counts:
        running = self._podman("ps", "--format", "{{.Names}}").split()
        stopped = set(self._podman("ps", "--all", "--format", "{{.Names}}").split()) - set(running)
        volumes = self._podman("volume", "ls", "--format", "{{.Name}}").split()
        names = [(n, "container") for n in running] + [(n, "stopped container") for n in stopped]
        names += [(n.removesuffix("-home"), "volume") for n in volumes if not n.endswith(MARK)]
        marked = {n.removesuffix(MARK) for n in volumes if n.endswith(MARK)}
        names += [(n, "mark") for n in marked - {name for name, _ in names}]  # of no existing object
        return _counts([(name.removeprefix("prebuilds-").partition("-")[2], what) for name, what in names])


MODULE = """
variable "prebuilds_workspace_id" {}
variable "prebuilds_owner" {}
resource "terraform_data" "desk" {
  input = { path = "THINGS/${var.prebuilds_workspace_id}", owner = var.prebuilds_owner }
  provisioner "local-exec" { command = "touch '${self.input.path}'" }
  provisioner "local-exec" {
    when    = destroy
    command = "rm '${self.input.path}'"
  }
}
"""


class Terraforms:
    driver = "terraform"
    whole = {"thing": 1, "folder": 1, "resource": 1}  # noqa: RUF012
    paused: dict[str, int] = {}  # noqa: RUF012

    def __init__(self, folder: Path) -> None:
        self._things = folder / "things"
        self._things.mkdir(parents=True)
        self.command = write_terraform(folder / "terraform")
        self.source: dict[str, Any] = {"files": {"main.tf": MODULE.replace("THINGS", str(self._things))}}

    def clear(self, host: Host) -> None:
        """The module's objects are files."""

    def count(self, host: Host) -> Counts:
        root = host.folder / "terraform" / "workspaces"
        found = [(path.name, "thing") for path in self._things.iterdir()]
        for name in _names(root):
            found.append((name, "folder"))
            with contextlib.suppress(FileNotFoundError, ValueError):
                state = json.loads((root / name / "module" / "terraform.tfstate").read_text())
                found += [(name, "resource") for r in state["resources"] for _ in r["instances"]]
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError, ValueError):
                found.append((Path(process.cwd()).relative_to(root).parts[0], "process"))
        return _counts(found)


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name[0] != "."] if folder.is_dir() else []


def _counts(found: list[tuple[str, str]]) -> Counts:
    counts: dict[str, Counter[str]] = {}
    for workspace_id, what in found:
        counts.setdefault(workspace_id, Counter())[what] += 1
    return {workspace_id: dict(counter) for workspace_id, counter in counts.items()}
