"""The entries of a template file: their keys, their defaults, and what each value may be.

An entry of a template or preset describes it completely: an optional key that is left out gets its default, even if the
entry was applied with another value before. Templates and organizations without an entry are left as they are. An
organization's `prebuilds` and `limits` are left as they are too when the key is missing, since the templates of one
organization may be spread over several files.
"""

from __future__ import annotations

import re
from collections import Counter
from datetime import timedelta
from functools import cache
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    StrictBool,
    StrictInt,
    WithJsonSchema,
    model_validator,
)

from prebuilds.payloads import Payload
from prebuilds.planning.content import PresetPolicy, TemplatePolicy, VersionContent
from prebuilds.planning.rollouts import Strategy
from prebuilds.planning.schedule import Window, check_cron
from prebuilds.provisioners.base import Kept
from prebuilds.templates.canary_entry import CanaryEntry
from prebuilds.templates.drill_entry import DrillEntry
from prebuilds.vocabulary import PROVISIONER_QUEUE, Duration, Name, Text, check_provisioner_queue
from prebuilds.vocabulary.owners import Person, owner_key
from prebuilds.vocabulary.plain_text import VALUES, check_plain

INSTANCES_MAX = 10_000
"""A higher count is more often a typing error than meant."""
MEMBERS_MAX = 1_000_000
COST_MAX = 1e9
PARAMETER_LENGTH_MAX = 8192
_PERCENTAGE = re.compile(r"(0|[1-9][0-9]?|100)%")
_PARAMETER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


def _parameter_name(value: str) -> str:
    if not _PARAMETER_NAME.fullmatch(value):
        raise ValueError("a parameter's name must be 1 to 64 letters, digits, underscores, dots and dashes")
    return value


