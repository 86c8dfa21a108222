"""The entries of organizations and templates in a template file: their keys, defaults and bounds.

An entry of a template or preset describes it completely: an optional key that is left out gets its default, even if the
entry was applied with another value before. Templates and organizations without an entry are left as they are. An
organization's `prebuilds` and `limits` are left as they are too when the key is missing, since the templates of one
organization may be spread over several files.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    PrivateAttr,
    StrictBool,
    StrictInt,
    model_validator,
)

from prebuilds.payloads import Payload
from prebuilds.planning.content import TemplatePolicy, VersionContent
from prebuilds.planning.rollouts import Strategy
from prebuilds.provisioners.optional import Kept
from prebuilds.templates.canary_entry import CanaryEntry
from prebuilds.templates.drill_entry import DrillEntry
from prebuilds.templates.preset_entry import PresetEntry
from prebuilds.templates.rollout_entry import RolloutEntry
from prebuilds.templates.values import Limit, PositiveDuration
from prebuilds.vocabulary import PROVISIONER_QUEUE, Name, Text, check_provisioner_queue
from prebuilds.vocabulary.owners import Person, owner_key

MEMBERS_MAX = 1_000_000
LimitNumber = Annotated[StrictInt, Field(ge=1, le=MEMBERS_MAX)]


def _distinct_people(values: list[str]) -> list[str]:
    keys = [owner_key(value) for value in values]
    counted = Counter(keys)
    repeated = sorted({value for value, key in zip(values, keys, strict=True) if counted[key] > 1})
    if repeated:
        raise ValueError(f"has {', '.join(repeated)} more than once, as names are compared without case")
    return values


class TemplateEntry(Payload):
    """A template: how workspaces are made, with its presets."""

    name: Name
    """Unique in its organization."""
    provisioner: Text
    """The driver: `process`, `container`, `terraform`, or an installed driver's name. A change replaces all pools."""
    queue: Annotated[str, AfterValidator(check_provisioner_queue)] = PROVISIONER_QUEUE
    """The task queue of the workers that provision it. A change replaces all pools."""
    source: dict[str, Any]
    """What the driver makes a workspace of: JSON values, under the driver's own keys. A change replaces all pools."""
    build_timeout: PositiveDuration = timedelta(minutes=30)
    """How long a build may be at work before it has failed."""
    ready_timeout: PositiveDuration = timedelta(minutes=5)
    """How long a started workspace may take until it is ready."""
    default_ttl: Limit = None
    """How long a start of a claimed workspace lasts, unless its claim says otherwise; None or 0 for no end."""
    drill: DrillEntry | None = None
    """When and how drills try the template out; None for no drills."""
    rollout: RolloutEntry | None = None
    """How a new version replaces pools; None for the defaults."""
    canary: CanaryEntry | None = None
    """How a share of each pool tries a new version first; None for no canary."""
    presets: list[PresetEntry] = Field(default_factory=list)

    _kept: Kept | None = PrivateAttr(default=None)

    @property
    def kept(self) -> Kept | None:
        """The source as a version keeps it; None when nobody has checked it yet."""
        return self._kept

    def set_kept(self, kept: Kept) -> None:
        """Set the source as a version keeps it."""
        self._kept = kept

    @model_validator(mode="after")
    def _can_try(self) -> TemplateEntry:
        rollout = self.rollout or RolloutEntry()
        if self.canary is None:
            return self
        if rollout.strategy is not Strategy.SURGE or not rollout.serve_old or rollout.max_surge in (0, "0%"):
            raise ValueError("canary needs a rollout with strategy surge, serve_old and a max_surge above 0")
        return self

    @model_validator(mode="after")
    def _drill_brings_what_presets_take(self) -> TemplateEntry:
        brings = self.drill is not None and self.drill.parameters is not None
        if brings and not any(preset.claim_parameters for preset in self.presets):
            raise ValueError("drill.parameters needs a preset with claim_parameters")
        return self

    def _stored_rollout(self) -> dict[str, Any] | None:
        if self.canary is None:
            return None if self.rollout is None else self.rollout.stored()
        return (self.rollout or RolloutEntry()).stored() | {"canary": self.canary.stored()}

    def content(self) -> VersionContent:
        kept = self._kept or Kept(self.source)
        return VersionContent(
            provisioner=self.provisioner,
            queue=self.queue,
            source=kept.source,
            files=kept.files.digest if kept.files is not None else None,
            parameters={preset.name: preset.parameters for preset in self.presets},
        )

    def policy(self) -> TemplatePolicy:
        """Return the settings that change in place."""
        return TemplatePolicy(
            default_ttl=self.default_ttl,
            build_timeout=self.build_timeout,
            ready_timeout=self.ready_timeout,
            drill=None if self.drill is None else self.drill.stored(),
            rollout=self._stored_rollout(),
        )


class LimitsEntry(Payload):
    """Limits of an organization. A limit that is left out is removed."""

    pool_members: Annotated[StrictInt, Field(ge=0, le=MEMBERS_MAX)] | None = None
    """Maximum number of prebuilds, of all its pools together, that run or are being made; None for no limit."""
    workspaces: LimitNumber | None = None
    """Maximum number of live workspaces of all its members together, including stopped ones; None for no limit."""
    workspaces_per_member: LimitNumber | None = None
    """Maximum number of live workspaces of each member; None for no limit."""
    claims_per_minute: LimitNumber | None = None
    """Maximum number of new claims within any minute; None for no limit."""

    def stored(self) -> dict[str, int] | None:
        """The limits as a JSON value; None without limits."""
        return self.model_dump(exclude_none=True) or None


class OrganizationEntry(Payload):
    """An organization with its members and templates."""

    name: Name
    """Unique in the deployment."""
    prebuilds: StrictBool | None = None
    """Whether the feature is on; None leaves it as it is, and a new organization has it on."""
    members: Annotated[list[Person], AfterValidator(_distinct_people)] = Field(default_factory=list)
    """The people who may own workspaces here. Names are compared without case."""
    members_exact: StrictBool | None = None
    """Whether everybody else is removed, and no claim adds anybody; None leaves it as it is and removes nobody."""
    limits: LimitsEntry | None = None
    """The organization's limits; None leaves them as they are, and `{}` removes them all."""
    templates: list[TemplateEntry] = Field(default_factory=list)

    @model_validator(mode="after")
    def _exact_members_are_listed(self) -> OrganizationEntry:
        if self.members_exact and "members" not in self.model_fields_set:
            raise ValueError("members_exact: true needs members; an empty list removes everybody")
        return self
