"""The protocol that every driver implements: how a workspace becomes real.

Each effect carries the workspace's id as a tag and the number of the build that wants the effect. The same call twice
makes one thing. A crash between doing and recording leaves something that the next call finds by its tag. The driver
refuses a build number that is lower than one it has seen for the workspace (`StaleBuild`), so that a start which was
frozen and wakes up late cannot bring back what a later delete removed.

The database may be restored to an earlier time, and two deployments may share an engine or an account. So everything
carries the deployment's id, and a claimed workspace carries the mark of its claim. The driver refuses a
call whose deployment id or claim mark does not match with `OwnedByAnother`, and changes nothing.
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

    default_remedy = "do nothing: the later build decides how the workspace is"


class InvalidSource(PrebuildsError):
    """The template's source or parameters can never work. Details: field path -> what is wrong, or what it must be."""

    default_remedy = "correct the template's source, then apply it again"
    says_default = False


class OwnedByAnother(PrebuildsError):
    """The thing belongs to another deployment, or another claim gave it to a person. The driver changed nothing.

    Details: `what` (such as `container prebuilds-...`), and where it is known `deployment`, `epoch`, `owner`,
    `claim_id`.
    """

    default_remedy = "remove or rename it if nobody needs it"


class NotMadeHere(ProvisionerUnavailable):
    """This host did not create the workspace and cannot probe it. The workspace is served as before."""

    default_remedy = "have a provisioner worker run on the host that made it"


class Locality(StrEnum):
    """Which hosts can act on a workspace after it was created."""

    SHARED = "shared"  # any provisioner worker: a remote engine, terraform
    HOST = "host"  # only the host that created it: a local process, a local engine


class Provision(BaseModel):
    """One workspace as one build wants it."""

    model_config = ConfigDict(frozen=True, ser_json_bytes="base64", val_json_bytes="base64")

    deployment_id: UUID
    """The deployment that calls. The driver labels what it makes with this id, and acts on nothing with another id."""
    epoch: UUID
    """The life of the deployment's database that calls; a restored database begins another one."""
    workspace_id: UUID
    build_number: int
    """Starts at 1 and rises with each build of the workspace."""
    name: str
    owner: str
    organization: str
    template: str
    preset: str | None
    """None: the workspace was made without a preset."""
    source: dict[str, Any]
    """The template version's source, unparsed: the template's own, or what `read_source_files` made of it."""
    files: bytes | None = Field(default=None, repr=False)
    """The archive of the files that `read_source_files` returned for the version; None: it returned none."""
    parameters: dict[str, str] = Field(default_factory=dict)
    claim_parameters: dict[str, str] = Field(default_factory=dict)
    """Values that the claim brought. They are secret."""
    claim_parameters_withheld: bool = False
    """True: the claim brought values that this worker has no key for. Only a stop or a deletion is called so."""
    claim_parameter_names: tuple[str, ...] = ()
    """Claim parameters that the preset allows. A driver that cannot keep them secret refuses the start."""
    claimed: bool = False
    """True: a claim gave the workspace to a person; `apply` and `claim` leave that claim's mark with it (see
    `kit/marks.py`)."""
    claim_id: str | None = None
    """The claim that gave the workspace away; None for an unclaimed prebuild."""
    previous_owners: list[str] = Field(default_factory=list)
    """Owners before each transfer, the latest last. `claim` replaces their traces by the present owner's."""
    ready_timeout_s: float = 300.0
    state: dict[str, Any] | None = None
    """What the driver last saved or returned for this workspace, unchanged; None: nothing yet."""
    trial: bool = False
    """True for a `plan` that no `claim` follows: the driver must not remember anything of it."""

    @property
    def build_id(self) -> UUID:
        """The build's id. A repeated attempt has the same id; the workspace's next build has another."""
        return build_id_of(self.workspace_id, self.build_number)

    @property
    def owner_slug(self) -> str:
        """The owner's name as a label that is safe in host names and paths. No two owners have the same slug."""
        return owner_slug(self.owner)


class Provisioned(BaseModel):
    """What an effect made. Texts that people are shown are escaped here, whichever driver returns them."""

    address: Escaped | None = None
    """Where a person reaches the workspace, as a URL or host:port; None: it has no address."""
    resources: Annotated[dict[str, Any], AfterValidator(escape_all)] = Field(default_factory=dict)
    """For `workspaces show`: names and values that a person understands (folder, pid, log, port)."""
    state: dict[str, Any] | None = None
    """Kept in the database for the next call; None: what was saved before stays."""


