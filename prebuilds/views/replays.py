"""Results of `replay`."""

from __future__ import annotations

from pydantic import Field

from prebuilds.payloads import Payload


class Difference(Payload):
    """Where this release's code leaves a history."""

    event_id: int | None
    """The first event that the code does not give; None when no single event could be found."""
    event_type: str | None
    """Its type, such as `ActivityTaskScheduled`."""
    message: str
    """What the SDK says of it."""


class Replayed(Payload):
    """One history, replayed."""

    workflow_id: str
    run_id: str
    workflow_type: str
    events: int
    difference: Difference | None = Field(description="None when the code goes the history's way to its end.")


class ReplayReport(Payload):
    """All histories that were asked for, in that order."""

    ok: bool
    """Whether all of them replay."""
    histories: list[Replayed]
