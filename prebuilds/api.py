"""The whole system on one page: its protocols, and the errors it raises on purpose.

Everything else implements, carries or calls what is named here. `ReconciliationOrchestrator` and `Claimer` are
implemented on Temporal and PostgreSQL in `prebuilds/operations/reconciler.py`; nothing below depends on either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable
from uuid import UUID

from prebuilds.vocabulary.error import PrebuildsError as PrebuildsError  # noqa: PLC0414 - given on from here

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from prebuilds.payloads import Replacement
    from prebuilds.planning.snapshot import GlobalSnapshot

FIELDS_NAMED_MAX = 3
"""Fields that a remedy names one by one."""


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


class InvalidInput(PrebuildsError):
    """Something was asked for that can never work. Details: field -> what is wrong, or what it must be."""

    default_remedy = "correct the fields that the details name"
    says_default = False

    def _usual_remedy(self) -> str:
        return (
            f"correct {' and '.join(self.details)}"
            if 0 < len(self.details) <= FIELDS_NAMED_MAX
            else self.default_remedy
        )


class NoClaimablePrebuiltWorkspaces(PrebuildsError):
    """Nothing is ready to be handed out. Details: `miss_reason`; with `no_pool`, trying again does not help."""

    retryable = True
    decided = True

    default_remedy = "try again, or have a workspace created, or wait for a prebuild"

    def __init__(self, message: str, details: Mapping[str, Any] | None = None, **advice: Any) -> None:
        super().__init__(message, details, **advice)
        self.retryable = self.details.get("miss_reason") != "no_pool"


class PrebuiltWorkspacesNotSupported(PrebuildsError):
    """The deployment or the organization has prebuilds switched off."""

    default_remedy = "have an ordinary workspace created, or an operator switch prebuilds on"


class PresetNotFound(PrebuildsError):
    """No live template has this preset."""

    default_remedy = "correct the preset; `prebuilds presets list` has them all"


class TemplateNotFound(PrebuildsError):
    """No such template, or it was deleted."""

    default_remedy = "correct the template; `prebuilds templates list` has them all"


class TemplateUnavailable(PrebuildsError):
    """The template is deprecated, or the preset is not of its active version."""

    default_remedy = "name the preset by its path, which means the active version, or claim from another template"


class OwnerNotFound(PrebuildsError):
    """The workspace's new owner is not known."""

    default_remedy = "correct the owner, or have them made a member with `prebuilds members add`"


class InitiatorNotFound(PrebuildsError):
    """Who asks is not known."""

    default_remedy = "correct the initiator, or have them made a member with `prebuilds members add`"


class NotAMember(PrebuildsError):
    """The owner is not a member of the template's organization."""

    default_remedy = "have them made a member with `prebuilds members add`"


class NameTaken(PrebuildsError):
    """The owner has a live workspace of this name."""

    default_remedy = "choose another name, or release the workspace that has it"


class ClaimTimedOut(PrebuildsError):
    """No prebuild became ready before the claim's deadline. A new claim may be luckier."""

    default_remedy = "try again, or wait for longer"
    retryable = True
    decided = True


class ClaimIdReused(PrebuildsError):
    """This claim id has won a workspace, or waits for one, with a different request; or a later request decides it."""

    default_remedy = "claim with a new id"


class RequestCanceled(PrebuildsError):
    """Somebody has cancelled the workflow that was to answer; a claim has left the queue with nothing."""

    default_remedy = "ask again if it is still wanted"


class WorkspaceNotFound(PrebuildsError):
    """No such workspace, or it was deleted."""

    default_remedy = "correct the workspace; `prebuilds workspaces list` has the live ones"


class WorkspaceBuildFailed(PrebuildsError):
    """A build that somebody waits for has failed. Details: `build_id`, `error`."""

    default_remedy = "read `prebuilds logs BUILD`, then run `prebuilds workspaces retry W` or release it"


