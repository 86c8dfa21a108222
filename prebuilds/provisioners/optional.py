"""What a driver may implement beside `Provisioner`: each protocol is optional."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable
from uuid import UUID

from prebuilds.provisioners.base import Progress, Provision, Provisioned, Stopped
from prebuilds.provisioners.kit.trees import KeptTree


@runtime_checkable
class HostProvisioner(Protocol):
    """Optional methods of a driver whose running workspaces can be suspended on this host and restored later.

    `prebuilds dev` calls `suspend` when it ends, and `restore` and `wait_restored` when it starts again, before a
    worker runs. A provisioner worker calls `restore` when it starts: after a reboot, nothing else starts what ran
    before. A driver whose things run on by themselves, such as containers, does not need these methods.

    One workspace that fails is logged and skipped: it must not keep the others from being suspended or restored.
    """

    async def suspend(self) -> int:
        """End everything of this deployment that runs on this host, so that `restore` can start it again.

        Ids, addresses, stored data and marks stay. Returns how many workspaces were running.
        """
        ...

    async def restore(self) -> list[UUID]:
        """Start every workspace of this host that should run and does not; leave stopped ones stopped.

        Returns the workspaces that were started, without waiting until they are ready. A second call at once starts
        nothing and returns an empty list.
        """
        ...

    async def wait_restored(self, workspace_ids: Sequence[UUID]) -> None:
        """Return when each unclaimed workspace of *workspace_ids* is ready, has ended, or has used up its
        `ready_timeout_s`. The caller may cancel the wait."""
        ...


@dataclass(frozen=True)
class Kept:
    """A source as a template version keeps it."""

    source: dict[str, Any]
    """What each call gets as `Provision.source`. JSON values, the same for the same files on every host."""
    files: KeptTree | None = None
    """The files that each call gets as `Provision.files`; None: the source needs none."""


@runtime_checkable
class KeepingProvisioner(Protocol):
    """Optional methods of a driver whose source names files of the host where the template is applied."""

    def read_source_files(self, source: dict[str, Any]) -> Kept:
        """Return the source with the files that it names, which become a part of the template version: every worker
        gets these, whatever becomes of the host's. Writes nothing.

        Raises:
            InvalidSource: The source is wrong, or a file cannot be kept. Need not check all that `validate` checks.
        """
        ...

    def check_sent(self, source: dict[str, Any]) -> None:
        """Check a source that somebody has sent to a server, in place of `keep` and `validate`. What it names on this
        host is not its sender's: nothing is read here, and no program is run.

        Raises:
            InvalidSource: The source is wrong, or names files of this host.
        """
        ...


@dataclass(frozen=True)
class CheckEnded:
    """The result of a command that was run in a workspace."""

    code: int | None
    """Its exit code; None if it did not end in time."""
    output: str
    """Its output, at most some ten thousand characters."""


@runtime_checkable
class CheckingProvisioner(Protocol):
    """Optional method of a driver that can run a command in a workspace, as `drill.command` asks for."""

    async def run_check(
        self, workspace_id: UUID, words: Sequence[str], env: Mapping[str, str], timeout_s: float
    ) -> CheckEnded:
        """Run a command where the workspace's owner works, with the rights of the workspace and no others.

        Output and time are bounded: processes that still run after *timeout_s* are killed, or end with the workspace.

        Args:
            env: Environment variables beside those of the workspace.
        Raises:
            NotMadeHere: Only the host that created the workspace can run it.
            ProvisionFailed: The workspace does not run, or has no such program. Of such a program a driver whose engine
                does not tell may return the status that a shell gives, 126 or 127.
        """
        ...


@runtime_checkable
class PausingProvisioner(Protocol):
    """Optional methods of a driver that can pause a workspace: a paused one keeps its files, costs less than one that
    runs, and is ready again sooner than a new one.

    Only a prebuild is paused. `claim` and `apply` of a paused workspace resume it as well, so that a claim of a paused
    prebuild is one call; where `hands_over` is False, the build calls `resume` before it. `stop` and `destroy` of a
    paused one work as of any other. All rules of `Provisioner` about build numbers and marks hold for these calls, too.
    """

    def pauses(self, source: dict[str, Any]) -> bool:
        """Return whether workspaces of this source can be paused. Writes nothing.

        Raises:
            InvalidSource: The source is wrong.
        """
        ...

    async def pause(self, wanted: Provision, progress: Progress) -> Stopped | None:
        """Pause a workspace that no person has: afterwards nothing of it runs, and everything that is stored stays.
        Succeeds also if it is paused already, or if nothing exists.

        Returns:
            What is left; None if people are shown the same resources as before.
        Raises:
            ProvisionFailed: It could not be paused. A repeated call continues from there.
        """
        ...

    async def resume(self, wanted: Provision, progress: Progress) -> Provisioned:
        """Make a paused workspace run again with its stored files, and return once it is ready. Its address may change.
        Changes nothing of a running workspace, and creates what is missing as `apply` does.

        Raises:
            ProvisionFailed: It does not run, or was not ready within `ready_timeout_s`. The stored files are kept.
        """
        ...


@runtime_checkable
class TendedProvisioner(Protocol):
    """Optional method of a driver that has housekeeping to do while a provisioner worker runs."""

    async def tend(self) -> None:
        """Do this host's housekeeping, such as bounding logs, until the call is cancelled."""
        ...
