"""What crosses a workflow's or activity's border, and what the CLI prints as JSON.

Inputs arrive from other languages and from operators' keyboards, so public `run` methods take `Any` and call
`parse_input`, which answers with a typed `InvalidInput` where a typed parameter would park the workflow.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal, Self, TypeVar
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from prebuilds.api import InvalidInput
from prebuilds.vocabulary import (
    NAME_LENGTH_MAX,
    NAME_PATTERN,
    TTL_MAX,
    BuildStatus,
    Escaped,
    MissReason,
    Name,
    OnEmpty,
    Source,
    Text,
    Texts,
    Timestamp,
)
from prebuilds.vocabulary.owners import OwnerName, check_owner_name, owner_key
from prebuilds.vocabulary.plain_text import check_plain

CLAIM_ID_BYTES_MAX = 200
CLAIMS_MAX = 500
"""In one transaction: about half a second of it."""


class Payload(BaseModel):
    """A record of ours. Unknown keys are refused by name: a mistyped key must not be silently ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


P = TypeVar("P", bound=BaseModel)


def parse_input(model: type[P], raw: object, what: str) -> P:
    """Validate something that came from outside.

    Args:
        model: What it should be.
        raw: JSON as Temporal decoded it: a dict, or nothing, which stands for an empty object.
        what: What it is, for the message: `claim`.
    Raises:
        InvalidInput: Its details name each wrong field.
    """
    try:
        return model.model_validate({} if raw is None else raw)
    except ValidationError as error:
        raise InvalidInput.fields(field_messages(error), what) from error


PLAIN_MESSAGES = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping",
    "extra_forbidden": "unknown key; remove it or correct its spelling",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "list_type": "must be a list",
    "missing": "is required",
    "model_type": "must be a mapping",
    "recursion_loop": "refers to itself",
    "string_type": "must be text; put it in quotes",
    "time_delta_type": "must be a duration such as 90s, 15m, 8h or 2d",
    "url_parsing": "must be an address such as https://host/path",
    "url_scheme": "must begin with http:// or https://",
    "url_type": "must be an address such as https://host/path",
    "uuid_parsing": "must be an id such as 0b8ad3a2-91a6-4f49-9cb4-5a9fdd3f43ab",
}
"""What pydantic says by the names of Python's types, in a person's words."""
_SHOULD = re.compile(r"^(Input|String|Value|List|Dictionary|Data|URL) should ")


def plain_message(kind: str, message: str) -> str:
    """What pydantic has found, in a person's words.

    Args:
        kind: Its name for what is wrong, such as `int_parsing`.
        message: Its own words, used where there are no better ones.
    """
    if kind in PLAIN_MESSAGES:
        return PLAIN_MESSAGES[kind]
    text = _SHOULD.sub("must ", message.removeprefix("Value error, "))
    begins_with_a_word = text[1:2].islower() or not text[1:2].isalpha()  # URL stays URL
    return text[:1].lower() + text[1:] if begins_with_a_word else text


def field_messages(error: ValidationError) -> dict[str, str]:
    """Each wrong field's path, and what is wrong with it in a person's words."""
    return {
        ".".join(str(part) for part in item["loc"]) or "input": plain_message(item["type"], item["msg"])
        for item in error.errors(include_url=False, include_context=False)
    }


# --- Orchestrator and reconciling ------------------------------------------------------------------------------------


class OrchestratorInput(Payload):
    """How the loop runs. All optional; what is `carried` comes from the run before."""

    model_config = ConfigDict(extra="ignore", frozen=True)  # a newer client's option must not park the loop

    interval_seconds: float | None = Field(default=None, gt=0, le=86_400)
    drain_timeout_seconds: float = Field(default=60, ge=0, le=3600)
    max_parallel_presets: int = Field(default=20, ge=1, le=500)
    loop_number: int | None = None
    """Of the start that it came of; None for one that was started by hand."""
    carried: OrchestratorCarried | None = None


class Seen(Payload):
    """The newest event of the database that a witness outside it has seen, and the epoch in which it saw it."""

    epoch: UUID
    event: int
    at: AwareDatetime


class OrchestratorCarried(Payload):
    """What survives continue-as-new."""

    started_at: AwareDatetime
    passes: int = 0
    stop_cause: str | None = None
    stopped_by: str | None = None
    wanted_all: bool = False
    wanted_presets: list[str] = Field(default_factory=list)
    pending_max: int | None = None
    next_pass_at: AwareDatetime | None = None
    ignored: list[str] = Field(default_factory=list)
    seen: Seen | None = None
    """The newest event that the last pass has seen: what a restored database lacks."""