def _parameter_value(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if not isinstance(value, str):
        raise ValueError("must be text, a number, true or false")
    if len(value) > PARAMETER_LENGTH_MAX:
        raise ValueError(f"must be at most {PARAMETER_LENGTH_MAX} characters")
    return check_plain(value, keep=VALUES)


def _distinct(values: list[str]) -> list[str]:
    repeated = sorted(value for value, count in Counter(values).items() if count > 1)
    if repeated:
        raise ValueError(f"has {', '.join(repeated)} more than once")
    return values


def _distinct_people(values: list[str]) -> list[str]:
    keys = [owner_key(value) for value in values]
    counted = Counter(keys)
    repeated = sorted({value for value, key in zip(values, keys, strict=True) if counted[key] > 1})
    if repeated:
        raise ValueError(f"has {', '.join(repeated)} more than once, as names are compared without case")
    return values


def _positive(value: timedelta) -> timedelta:
    if not value:
        raise ValueError("must be more than 0")
    return value


def _none_for_zero(value: timedelta | None) -> timedelta | None:
    return value or None


def _cron(value: str) -> str:
    check_cron(value)
    return " ".join(value.split())


def _amount(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= INSTANCES_MAX:
        return value
    if isinstance(value, str) and _PERCENTAGE.fullmatch(value):
        return value
    raise ValueError(f"must be a number from 0 to {INSTANCES_MAX}, or a percentage from 0% to 100%")


_time_zones = cache(available_timezones)


def _timezone(value: str) -> str:
    if value not in _time_zones():
        raise ValueError("must be the name of a time zone, such as Europe/Berlin or UTC")
    return value


Instances = Annotated[StrictInt, Field(ge=0, le=INSTANCES_MAX)]
Amount = Annotated[int | str, BeforeValidator(_amount), WithJsonSchema({"type": ["integer", "string"]})]
"""A number of prebuilds, or a percentage such as `25%`."""
ParameterName = Annotated[str, AfterValidator(_parameter_name)]
ParameterValue = Annotated[
    str, BeforeValidator(_parameter_value), WithJsonSchema({"type": ["string", "number", "boolean"]})
]
Timeout = Annotated[Duration, AfterValidator(_positive)]
Limit = Annotated[Duration | None, AfterValidator(_none_for_zero)]
"""A duration, or None for no limit; 0 means None too."""


class WindowEntry(Payload):
    """A time in which a preset keeps another number of prebuilds ready: one of `instances` and `min`."""

    cron: Annotated[str, AfterValidator(_cron)]
    """A cron expression of five fields. Its minute field names every minute (`*`), its days are 0 (Sunday) to 6."""
    instances: Instances | None = None
    """How many prebuilds are kept ready while the window lasts, whatever the target asks for; may be 0."""
    min: Instances | None = None
    """The least that are kept ready while the window lasts: more where the target, or `instances` of the preset, asks
    for more."""

    @model_validator(mode="after")
    def _has_one_count(self) -> WindowEntry:
        if (self.instances is None) == (self.min is None):
            raise ValueError("needs either instances or min")
        return self

    def window(self) -> Window:
        """The window, as the planner reads it."""
        if self.instances is not None:
            return Window(self.cron, self.instances)
        return Window(self.cron, self.min or 0, least=True)


class TargetEntry(Payload):
    """What a pool is to reach: one of `hit_rate` and `wait_p95`. Its size follows from its own demand."""

    hit_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The share of claims that find a prebuild ready, such as 0.99. A claim that finds none goes elsewhere."""
    wait_p95: Annotated[Duration, AfterValidator(_positive)] | None = None
    """The wait within which 19 of 20 claims are served, such as 5s. A claim that finds none ready waits."""
    min: Instances = 0
    """The smallest size."""
    max: Instances
    """The largest size."""
    max_idle: Annotated[float, Field(gt=0, le=INSTANCES_MAX)] | None = None
    """The most prebuilds that may be ready on average; None for no limit. It goes before what is to be reached."""
    mode: Literal["suggest", "act"] = "suggest"
    """`suggest` shows the size only; with `act` the pool follows it."""

    @model_validator(mode="after")
    def _is_one_target(self) -> TargetEntry:
        if (self.hit_rate is None) == (self.wait_p95 is None):
            raise ValueError("needs either hit_rate or wait_p95")
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self

    def stored(self) -> dict[str, Any]:
        """The target as a JSON value; `SizeTarget.of_json` reads it."""
        return {
            "hit_rate": self.hit_rate,
            "wait_p95_seconds": None if self.wait_p95 is None else self.wait_p95.total_seconds(),
            "min": self.min,
            "max": self.max,
            "max_idle": self.max_idle,
            "mode": self.mode,
        }


class StandbyEntry(Payload):
    """What a pool keeps beside its ready prebuilds."""

    paused: Instances = 0
    """Number of paused prebuilds to keep. They keep their files, cost less, and are ready again sooner than new ones.
    The template's driver must be able to pause."""


class PresetEntry(Payload):
    """A preset: a set of parameters with a policy."""

    name: Name
    """Unique in its template."""
    parameters: dict[ParameterName, ParameterValue] = Field(default_factory=dict)
    """What the provisioner is given, in placeholders or variables. A change replaces this preset's pool."""
    instances: Instances | None = None
    """How many prebuilds are kept ready; None for no pool."""
    expire_after: Limit = None
    """How long an unclaimed prebuild may wait before it is replaced; None or 0 for no limit."""
    default: StrictBool = False
    """Whether claims by template whose parameters fit no other preset get this one; it has no parameters then."""
    claim_parameters: Annotated[list[ParameterName], AfterValidator(_distinct)] = Field(default_factory=list)
    """The parameters that a claim may set; they reach the provisioner's claim step."""
    timezone: Annotated[str, AfterValidator(_timezone)] | None = None
    """The time zone of the schedule and of a target's hours of the week, such as Europe/Berlin. A schedule needs
    one."""
    schedule: list[WindowEntry] = Field(default_factory=list)
    """Windows with a count of their own. They must not overlap. They go before the target and `instances`."""
    ready_by: StrictBool = False
    """Whether a window's prebuilds are ready when it begins: their creations start one measured lead time early."""
    target: TargetEntry | None = None
    """What the pool is to reach. It needs `instances`, which is the size until one is known."""
    cost_per_hour: Annotated[float, Field(ge=0, le=COST_MAX)] | None = None
    """What one prebuild costs for an hour, in any currency; what sizes cost is then told in it."""
    standby: StandbyEntry = StandbyEntry()
    """Paused prebuilds to keep beside the ready ones. It needs `instances`, which may be 0."""
    max_concurrent: Annotated[StrictInt, Field(ge=1, le=INSTANCES_MAX)] | None = None
    """Maximum number of creations and deletions of the pool under way at a time; None for no limit."""

    @model_validator(mode="after")
    def _target_has_a_pool(self) -> PresetEntry:
        if self.target is not None and self.instances is None:
            raise ValueError("target needs instances, the size until one is known from demand")
        return self

    @model_validator(mode="after")
    def _windows_keep_to_the_target(self) -> PresetEntry:
        for index, window in enumerate(self.schedule):
            if self.target is not None and window.min is not None and window.min > self.target.max:
                raise ValueError(f"schedule[{index}].min {window.min} is above target.max {self.target.max}; raise max")
        return self

    @model_validator(mode="after")
    def _ready_by_has_windows(self) -> PresetEntry:
        if self.ready_by and not self.schedule:
            raise ValueError("ready_by needs a schedule, whose windows it is about")
        return self

    @model_validator(mode="after")
    def _standby_has_a_pool(self) -> PresetEntry:
        if self.standby.paused and self.instances is None:
            raise ValueError("standby needs instances, the count of ready prebuilds; it may be 0")
        return self

    def policy(self) -> PresetPolicy:
        """Return the settings that change in place."""
        return PresetPolicy(
            instances=self.instances,
            expire_after=self.expire_after,
            default=self.default,
            claim_parameters=tuple(sorted(self.claim_parameters)),
            timezone=self.timezone,
            schedule=tuple(entry.window().stored() for entry in self.schedule),
            target=None if self.target is None else self.target.stored(),
            ready_by=self.ready_by,
            cost_per_hour=self.cost_per_hour,
            max_concurrent=self.max_concurrent,
            standby=self.standby.paused,
        )


class RolloutEntry(Payload):
    """How a new version of the template replaces its pools."""

    strategy: Strategy = Strategy.SURGE
    """`surge` creates new prebuilds first, and removes old ones as new ones become ready; `recreate` removes all old
    ones at once."""
    max_surge: Amount = "25%"
    """Maximum number of prebuilds beyond a pool's count: a number, or a percentage, which is rounded up."""
    max_unavailable: Amount = 0
    """Maximum number of ready prebuilds missing from a pool's count: a number, or a percentage, which is rounded
    down."""
    serve_old: StrictBool = True
    """Whether claims by name get a prebuild of an older version while none of the new one is ready."""

    @model_validator(mode="after")
    def _can_replace(self) -> RolloutEntry:
        if self.max_surge in (0, "0%") and self.max_unavailable in (0, "0%"):
            raise ValueError("max_surge and max_unavailable cannot both be 0, since nothing could be replaced then")
        return self

    def stored(self) -> dict[str, Any]:
        """The policy as a JSON value; `RolloutPolicy.of_json` reads it."""
        return self.model_dump(mode="json")


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
    build_timeout: Timeout = timedelta(minutes=30)
    """How long a build may be at work before it has failed."""
    ready_timeout: Timeout = timedelta(minutes=5)
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


LimitNumber = Annotated[StrictInt, Field(ge=1, le=MEMBERS_MAX)]


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
