"""What bounds a container: fields of its source that take rights away from it, and what the engine is told of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

PIDS_DEFAULT = 4096
"""Processes and threads, where a template says nothing: a fork bomb must not take the engine's host."""
BOUNDS = ("cap_drop", "no_new_privileges", "read_only", "tmpfs", "runtime")


def check_absolute(text: str) -> str:
    """Raises:
    ValueError: It is not the full path of something in a container.
    """
    if not text.startswith("/") or ".." in text.split("/") or text == "/":
        raise ValueError("must be a full path without .., such as /home/dev")
    return text


Absolute = Annotated[str, AfterValidator(check_absolute)]
Capability = Annotated[str, Field(pattern=r"^(CAP_)?[A-Z_]+$")]


class Bounds(BaseModel):
    """The fields of a source that bound a container."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cap_drop: list[Capability] = Field(default_factory=list)
    """Capabilities that it does not get, such as NET_RAW; ALL for none at all."""
    no_new_privileges: bool = True
    """Programs such as sudo cannot give more rights than their caller has. False where a workspace needs sudo."""
    read_only: bool = False
    """Its root file system cannot be written: only mounts and `tmpfs` can."""
    tmpfs: list[Absolute] = Field(default_factory=list)
    """Folders that are in memory, and empty at each start."""
    runtime: Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]*$")] | None = None
    """The engine's runtime that runs it, such as runsc of gVisor; the engine's own default unless said."""

    def bounds(self) -> dict[str, Any]:
        """Part of the `HostConfig` of the engine's create call."""
        return {
            "CapDrop": self.cap_drop or None,
            "SecurityOpt": ["no-new-privileges"] if self.no_new_privileges else None,
            "ReadonlyRootfs": self.read_only or None,
            "Tmpfs": dict.fromkeys(self.tmpfs, "") or None,
            "Runtime": self.runtime,
        }

    def set_bounds(self) -> dict[str, Any]:
        """Those that the template sets, for fingerprints: a bound that it leaves out must not make a difference."""
        return self.model_dump(mode="json", include=set(BOUNDS), exclude_unset=True)


def files_outside(paths: Sequence[str], writable: Sequence[str]) -> list[str]:
    """Those of *paths* that are below none of the folders *writable*."""
    folders = [PurePosixPath(folder) for folder in writable]
    return [path for path in paths if not any(PurePosixPath(path).is_relative_to(folder) for folder in folders)]
