"""The whole system on one page: its protocols, and the errors it raises on purpose.

Everything else implements, carries or calls what is named here. `ReconciliationOrchestrator` and `Claimer` are
implemented on Temporal and PostgreSQL in `prebuilds/operations/reconciler.py`; nothing below depends on either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable
from uuid import UUID

from prebuilds.vocabulary.plain_text import LINES, escape, escape_all

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from prebuilds.payloads import Replacement
    from prebuilds.planning.snapshot import GlobalSnapshot


@runtime_checkable
class StateSnapshotter(Protocol):
    async def snapshot_state(self, connection: AsyncConnection) -> GlobalSnapshot:
        """Read everything about prebuilds at one instant.

        Raises:
            SnapshotIsolationError: *connection* is not inside a REPEATABLE READ (or stricter) transaction.
        """
        ...


@runtime_checkable
class Reconciler(StateSnapshotter, Protocol):
    async def reconcile_all(self) -> None:
        """Run one pass: one snapshot, then every preset that has work, in parallel.

        One preset's failure changes no other's outcome. Returns when the pass has ended.
        """
        ...


@runtime_checkable
class ReconciliationOrchestrator(Reconciler, Protocol):
    async def run(self) -> None:
        """Reconcile again and again, until stopped; returns when the loop has ended."""
        ...

    async def stop(self, cause: str) -> None:
        """End the loop gracefully; *cause* is kept for logs, the result and the operator. The first cause wins."""
        ...

    async def track_resource_replacement(
        self, workspace_id: UUID, build_id: UUID, replacements: Sequence[Replacement]
    ) -> None:
        """Report that a claim's build rebuilt infrastructure. Told twice, counted once."""
        ...


@runtime_checkable
class Claimer(Protocol):
    async def claim(
        self,
        now: datetime,
        user_id: UUID,
        name: str,
        preset_id: UUID,
        autostart_schedule: str | None,
        next_start_at: datetime | None,
        ttl: timedelta | None,
    ) -> UUID:
        """Give the oldest claimable prebuild of a preset to a person, under a new name.

        Args:
            now: When the person asked; the next start of a schedule is computed from it.
            user_id: The new owner, who is also the initiator.
            name: The workspace's new name, unique for its owner.
            preset_id: Which pool to take from.
            autostart_schedule: Cron expression, `CRON_TZ=Zone` before it if not UTC; None for none.
            next_start_at: First automatic start; None to compute it from the schedule.
            ttl: How long a start lasts; None for the template's default, zero for no end.
        Returns:
            The workspace's id, which it has kept from its time in the pool.
        Raises:
            NoClaimablePrebuiltWorkspaces: Nothing is ready.
            PrebuiltWorkspacesNotSupported: The feature is switched off here.
        """
        ...


class PrebuildsError(Exception):
    """A refusal or failure raised on purpose. Its class name is its public type.

    What its message and details quote of others (a driver, a server, a file) is escaped in them.

    Attributes:
        retryable: Whether the same request may succeed later without anybody changing it: a caller may send it again.
        decided: Whether it is the outcome of a request rather than a failure to decide it. It is recorded as the
            request's answer, and Temporal does not repeat the activity, also when a new request may succeed.
        details: Facts for programs: field -> message for bad input, `miss_reason`, ids.
    """

    retryable = False
    decided = False

    def __init__(self, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(escape(message, keep=LINES))
        self.details: dict[str, Any] = escape_all(details or {}, keep=LINES)

    @property
    def type(self) -> str:
        return type(self).__name__

    @property
    def repeated(self) -> bool:
        """Whether Temporal repeats the activity that raised it."""
        return self.retryable and not self.decided


class InvalidInput(PrebuildsError):
    """Something was asked for that can never work. Details: field -> what is wrong and what to do."""

    @classmethod
    def field(cls, name: str, message: str) -> InvalidInput:
        return cls(f"{name}: {message}", {name: message})


class NoClaimablePrebuiltWorkspaces(PrebuildsError):
    """Nothing is ready to be handed out. Details: `miss_reason`; with `no_pool`, trying again does not help."""

    retryable = True
    decided = True

    def __init__(self, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, details)
        self.retryable = self.details.get("miss_reason") != "no_pool"


class PrebuiltWorkspacesNotSupported(PrebuildsError):
    """The deployment or the organization has prebuilds switched off."""


class PresetNotFound(PrebuildsError):
    """No live template has this preset."""


class TemplateNotFound(PrebuildsError):
    """No such template, or it was deleted."""


class TemplateUnavailable(PrebuildsError):
    """The template is deprecated, or the preset is not of its active version."""


class OwnerNotFound(PrebuildsError):
    """The workspace's new owner is not known."""


class InitiatorNotFound(PrebuildsError):
    """Who asks is not known."""


class NotAMember(PrebuildsError):
    """The owner is not a member of the template's organization."""


class NameTaken(PrebuildsError):
    """The owner has a live workspace of this name."""


class ClaimTimedOut(PrebuildsError):
    """No prebuild became ready before the claim's deadline. A new claim may be luckier."""

    retryable = True
    decided = True


class ClaimIdReused(PrebuildsError):
    """This claim id has won a workspace, or waits for one, with a different request; or a later request decides it."""


class RequestCanceled(PrebuildsError):
    """Somebody has cancelled the workflow that was to answer; a claim has left the queue with nothing."""


class WorkspaceNotFound(PrebuildsError):
    """No such workspace, or it was deleted."""


class WorkspaceBuildFailed(PrebuildsError):
    """A build that somebody waits for has failed. Details: `build_id`, `error`."""


class OrchestratorNotRunning(PrebuildsError):
    """The reconciliation loop is stopped, so nothing can be asked of it."""


class LoopRenewed(PrebuildsError):
    """The loop goes over to a new run of itself before a pass that somebody waits for has ended. Ask again."""

    retryable = True


class ProvisionerUnavailable(PrebuildsError):
    """The host or service that holds the workspace does not answer."""

    retryable = True


class ProvisionFailed(PrebuildsError):
    """A provisioner tried and could not; the build has failed."""


class StoreUnavailable(PrebuildsError):
    """The database does not answer. Trying again with the same id is safe."""

    retryable = True


class StackUnreachable(PrebuildsError):
    """Temporal or the database cannot be reached, or is not set up. Says what, where, and what to do."""

    retryable = True


class WorkerKeepsFailing(PrebuildsError):
    """A worker of `prebuilds dev` ends each time that it is started. Says with what exit code and last log lines."""


class DatabaseRestored(PrebuildsError):
    """The database is older than what the hosts know, so nothing is given out until an operator has looked."""


class WrongDeployment(PrebuildsError):
    """The database and the Temporal namespace do not belong together. Says what each belongs to, and what to do."""


class ClaimWouldReplace(PrebuildsError):
    """A claim would rebuild resources. Details: the report."""


class SnapshotIsolationError(PrebuildsError):
    """A snapshot was asked for outside a REPEATABLE READ transaction."""


class SupersededPass(PrebuildsError):
    """A later pass has already touched this preset, so this one may write nothing."""


ERRORS: dict[str, type[PrebuildsError]] = {cls.__name__: cls for cls in PrebuildsError.__subclasses__()}
"""Every error by its public type, to raise again on the caller's side what a workflow failed with."""