class OrchestratorNotRunning(PrebuildsError):
    """The reconciliation loop is stopped, so nothing can be asked of it."""

    default_remedy = "start the loop with `prebuilds start`"


class LoopRenewed(PrebuildsError):
    """The loop goes over to a new run of itself before a pass that somebody waits for has ended. Ask again."""

    default_remedy = "ask again"
    retryable = True


class ProvisionerUnavailable(PrebuildsError):
    """The host or service that holds the workspace does not answer."""

    default_remedy = "have that host or service answer again, and a provisioner worker serve it"
    retryable = True


class ProvisionFailed(PrebuildsError):
    """A provisioner tried and could not; the build has failed."""

    default_remedy = "read the build's log with `prebuilds logs`"
    says_default = False  # it is shown beside the build that has the log


class StoreUnavailable(PrebuildsError):
    """The database does not answer. Trying again with the same id is safe."""

    default_remedy = "try again with the same id; `prebuilds doctor` says what is away"
    retryable = True


class StackUnreachable(PrebuildsError):
    """Temporal or the database cannot be reached, or is not set up. Says what, where, and what to do."""

    default_remedy = "see what is away with `prebuilds doctor`, then try again"
    retryable = True


class WorkerKeepsFailing(PrebuildsError):
    """A worker of `prebuilds dev` ends each time that it is started. Says with what exit code and last log lines."""

    default_remedy = "mend what the last lines of its log say"


class DatabaseRestored(PrebuildsError):
    """The database is older than what the hosts know, so nothing is given out until an operator has looked."""

    default_remedy = "have an operator look with `prebuilds restored --dry-run`, then run `prebuilds restored`"


class WrongDeployment(PrebuildsError):
    """The database and the Temporal namespace do not belong together. Says what each belongs to, and what to do."""

    default_remedy = "correct the database's URL, or Temporal's address and namespace"


class Unauthenticated(PrebuildsError):
    """No token that is good came with the request. Whether it is unknown, expired or revoked is not told."""

    default_remedy = "send a good token as `Authorization: Bearer TOKEN`; `prebuilds tokens create` makes one"


class Forbidden(PrebuildsError):
    """The token does not allow this. Details: `action`, and `scope`, which would be enough."""

    default_remedy = "use a token that has the scope which the details name"


class TokenNotFound(PrebuildsError):
    """No token has this name."""

    default_remedy = "correct the name; `prebuilds tokens list` has them all"


class RateLimited(PrebuildsError):
    """The token has asked too often. Details: `limit`, `retry_after_seconds`."""

    default_remedy = "ask again after `retry_after_seconds`"
    retryable = True


class ClaimWouldReplace(PrebuildsError):
    """A claim would rebuild resources. Details: the report."""

    default_remedy = "keep owner, name and claim parameters out of what cannot change in place"


class DiskFull(PrebuildsError):
    """Nothing more can be written. Says whose disk is full."""

    default_remedy = "free some space there, then try again"


class SystemFault(PrebuildsError):
    """This machine could not do something: it lacks open files or memory."""

    default_remedy = "see this machine's log"


class RequestFailed(PrebuildsError):
    """A worker could not carry the request out, for a reason that has no type of its own; what it did is unknown."""

    default_remedy = "read the log of the worker that had it, then look at what has changed before asking again"


class SnapshotIsolationError(PrebuildsError):
    """A snapshot was asked for outside a REPEATABLE READ transaction."""

    default_remedy = "begin a transaction with isolation level REPEATABLE READ"


class SupersededPass(PrebuildsError):
    """A later pass has already touched this preset, so this one may write nothing."""

    default_remedy = "do nothing: the later pass has done the work"


ERRORS: dict[str, type[PrebuildsError]] = {cls.__name__: cls for cls in PrebuildsError.__subclasses__()}
"""Every error by its public type, to raise again on the caller's side what a workflow failed with."""
