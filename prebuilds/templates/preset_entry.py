"""The entry of a preset: its windows, its target, its standby and its other settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictBool, StrictInt, model_validator

from prebuilds.payloads import Payload
from prebuilds.planning.content import PresetPolicy
from prebuilds.planning.schedule import Window, check_cron
from prebuilds.templates.values import (
    INSTANCES_MAX,
    Instances,
    Limit,
    ParameterName,
    ParameterValue,
    PositiveDuration,
    TimeZone,
    distinct,
)
from prebuilds.vocabulary import Name

COST_MAX = 1e9


def _cron(value: str) -> str:
    check_cron(value)
    return " ".join(value.split())


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
    """A pool's target: either `hit_rate` or `wait_p95`. The pool's size follows from its own demand."""

    hit_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The share of claims that find a prebuild ready, such as 0.99. A claim that finds none goes elsewhere."""
    wait_p95: PositiveDuration | None = None
    """The wait within which 19 of 20 claims are served, such as 5s. A claim that finds none ready waits."""
    min: Instances = 0
    """The smallest size."""
    max: Instances
    """The largest size."""
    max_idle: Annotated[float, Field(gt=0, le=INSTANCES_MAX)] | None = None
    """The most prebuilds that may be ready on average; None for no limit. It goes before what is to be reached."""
    max_paused: Annotated[Instances, Field(ge=1)] | None = None
    """The most paused prebuilds. Then their number, too, is chosen, where a promotion was measured; None: it is
    `standby.paused`."""
    paused_cost: Annotated[float, Field(ge=0, le=1)] | None = None
    """What a paused prebuild costs, as a share of a ready one; None: 0.1. It needs `max_paused`."""
    mode: Literal["suggest", "act"] = "suggest"
    """`suggest` shows the size only; with `act` the pool follows it."""

    @model_validator(mode="after")
    def _is_one_target(self) -> TargetEntry:
        if (self.hit_rate is None) == (self.wait_p95 is None):
            raise ValueError("needs either hit_rate or wait_p95")
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        if self.paused_cost is not None and self.max_paused is None:
            raise ValueError("paused_cost needs max_paused, the most paused prebuilds")
        return self

    def stored(self) -> dict[str, Any]:
        """The target as a JSON value; `SizeTarget.of_json` reads it. Settings of paused prebuilds are left out where
        none are chosen, as in targets of earlier releases."""
        paused = {"max_paused": self.max_paused, "paused_cost": self.paused_cost}
        return {name: value for name, value in paused.items() if value is not None} | {
            "hit_rate": self.hit_rate,
            "wait_p95_seconds": None if self.wait_p95 is None else self.wait_p95.total_seconds(),
            "min": self.min,
            "max": self.max,
            "max_idle": self.max_idle,
            "mode": self.mode,
        }


class StandbyEntry(Payload):
    """The prebuilds that a pool keeps beside its ready ones."""

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
    claim_parameters: Annotated[list[ParameterName], AfterValidator(distinct)] = Field(default_factory=list)
    """The parameters that a claim may set; they reach the provisioner's claim step."""
    timezone: TimeZone | None = None
    """The time zone of the schedule and of a target's hours of the week, such as Europe/Berlin. A schedule needs
    one."""
    schedule: list[WindowEntry] = Field(default_factory=list)
    """Windows with a count of their own. They must not overlap. They go before the target and `instances`."""
    ready_by: StrictBool = False
    """Whether a window's prebuilds are ready when it begins: their creations start one measured lead time early."""
    target: TargetEntry | None = None
    """The pool's target. It needs `instances`, which is the size until another one is known."""
    cost_per_hour: Annotated[float, Field(ge=0, le=COST_MAX)] | None = None
    """Cost of one prebuild per hour, in any currency; `prebuilds size` then shows costs in it."""
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

    @model_validator(mode="after")
    def _max_paused_has_a_standby(self) -> PresetEntry:
        most = None if self.target is None else self.target.max_paused
        if most is not None and not 1 <= self.standby.paused <= most:
            raise ValueError(
                f"target.max_paused {most} needs standby.paused from 1 to {most}: how many are paused until a promotion"
                " was measured and a number is chosen"
            )
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
