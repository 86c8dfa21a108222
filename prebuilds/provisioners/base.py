"""How a workspace becomes real: the protocol that every driver implements.

Each effect carries the workspace id as its tag and the number of the build that wants it. The same call twice makes
one thing; a crash between doing and recording is found again by the tag; a call with a lower build number than one
that the driver has seen for this workspace is refused with `StaleBuild`, so that a frozen start which wakes up late
cannot bring back what a later delete removed.

The database may be restored to an earlier time, and two deployments may share an engine or an account. So everything
carries the deployment's id, and what a claim gave away carries that claim's mark: a call that fits neither is refused
with `OwnedByAnother` and changes nothing.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Protocol
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from prebuilds.api import PrebuildsError, ProvisionerUnavailable
from prebuilds.payloads import Replacement
from prebuilds.vocabulary import Escaped, build_id_of
from prebuilds.vocabulary.owners import owner_slug
from prebuilds.vocabulary.plain_text import escape_all


class StaleBuild(PrebuildsError):
    """A later build of this workspace has already been here."""


class InvalidSource(PrebuildsError):
    """The template's source or parameters can never work. Details: field path -> what to do."""


class OwnedByAnother(PrebuildsError):
    """What exists there is another deployment's, or was given to a person by another claim. Nothing of it was changed.

    Details: `what` (such as `container prebuilds-...`), and where it is known `deployment`, `epoch`, `owner`,
    `claim_id`.
    """


class NotMadeHere(ProvisionerUnavailable):
    """This host has not made the workspace, so it cannot tell how the workspace is. Others are served as before."""


class Locality(StrEnum):
    """Who can act on a workspace once it was made."""

    SHARED = "shared"  # any provisioner worker: a remote engine, terraform
    HOST = "host"  # only the one that made it: a local process, a local engine


class Provision(BaseModel):
    """One workspace as one build wants it."""

    model_config = ConfigDict(frozen=True)

    deployment_id: UUID
    """The deployment that asks. What it makes carries this id; what carries another one is not this deployment's."""
    epoch: UUID
    """Which life of the deployment's database asks."""
    workspace_id: UUID
    build_number: int
    name: str
    owner: str
    organization: str
    template: str
    preset: str | None
    source: dict[str, Any]
    parameters: dict[str, str] = Field(default_factory=dict)
    claim_parameters: dict[str, str] = Field(default_factory=dict)
    claim_parameter_names: tuple[str, ...] = ()
    """What claims of its preset may bring, which is secret. A driver that cannot keep it so says so at the start."""
    claimed: bool = False
    """It was given to a person: `apply` and `claim` leave that claim's mark with the workspace (see `marks`)."""
    claim_id: str | None = None
    """The claim that gave it away; None for an unclaimed prebuild."""
    previous_owners: list[str] = Field(default_factory=list)
    """Whom it was transferred from, the latest last. What it says of them, `claim` replaces by the owner of now."""
    ready_timeout_s: float = 300.0
    state: dict[str, Any] | None = None
    """What the driver last saved or returned for this workspace, as it was."""
    trial: bool = False
    """Of a `plan` that no `claim` follows: nothing of it may be remembered."""

    @property
    def build_id(self) -> UUID:
        """The build's id. A repeated attempt has the same; the next build of the workspace has another."""
        return build_id_of(self.workspace_id, self.build_number)

    @property
    def owner_slug(self) -> str:
        """The owner's name, safe in host names and paths; no two owners have the same."""
        return owner_slug(self.owner)


class Provisioned(BaseModel):
    """What an effect made. What people are shown of it is escaped here, whoever says it."""

    address: Escaped | None = None
    """Where a person reaches it, as a URL or host:port."""
    resources: Annotated[dict[str, Any], AfterValidator(escape_all)] = Field(default_factory=dict)
    """For `workspaces show`: names and values a person understands (folder, pid, log, port)."""
    state: dict[str, Any] | None = None


class InventoryItem(BaseModel):
    """One thing that exists and carries our tag."""

    workspace_id: UUID
    build_number: int
    running: bool
    created_at: datetime
    epoch: UUID | None = None
    """The epoch of the database that had it made; None: not known, so that nothing removes it as an orphan."""
    claimed_by: str | None = None
    """The owner in its mark; None: it carries no claim's mark."""
    claim_id: str | None = None
    """The claim in its mark."""


class Progress(Protocol):
    """Where a driver tells what it does while it does it."""

    def __call__(self, line: str) -> None:
        """Add a line to the build's log. Never a secret."""
        ...

    async def save_state(self, state: dict[str, Any]) -> None:
        """Keep *state* now: what the next call for this workspace is given, also when this one never returns.

        Raises:
            StaleBuild: The build has ended, or a later attempt of it is at work. What exists is not this call's to
                undo, then; so a driver that other hosts share saves before it does.
        """
        ...


class Provisioner(Protocol):
    """One kind of workspace. Built once for a worker, as `Driver(state_dir, deployment_id)`; its methods run
    concurrently, also for the same workspace.

    `plan` of a claim, `apply`, `claim`, `stop` and `destroy` raise `OwnedByAnother` where what exists carries another
    deployment's id, or a mark that does not fit the call. They check that before the build number, and change nothing.

    A driver may have one thing more, `conformance_source`: a small source that works, for the conformance kit.
    """

    locality: Locality

    def validate(self, source: dict[str, Any]) -> None:
        """Check a template's source. No I/O that changes anything.

        Raises:
            InvalidSource: Its details name each wrong field (`source.command`) and say what to do.
        """
        ...

    def hands_over(self, source: dict[str, Any]) -> bool:
        """Whether `claim` has anything to do for such a source. If not, a claim ends its build by itself, and leaves no
        mark: only for what keeps nothing of a person's."""
        ...

    async def plan(self, wanted: Provision) -> list[Replacement]:
        """Which existing resources `claim` would have to replace; empty when none, or when nothing exists."""
        ...

    async def apply(self, wanted: Provision, progress: Progress) -> Provisioned:
        """Make it, or start it again after `stop`, and return once it is ready.

        Raises:
            ProvisionFailed: It could not be made, or was not ready within `ready_timeout_s`; what was made is removed
                when the workspace is new, and kept when it existed before.
            InvalidSource: This input can never work.
        """
        ...

    async def claim(self, wanted: Provision, progress: Progress) -> Provisioned:
        """Hand over a running workspace: leave the claim's mark with it, then tell it its owner, name and claim
        parameters. At least once."""
        ...

    async def stop(self, wanted: Provision, progress: Progress) -> None:
        """End what runs and keep what is stored. Nothing there is success."""
        ...

    async def destroy(self, wanted: Provision, progress: Progress) -> None:
        """Remove everything. Nothing there is success."""
        ...

    async def probe(self, workspace_id: UUID) -> bool:
        """Whether it is ready now.

        Raises:
            NotMadeHere: Only the host that made it could tell.
        """
        ...

    async def inventory(self) -> list[InventoryItem]:
        """Everything on this host (or in this account) that carries our tag and this deployment's id."""
        ...
