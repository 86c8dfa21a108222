"""Inputs and results of the loop and of one preset's reconciliation."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import AwareDatetime, ConfigDict, Field

from prebuilds.payloads.base import ONLY_STANDBY, Payload
from prebuilds.vocabulary import Timestamp


class SeenEvent(Payload):
    """The newest database event that a witness outside the database has seen, with the epoch at that time."""

    epoch: UUID
    event: int
    at: AwareDatetime


class OrchestratorCarried(Payload):
    """The loop's state that survives continue-as-new."""

    started_at: AwareDatetime
    passes: int = 0
    stop_cause: str | None = None
    stopped_by: str | None = None
    wanted_all: bool = False
    wanted_presets: list[str] = Field(default_factory=list)
    pending_max: int | None = None
    next_pass_at: AwareDatetime | None = None
    ignored: list[str] = Field(default_factory=list)
    seen: SeenEvent | None = None
    """The newest event that the last pass has seen. A restored database lacks it."""


class OrchestratorInput(Payload):
    """Input of `PrebuildsOrchestrator`. All fields are optional; `carried` comes from the previous run."""

    # Unknown keys are ignored: an option of a newer client must not fail the loop.
    model_config = ConfigDict(extra="ignore", frozen=True)

    interval_seconds: float | None = Field(default=None, gt=0, le=86_400)
    drain_timeout_seconds: float = Field(default=60, ge=0, le=3600)
    max_parallel_presets: int = Field(default=20, ge=1, le=500)
    loop_number: int | None = None
    """The number that the database gave this start; None for a loop that somebody started by the `temporal` command."""
    carried: OrchestratorCarried | None = None


class OrchestratorResult(Payload):
    """Result of `PrebuildsOrchestrator`."""

    status: Literal["stopped"] = "stopped"
    cause: str
    passes: int
    started_at: Timestamp
    stopped_at: Timestamp


class StopAnswer(Payload):
    """Answer of the update `stop`."""

    cause: str
    """The first cause that was given; later ones are dropped."""
    already_stopping: bool
    """Whether another stop came first."""


class OrchestratorStatus(Payload):
    """Answer of the orchestrator's query `status`."""

    state: Literal["running", "draining"]
    cause: str | None
    passes: int
    started_at: Timestamp
    last_pass_at: Timestamp | None
    next_pass_at: Timestamp | None
    interval_seconds: float
    reconciling: list[str]
    """Ids of presets whose `ReconcilePreset` is running now."""
    waiting: list[str]
    """Ids of presets that wait for their turn."""
    ignored: list[str]
    """The newest signals that were not understood, such as one with a mistyped name."""
    ignored_count: int = 0
    """How many signals were not understood in this run."""


class ReconcilePresetInput(Payload):
    """Input of `ReconcilePreset`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    preset_id: UUID
    pending_max: int | None = None
    """The most creations that the preset may have pending, its share of the capacity; None for no limit."""


class ReconcilePresetResult(Payload):
    """Result of `ReconcilePreset`: counts of prebuilds, by what was recorded for them."""

    created: int = 0
    deleted: int = 0
    canceled: int = 0
    moved: int = ONLY_STANDBY
    """Prebuilds that are being paused, or resumed."""
    held: str | None = None
    """Why creation is withheld; None when it is not."""
    lost_races: int = 0
    """Planned changes that were not made, because the pool changed after the plan or a later pass came first."""
    errors: list[str] = Field(default_factory=list)
    """One message for each step that failed."""
    more: bool = False
    """A limit has cut the plan short: the preset needs another pass at once."""