class Stopped(Provisioned):
    """What a stop has left. Of a stopped workspace, people are shown `resources`, and never an address."""

    kept: list[Replacement] = Field(default_factory=list)
    """What the stop would have had to replace. A stop replaces nothing, so it has kept everything; empty: nothing."""


class InventoryItem(BaseModel):
    """One existing thing that carries our tag."""

    workspace_id: UUID
    build_number: int
    """The latest build that acted on the thing; 0: unknown."""
    running: bool
    created_at: datetime
    """In UTC."""
    epoch: UUID | None = None
    """The epoch of the database that had the thing made; None: unknown, so nothing removes it as an orphan."""
    claimed_by: str | None = None
    """The owner in the claim's mark; None: the thing carries no mark."""
    claim_id: str | None = None
    """The claim in the mark; None: no mark, or a mark without a claim id."""


class Progress(Protocol):
    """Receives a driver's log lines and state while a call runs."""

    def __call__(self, line: str) -> None:
        """Add a line to the build's log. Never pass a secret."""
        ...

    async def save_state(self, state: dict[str, Any]) -> None:
        """Store *state* in the database now. The workspace's next call receives it, even if this call never returns.

        Raises:
            StaleBuild: The build has ended, or a later attempt of it is running. This call must then not undo what
                exists. So a driver whose things other hosts can reach saves its state before it undoes anything.
        """
        ...


class Provisioner(Protocol):
    """One kind of workspace. A worker builds it once, as `Driver(state_dir, deployment_id)`; its methods run
    concurrently, also for the same workspace.

    `plan` of a claim, `apply`, `claim`, `stop` and `destroy` raise `OwnedByAnother` where what exists carries another
    deployment's id, or a mark that does not fit the call. They check that before the build number, and change nothing.

    A driver may also have `conformance_source`, a small source that works anywhere, for the conformance kit; the
    methods of `HostProvisioner`, `KeepingProvisioner`, `PausingProvisioner`, `CheckingProvisioner` and
    `TendedProvisioner` (`optional.py`).
    """

    locality: Locality

    def validate(self, source: dict[str, Any]) -> None:
        """Check a template's source. Writes nothing and leaves no trace on the host.

        Raises:
            InvalidSource: Its details name each wrong field (`source.command`) and say what to do.
        """
        ...

    def hands_over(self, source: dict[str, Any]) -> bool:
        """Return whether `claim` has anything to do for such a source.

        False: a claim ends its build without calling the driver, and leaves no mark. Only a workspace that keeps
        nothing of a person's may be handed over so.
        """
        ...

    async def plan(self, wanted: Provision) -> list[Replacement]:
        """Return the existing resources that `claim` would replace; empty when none, or when nothing exists."""
        ...

    async def apply(self, wanted: Provision, progress: Progress) -> Provisioned:
        """Create the workspace, or start it again after `stop`; return once it is ready.

        Raises:
            ProvisionFailed: It could not be made, or was not ready within `ready_timeout_s`. The driver has removed
                what it made for a new workspace, and kept a workspace that existed before.
            InvalidSource: This input can never work.
        """
        ...

    async def claim(self, wanted: Provision, progress: Progress) -> Provisioned:
        """Hand over a running workspace: leave the claim's mark with it, then give it owner, name and claim
        parameters. May be called several times for one claim."""
        ...

    async def stop(self, wanted: Provision, progress: Progress) -> Stopped | None:
        """End what runs and keep what is stored. Succeeds when nothing exists.

        Returns:
            What is left; None if people are shown the same resources as before.
        """
        ...

    async def destroy(self, wanted: Provision, progress: Progress) -> None:
        """Remove everything. Succeeds when nothing exists."""
        ...

    async def probe(self, workspace_id: UUID) -> bool:
        """Return whether the workspace is ready now.

        Raises:
            NotMadeHere: Only the host that created the workspace can answer.
        """
        ...

    async def inventory(self) -> list[InventoryItem]:
        """List everything on this host (or in this account) that carries our tag and this deployment's id."""
        ...
