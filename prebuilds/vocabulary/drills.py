"""The words of drills."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

DrillStage = Literal["claim", "build", "ready", "check", "release"]
"""A step of a drill: taking a prebuild, handing it over, waiting until it is ready, the template's check, releasing."""
DrillOutcome = Literal["succeeded", "failed", "skipped"]


def drill_claim_id(drill_id: UUID) -> str:
    """Return the id of a drill's claim."""
    return f"drill/{drill_id}"


def drill_workspace_name(drill_id: UUID) -> str:
    """Return the name of the workspace that a drill claims."""
    return f"drill-{drill_id.hex[:24]}"
