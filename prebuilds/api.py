"""The system on one page: its protocols, and the errors that it raises on purpose.

`ReconciliationOrchestrator` and `Claimer` are implemented on Temporal and PostgreSQL in
`prebuilds/operations/reconciler.py`; nothing in this module depends on either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable
from uuid import UUID

from prebuilds.vocabulary.error import PrebuildsError as PrebuildsError  # noqa: PLC0414 - exported from here, too

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from prebuilds.payloads import Replacement
    from prebuilds.planning.snapshot import GlobalSnapshot

FIELDS_NAMED_MAX = 3
"""Maximum number of fields that a remedy names one by one."""


@runtime_checkable
class StateSnapshotter(Protocol):
    """Reads the state from which a pass plans."""

    async def snapshot_state(self, connection: AsyncConnection) -> GlobalSnapshot:
        """Read the state of all prebuilds at one instant.

        Raises:
            SnapshotIsolationError: *connection* is not inside a REPEATABLE READ (or stricter) transaction.
        """
        ...


@runtime_checkable
class Reconciler(StateSnapshotter, Protocol):
    """Brings pools to their desired size."""

    async def reconcile_all(self) -> None:
        """Run one pass: take a snapshot, then reconcile every preset that has work, in parallel.

        The failure of one preset does not affect the others. Returns when the pass has ended.
        """
        ...


@runtime_checkable
class ReconciliationOrchestrator(Reconciler, Protocol):
    """Runs passes in a loop."""

    async def run(self) -> None:
        """Run passes until the loop is stopped; return when it has ended."""
        ...

    async def stop(self, cause: str) -> None:
        """End the loop gracefully. *cause* is kept for logs, the result and operators; only the first cause is kept."""
        ...

    async def track_resource_replacement(
        self, workspace_id: UUID, build_id: UUID, replacements: Sequence[Replacement]
    ) -> None:
        """Report resources that a claim's build has replaced. Repeated reports of one build count once."""
        ...


@runtime_checkable
class Claimer(Protocol):
    """Hands prebuilds to people."""

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
            now: Time of the request; a schedule's next start is computed from it.
            user_id: The new owner, who is also the initiator.
            name: The workspace's new name, unique for its owner.
            preset_id: The preset whose pool the prebuild is taken from.
            autostart_schedule: Cron expression, in UTC unless `CRON_TZ=Zone` precedes it; None for no schedule.
            next_start_at: First automatic start; None to compute it from the schedule.
            ttl: How long a start lasts; None for the template's default, zero for no end.
        Returns:
            The workspace's id, which is the same as in the pool.
        Raises:
            NoClaimablePrebuiltWorkspaces: No prebuild is ready.
            PrebuiltWorkspacesNotSupported: Prebuilds are switched off in this deployment.
        """
        ...


class InvalidInput(PrebuildsError):
    """The request is not valid and can never succeed. Details: field -> what is wrong with it, or what it must be."""

    default_remedy = "correct the fields that the details name"
    says_default = False

    def _make_default_remedy(self) -> str:
        return (
            f"correct {' and '.join(self.details)}"
            if 0 < len(self.details) <= FIELDS_NAMED_MAX
            else self.default_remedy
        )


class NoClaimablePrebuiltWorkspaces(PrebuildsError):
    """No prebuild is ready. Details: `miss_reason`; it is retryable unless the reason is `no_pool`."""

    retryable = True
    decided = True

    default_remedy = "try again, have a workspace created, or wait for a prebuild"

    def __init__(self, message: str, details: Mapping[str, Any] | None = None, **advice: Any) -> None:
        super().__init__(message, details, **advice)
        self.retryable = self.details.get("miss_reason") != "no_pool"


class PrebuiltWorkspacesNotSupported(PrebuildsError):
    """The deployment or the organization has prebuilds switched off."""

    default_remedy = "have an ordinary workspace created, or ask an operator to switch prebuilds on"


class PresetNotFound(PrebuildsError):
    """No live template has this preset."""

    default_remedy = "correct the preset; `prebuilds presets list` shows them all"


class TemplateNotFound(PrebuildsError):
    """The template does not exist, or it was deleted."""

    default_remedy = "correct the template; `prebuilds templates list` shows them all"


class TemplateUnavailable(PrebuildsError):
    """The template is deprecated, or the preset does not belong to its active version."""

    default_remedy = "name the preset by its path, which means the active version, or claim from another template"


class DrillNotFound(PrebuildsError):
    """No drill has this id."""

    default_remedy = "correct the drill; `prebuilds drills list` shows them"


class OwnerNotFound(PrebuildsError):
    """The workspace's new owner is not a known user."""

    default_remedy = "correct the owner, or have them made a member with `prebuilds members add`"


class InitiatorNotFound(PrebuildsError):
    """The initiator of the request is not a known user."""

    default_remedy = "correct the initiator, or have them made a member with `prebuilds members add`"


class NotAMember(PrebuildsError):
    """The owner is not a member of the template's organization."""

    default_remedy = "have them made a member with `prebuilds members add`"


class NameTaken(PrebuildsError):
    """The owner already has a live workspace with this name."""

    default_remedy = "choose another name, or release the workspace that has it"


class ClaimTimedOut(PrebuildsError):
    """No prebuild became ready before the claim's deadline. A new claim may succeed."""

    default_remedy = "try again, or wait longer"
    retryable = True
    decided = True


