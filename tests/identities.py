"""The deployment that tests of drivers work for."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from prebuilds.provisioners.base import InventoryItem, Provision

DEPLOYMENT = UUID("de910000-0000-4000-8000-000000000001")
EPOCH = UUID("e90c0000-0000-4000-8000-000000000001")
WHO: dict[str, Any] = {"deployment_id": DEPLOYMENT, "epoch": EPOCH}
"""Who asks, in a `Provision`."""


def knowing(wanted: Provision, item: InventoryItem) -> Provision:
    """Return *wanted* as of the claim whose mark the object carries; only that claim may remove it."""
    if item.claimed_by is None:
        return wanted
    claim = {"owner": item.claimed_by, "claimed": True, "claim_id": item.claim_id}
    return wanted.model_copy(update=claim)