class OrchestratorResult(Payload):
    status: Literal["stopped"] = "stopped"
    cause: str
    passes: int
    started_at: Timestamp
    stopped_at: Timestamp


class StopAnswer(Payload):
    cause: str
    already_stopping: bool


class OrchestratorStatus(Payload):
    state: Literal["running", "draining"]
    cause: str | None
    passes: int
    started_at: Timestamp
    last_pass_at: Timestamp | None
    next_pass_at: Timestamp | None
    interval_seconds: float
    reconciling: list[str]
    """Ids of presets whose child is running now."""
    waiting: list[str]
    """Ids of presets that were nudged and wait for their turn."""
    ignored: list[str]
    """The newest signals that were not understood: a mistyped name shows up here."""
    ignored_count: int = 0
    """How many were not understood in this run."""


class ReconcilePresetInput(Payload):
    model_config = ConfigDict(extra="ignore", frozen=True)

    preset_id: UUID
    pending_max: int | None = None
    """Its share of the capacity: how many creations it may have pending. None for no limit."""


class ReconcilePresetResult(Payload):
    created: int = 0
    deleted: int = 0
    canceled: int = 0
    held: str | None = None
    lost_races: int = 0
    errors: list[str] = Field(default_factory=list)
    more: bool = False
    """A bound has cut the plan short: there is more of the same to do at once."""


DeploymentAction = Literal["status", "start", "stop", "pause", "resume"]
WorkspaceRead = Literal["list_workspaces", "show_workspace"]
WorkspaceAction = Literal["release", "release_claims", "start_workspace", "stop_workspace", "retry", "set", "transfer"]
PeopleAction = Literal["add_members", "remove_members", "disable_users", "enable_users"]


class RequestRun(Payload):
    """One operator's request, with all attempts of Temporal at it."""

    id: str
    """Temporal's run id of the request's workflow."""
    began_at: AwareDatetime
    """By Temporal's clock."""
    expires_at: AwareDatetime
    """After it no attempt takes effect any more."""


class OperatorRequest(Payload):
    """What an operator or a service asks of the deployment through Temporal."""

    action: Literal[DeploymentAction, WorkspaceRead, WorkspaceAction, PeopleAction]
    workspace: Text | None = None
    """`owner/name` or an id, for every action on one workspace."""
    owner: Text | None = None
    """For `list_workspaces`: only workspaces of this owner; None for those of everybody."""
    preset: Text | None = None
    """For `list_workspaces`: only workspaces of this preset, by id or `organization/template/preset`; None for all."""
    reason: Text | None = None
    """Why, for `pause` and `stop`; it is kept and shown."""
    by: Text = "operator"
    """Who asks, for the record. A user's name makes them the initiator of the build that is recorded."""
    interval_seconds: float | None = Field(default=None, gt=0, le=86_400)
    """Seconds between passes, for `start`; None leaves them as they are."""
    after: str | None = None
    """For `status` and `list_workspaces`: the `next` of the page before; None for the first page."""
    limit: int | None = Field(default=None, ge=1)
    """For `status` and `list_workspaces`: rows of one page at most; None for as many as the deployment puts into one
    answer."""
    ttl_seconds: float | None = Field(default=None, ge=0, le=TTL_MAX.total_seconds())
    """For `set`: how long a start lasts; 0 for no end, None leaves it as it is."""
    autostart_schedule: Text | None = None
    """For `set`: a cron expression; empty or `none` for no schedule, None leaves it as it is."""
    claim_ids: list[Text] = Field(default_factory=list, max_length=CLAIMS_MAX)
    """For `release_claims`: the claims that were given up. They leave the queue, and what they have won is released."""
    to: Text | None = None
    """For `transfer`: the new owner, an enabled member of the workspace's organization."""
    name: Text | None = None
    """For `transfer`: what the new owner calls the workspace; None for the name that it has."""
    organization: Text | None = None
    """For `add_members` and `remove_members`: the organization's name."""
    users: list[Text] = Field(default_factory=list)
    """The people who are added, removed, disabled or enabled."""


class LintInput(Payload):
    """Which preset `LintPreset` plans a claim of."""

    preset: Text = Field(min_length=1, max_length=3 * NAME_LENGTH_MAX + 2)
    """An id, or `organization/template/preset`."""


