"""Fields of a source that restrict a container, and the engine's settings for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from prebuilds.provisioners.kit.placeholders import parse_memory

PIDS_DEFAULT = 4096
"""Limit on processes and threads when the template sets none, so that a fork bomb does not stop the engine's host."""
BOUNDS = ("cap_drop", "no_new_privileges", "read_only", "tmpfs", "runtime")


def check_absolute(text: str) -> str:
    """Return *text* when it is a full path below the container's root.

    Raises:
        ValueError: It is not.
    """
    if not text.startswith("/") or ".." in text.split("/") or text == "/":
        raise ValueError("must be a full path without .., such as /home/dev")
    return text


Absolute = Annotated[str, AfterValidator(check_absolute)]
Capability = Annotated[str, Field(pattern=r"^(CAP_)?[A-Z_]+$")]


def _as_tmpfs(value: Any) -> Any:
    return {"target": value} if isinstance(value, str) else value


class Tmpfs(BaseModel):
    """A folder in memory."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: Absolute
    size: Annotated[int, BeforeValidator(parse_memory), Field(ge=4096)] | None = None
    """Its bytes at most; None: half of the host's memory, or what the container's `memory` leaves."""


class Bounds(BaseModel):
    """The fields of a source that restrict a container."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cap_drop: list[Capability] = Field(default_factory=list)
    """Capabilities that the container does not get, such as NET_RAW; ALL: it gets none."""
    no_new_privileges: bool = True
    """True: programs such as sudo cannot give more rights than their caller has. Set it to false when a workspace needs
    sudo."""
    read_only: bool = False
    """True: the root file system is read-only; only mounts and `tmpfs` can be written."""
    tmpfs: list[Annotated[Tmpfs, BeforeValidator(_as_tmpfs)]] = Field(default_factory=list)
    """Folders in memory, empty at each start; a path alone has no size of its own."""
    runtime: Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]*$")] | None = None
    """The engine's runtime for the container, such as gVisor's runsc; None: the engine's default."""

    def bounds(self) -> dict[str, Any]:
        """Return these fields' part of `HostConfig` in the engine's create call; None: the engine's default."""
        return {
            "CapDrop": self.cap_drop or None,
            "SecurityOpt": ["no-new-privileges"] if self.no_new_privileges else None,
            "ReadonlyRootfs": self.read_only or None,
            "Tmpfs": {t.target: f"size={t.size}" if t.size is not None else "" for t in self.tmpfs} or None,
            "Runtime": self.runtime,
        }

    def set_bounds(self) -> dict[str, Any]:
        """Return the fields that the template sets, for fingerprints: a field left out must not change them."""
        return self.model_dump(mode="json", include=set(BOUNDS), exclude_unset=True)


def files_outside(paths: Sequence[str], writable: Sequence[str]) -> list[str]:
    """Return those of *paths* that lie in none of the folders *writable*."""
    folders = [PurePosixPath(folder) for folder in writable]
    return [path for path in paths if not any(PurePosixPath(path).is_relative_to(folder) for folder in folders)]
