"""Inputs and results of the loop and of one preset's reconciliation."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import AwareDatetime, ConfigDict, Field

from prebuilds.payloads.base import Payload
from prebuilds.vocabulary import Timestamp


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