class InventoryInput(Payload):
    """How `ReconcileInventory` runs."""

    fix: bool = False
    """Whether it may act on what it finds a second time; otherwise it only reports."""


class ReleaseResult(Payload):
    workspace_id: UUID
    build_id: UUID


class ReleasedClaims(Payload):
    released: list[ReleaseResult]
    """Of the claims that had won; of the others there is nothing."""


# --- Builds ----------------------------------------------------------------------------------------------------------


class Replacement(Payload):
    """One resource that a claim had to rebuild, and the attributes that forced it."""

    resource: Escaped
    paths: list[Escaped] = Field(default_factory=list)


class WorkspaceBuildInput(Payload):
    model_config = ConfigDict(extra="ignore", frozen=True)

    build_id: UUID
    queue: str | None = None
    """The task queue of its provisioning; None to look it up in the database, as every start from outside does."""
    timeout_seconds: float | None = Field(default=None, gt=0)
    """How long its provisioning may be at work; None to look it up likewise."""


class WorkspaceBuildResult(Payload):
    status: BuildStatus
    error: str | None = None
    replacements: list[Replacement] = Field(default_factory=list)
    address: str | None = None
    """Where the workspace is reached, after a start that has succeeded; None otherwise."""


# --- Claims ----------------------------------------------------------------------------------------------------------


def _check_claim_id(value: str) -> str:
    if not check_plain(value) or len(value.encode()) > CLAIM_ID_BYTES_MAX:
        raise ValueError(f"must be 1 to {CLAIM_ID_BYTES_MAX} bytes of text")
    return value


ClaimId = Annotated[str, AfterValidator(_check_claim_id)]


def parse_claim_id(claim_id: str, *, members: int = 0) -> str:
    """A claim's id, as it comes from a caller or in a workflow's id.

    Args:
        members: Of a batch: so many claims have ids of their own, made from this one.
    Raises:
        InvalidInput: It cannot be stored, or would act where it is shown.
    """
    longest = CLAIM_ID_BYTES_MAX - (len(f"/{members - 1}") if members else 0)
    try:
        check_plain(claim_id)
    except ValueError as error:
        raise InvalidInput.field("claim_id", str(error)) from error
    if not 0 < len(claim_id.encode()) <= longest:
        raise InvalidInput.field("claim_id", f"must be 1 to {longest} bytes of text")
    return claim_id


class ClaimTerms(Payload):
    """What a person or service asks for. One shape for every language: plain JSON."""

    preset: Text | None = None
    """An id, or `organization/template/preset`."""
    template: Text | None = None
    """`organization/template`, with `parameters`, in place of a preset."""
    parameters: Texts = Field(default_factory=dict)
    """With `template`, they choose the preset: the one with the most parameters that all occur here. With `preset`,
    they may repeat the preset's own values."""
    owner: OwnerName
    """The person who gets the workspace. Never `prebuilds`."""
    initiator: OwnerName | None = None
    """The person who asks; None for the owner. Never `prebuilds`."""
    create_owner: bool = False
    """Whether an owner who is not known, or no member of the organization, is made one in the claim's transaction.
    Nobody who was removed or disabled comes back by it."""
    autostart_schedule: Text | None = None
    """When the workspace starts by itself: a cron expression, with `CRON_TZ=Zone` before it unless it is in UTC. None
    for never."""
    next_start_at: Timestamp | None = None
    """The first automatic start; None to compute it from the schedule. Needs `autostart_schedule`."""
    ttl_seconds: float | None = Field(default=None, ge=0, le=TTL_MAX.total_seconds())
    """How long a start lasts; None for the template's `default_ttl`, 0 for no end."""
    claim_parameters: Texts = Field(default_factory=dict)
    """Values for the parameters that the preset lists in `claim_parameters`. They are treated as secrets."""
    on_empty: OnEmpty = OnEmpty.FAIL
    """What to do when nothing is ready: fail, create an ordinary workspace, or wait in line for a prebuild."""
    wait_timeout_seconds: float = Field(default=300, gt=0, le=86_400)
    """How long to wait at most. Needs `on_empty` `wait`."""
    on_timeout: Literal["fail", "create"] = "fail"
    """What to do when the wait was in vain. Needs `on_empty` `wait`."""

    @model_validator(mode="after")
    def _one_target(self) -> ClaimTerms:
        if (self.preset is None) == (self.template is None):
            raise ValueError("give exactly one of preset and template")
        return self

    @property
    def asked_by(self) -> str:
        return self.owner if self.initiator is None else self.initiator

    def same_for_all_spellings(self) -> Self:
        """This request with its people by their keys, to be compared: `Alice` and `alice` are one owner."""
        initiator = None if self.initiator is None else owner_key(self.initiator)
        return self.model_copy(update={"owner": owner_key(self.owner), "initiator": initiator})


