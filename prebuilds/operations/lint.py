"""A claim planned without being made. It needs Temporal alone."""

from __future__ import annotations

from dataclasses import dataclass

from temporalio.client import Client

from prebuilds.client import PrebuildsClient
from prebuilds.views import LintReport


@dataclass(frozen=True, slots=True)
class LintOperations:
    client: Client

    async def preset(self, preset: str) -> LintReport:
        """What a claim of *preset* (an id or a path) would replace: a claim of one ready prebuild is planned with
        made-up inputs, and not applied. Raises as `PrebuildsClient.lint_preset` does."""
        return await PrebuildsClient(self.client).lint_preset(preset)
