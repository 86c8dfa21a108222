"""Names and ids of drills."""

from __future__ import annotations

import re
from typing import Literal
from uuid import UUID

DrillStage = Literal["claim", "build", "ready", "check", "release"]
"""A step of a drill: taking a prebuild, handing it over, waiting until it is ready, the template's check, releasing."""
DrillOutcome = Literal["succeeded", "failed", "skipped"]


_CLAIM_ID = re.compile(r"drill/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def drill_claim_id(drill_id: UUID) -> str:
    """Return the id of a drill's claim."""
    return f"drill/{drill_id}"


def is_drill_claim_id(claim_id: str) -> bool:
    """Return whether *claim_id* has the form of a drill's claim id, with which nobody else may claim."""
    return _CLAIM_ID.fullmatch(claim_id) is not None


def drill_workspace_name(drill_id: UUID) -> str:
    """Return the name of the workspace that a drill claims."""
    return f"drill-{drill_id.hex[:24]}"