class ClaimRequest(ClaimTerms):
    """One claim."""

    name: Name
    """What the owner calls the workspace; unique among their live workspaces."""


class ClaimsRequest(ClaimTerms):
    """Many claims in one transaction, all or nothing."""

    names: list[Name] = Field(min_length=1, max_length=CLAIMS_MAX)
    """What the owner calls the workspaces, one for each name."""

    @model_validator(mode="after")
    def _distinct_names(self) -> ClaimsRequest:
        if len(set(self.names)) < len(self.names):
            raise ValueError("names must be distinct, since a name is unique for its owner")
        return self


class ClaimRun(Payload):
    """One request for a claim, with all attempts to answer it. Asked again under its id, a claim has a new run."""

    id: str
    """Temporal's run id of the claim's workflow."""
    began_at: Timestamp
    """By Temporal's clock; compared only with other runs' of the same claim."""


class ClaimResult(Payload):
    """What a claim has won."""

    claim_id: str
    workspace_id: UUID
    """For a prebuilt workspace, the id that it had in the pool."""
    name: str
    owner: str
    initiator: str
    preset_id: UUID | None
    source: Source
    """`prebuilt`: it came out of the pool. `created`: nothing was ready, and it is being made."""
    miss_reason: MissReason | None
    """Why nothing was ready; None when it is `prebuilt`."""
    build_id: UUID
    """The build that hands the workspace over, or makes it; wait for it until the workspace is ready."""
    claimed_at: Timestamp
    address: str | None
    """Where the workspace is reached; None for a `created` one, which has an address when its build has succeeded."""


class ClaimsResult(Payload):
    claim_id: str
    claims: list[ClaimResult]
    """In the order of the names; their claim ids are `{claim_id}/{n}`."""


class ClaimQueued(Payload):
    """Nothing was ready, and the claim waits."""

    position: int
    """From 1."""
    deadline: Timestamp
    """By the database's clock, to be shown."""
    left_seconds: float | None = None
    """Until then, by the same clock: what a timer is set by. None in answers of before there was this field."""


class ClaimPlace(Payload):
    """Where a claim that was queued stands now."""

    result: ClaimResult | None = None
    """Set: it was handed a prebuild, and has left."""
    waiting: ClaimQueued | None = None
    """Set: it still waits. Neither: it has left with nothing."""


class ClaimStatus(Payload):
    """What the `status` query of a claim answers."""

    state: Literal["deciding", "waiting", "claimed", "failed", "canceled"]
    position: int | None = None
    """The place in the queue, from 1, as last looked up; None unless it waits."""
    deadline: Timestamp | None = None
    """When the wait ends; None unless it waits."""


def waits_not(field: str) -> InvalidInput:
    """The error of a claim that does not wait, and has a field for one that does."""
    return InvalidInput.field(
        field, "is for claims that wait", "let the claim wait, or leave this out", inputs={"on_empty": "wait"}
    )


def parse_path(text: str, parts: int, field: str, example: str) -> Sequence[str]:
    """Split `organization/template/preset`; each part is a name.

    Raises:
        InvalidInput: Naming *field*.
    """
    names = text.split("/")
    if len(names) != parts or not all(NAME_PATTERN.fullmatch(n) and len(n) <= NAME_LENGTH_MAX for n in names):
        raise InvalidInput.field(field, f"must be an id or a path such as {example}")
    return names


def parse_workspace_path(text: str) -> tuple[str, str]:
    """Split `owner/name` into the owner's name, which has no slash, and the workspace's.

    Raises:
        InvalidInput: Naming the field `workspace`.
    """
    owner, slash, name = text.partition("/")
    try:
        check_owner_name(owner)
    except ValueError as error:
        slash = ""
        if owner and text.count("/") == 1:
            raise InvalidInput.field("workspace", f"its owner {error}") from error
    if not slash or not NAME_PATTERN.fullmatch(name) or len(name) > NAME_LENGTH_MAX:
        raise InvalidInput.field("workspace", "must be an id or a path such as alice/alice-dev")
    return owner, name
