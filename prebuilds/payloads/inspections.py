"""Inputs of the workflows that inspect a deployment: `LintPreset` and `ReconcileInventory`."""

from __future__ import annotations

from pydantic import Field

from prebuilds.payloads.base import Payload
from prebuilds.vocabulary import NAME_LENGTH_MAX, Text


class LintInput(Payload):
    """Input of `LintPreset`: the preset for which a claim is planned."""

    preset: Text = Field(min_length=1, max_length=3 * NAME_LENGTH_MAX + 2)
    """An id, or `organization/template/preset`."""


class InventoryInput(Payload):
    """Input of `ReconcileInventory`."""

    fix: bool = False
    """Whether the inventory acts on findings that it sees a second time; without it, it only reports."""
