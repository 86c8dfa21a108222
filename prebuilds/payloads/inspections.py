"""Inputs of the workflows that inspect a deployment: `LintPreset` and `ReconcileInventory`."""

from __future__ import annotations

from pydantic import Field

from prebuilds.payloads.base import Payload
from prebuilds.vocabulary import NAME_LENGTH_MAX, Text


class LintInput(Payload):
    """Which preset `LintPreset` plans a claim of."""

    preset: Text = Field(min_length=1, max_length=3 * NAME_LENGTH_MAX + 2)
    """An id, or `organization/template/preset`."""


class InventoryInput(Payload):
    """How `ReconcileInventory` runs."""

    fix: bool = False
    """Whether it may act on what it finds a second time; otherwise it only reports."""