class ClaimIdReused(PrebuildsError):
    """The claim id is in use for a different request, or a later request with this id has replaced this one."""

    default_remedy = "claim with a new id"


class ClaimNotFound(PrebuildsError):
    """No claim of this id is recorded."""

    default_remedy = "correct the id, or claim with it"


class RequestCanceled(PrebuildsError):
    """Somebody has cancelled the request's workflow. A cancelled claim has left the queue with nothing."""

    default_remedy = "send the request again if it is still needed"


class WorkspaceNotFound(PrebuildsError):
    """The workspace does not exist, or it was deleted."""

    default_remedy = "correct the workspace; `prebuilds workspaces list` shows the live ones"


class WorkspaceBuildFailed(PrebuildsError):
    """The awaited build has failed or was cancelled. Details: `build_id`, `error`."""

    default_remedy = "read `prebuilds logs BUILD`, then run `prebuilds workspaces retry W` or release it"


class OrchestratorNotRunning(PrebuildsError):
    """The reconciliation loop is stopped, so it cannot answer the request."""

    default_remedy = "start the loop with `prebuilds start`"


class LoopRenewed(PrebuildsError):
    """The loop continued as a new run before the awaited pass ended."""

    default_remedy = "send the request again"
    retryable = True


class ProvisionerUnavailable(PrebuildsError):
    """The host or service that holds the workspace does not answer."""

    default_remedy = "bring that host or service back, and make sure that a provisioner worker serves it"
    retryable = True


class ProvisionFailed(PrebuildsError):
    """The provisioner could not do what the build needs, so the build has failed."""

    default_remedy = "read the build's log with `prebuilds logs`"
    says_default = False  # the error is shown beside the build that has the log


class StoreUnavailable(PrebuildsError):
    """The database does not answer. Repeating the request with the same id is safe."""

    default_remedy = "see what is away with `prebuilds doctor`, then try again with the same id"
    retryable = True


class StackUnreachable(PrebuildsError):
    """Temporal or the database cannot be reached, or is not set up. The message says which, and where."""

    default_remedy = "see what is away with `prebuilds doctor`, then try again"
    retryable = True


class WorkerKeepsFailing(PrebuildsError):
    """A worker of `prebuilds dev` ends after every start. The message has its exit code and last log lines."""

    default_remedy = "correct what the last lines of its log report"


class MigrationBlocked(PrebuildsError):
    """Others' long transactions keep a migration from its next step. What is done stays done."""

    default_remedy = "let those transactions end, then run `prebuilds migrate` again"


class DatabaseRestored(PrebuildsError):
    """The database is older than what the hosts know, so claims and passes stop until an operator has checked it."""

    default_remedy = "ask an operator to check with `prebuilds restored --dry-run` and to run `prebuilds restored`"


class WrongDeployment(PrebuildsError):
    """The database and the Temporal namespace do not belong together. The message says what each belongs to."""

    default_remedy = "correct the database's URL, or Temporal's address and namespace"


class Unauthenticated(PrebuildsError):
    """The request has no valid token. The error does not say whether the token is unknown, expired or revoked."""

    default_remedy = "send a valid token as `Authorization: Bearer TOKEN`; `prebuilds tokens create` makes one"


class Forbidden(PrebuildsError):
    """The token does not allow this action. Details: `action`, and the `scope` that allows it."""

    default_remedy = "use a token that has the scope in the details"


class TokenNotFound(PrebuildsError):
    """No token has this name."""

    default_remedy = "correct the name; `prebuilds tokens list` shows them all"


class RateLimited(PrebuildsError):
    """The token has sent too many requests, or too many requests of one kind wait. Details: `limit`,
    `retry_after_seconds`."""

    default_remedy = "try again after `retry_after_seconds`"
    retryable = True


class LimitExceeded(PrebuildsError):
    """The organization, or the claim's owner, has reached a limit. Details: `organization`, `limit`, `maximum`, `used`,
    and `retry_after_seconds`, which is None if only a release makes room; otherwise the error is retryable."""

    decided = True
    default_remedy = "release a workspace, or ask for a higher limit"

    def __init__(self, message: str, details: Mapping[str, Any] | None = None, **advice: Any) -> None:
        super().__init__(message, details, **advice)
        self.retryable = self.details.get("retry_after_seconds") is not None


class ClaimWouldReplace(PrebuildsError):
    """A claim would replace resources. Details: the lint report."""

    default_remedy = "do not use owner, name or claim parameters in attributes that cannot change in place"


class DiskFull(PrebuildsError):
    """A disk is full. The message says whose."""

    default_remedy = "free some space there, then try again"


class SystemFault(PrebuildsError):
    """This machine has reached a limit of open files or memory."""

    default_remedy = "see this machine's log"


class RequestFailed(PrebuildsError):
    """A worker failed to carry out the request, for a reason without an error type; what it did is unknown."""

    default_remedy = "read the log of the worker that ran it, then check what has changed before trying again"


class SnapshotIsolationError(PrebuildsError):
    """A snapshot was requested outside a REPEATABLE READ transaction."""

    default_remedy = "begin a transaction with isolation level REPEATABLE READ"


class SupersededPass(PrebuildsError):
    """A later pass has already changed this preset, so this pass may write nothing."""

    default_remedy = "do nothing: the later pass does the work"


ERRORS: dict[str, type[PrebuildsError]] = {cls.__name__: cls for cls in PrebuildsError.__subclasses__()}
"""Public type -> error class, to rebuild a workflow's failure on the caller's side."""
