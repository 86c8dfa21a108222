"""Linting: plan a claim of a preset without making it. Needs only Temporal."""

from __future__ import annotations

from dataclasses import dataclass

from temporalio.client import Client

from prebuilds.client import PrebuildsClient
from prebuilds.views import LintReport


@dataclass(frozen=True, slots=True)
class LintOperations:
    """Checks of presets that run a provisioner's plan."""

    client: Client

    async def preset(self, preset: str) -> LintReport:
        """Report which resources a claim of *preset* (an id or a path) would replace.

        A claim of one ready prebuild is planned with made-up inputs and is not applied.

        Raises:
            PrebuildsError: The errors of `PrebuildsClient.lint_preset`.
        """
        return await PrebuildsClient(self.client).lint_preset(preset)
