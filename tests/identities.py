"""The deployment that tests of drivers work for."""

from __future__ import annotations

from typing import Any
from uuid import UUID

DEPLOYMENT = UUID("de910000-0000-4000-8000-000000000001")
EPOCH = UUID("e90c0000-0000-4000-8000-000000000001")
WHO: dict[str, Any] = {"deployment_id": DEPLOYMENT, "epoch": EPOCH}
"""Who asks, in a `Provision`."""
