"""Checks of an installation. They open what they need themselves, since it may be what is broken."""

from __future__ import annotations

from dataclasses import dataclass

from prebuilds.doctor import DoctorReport, examine
from prebuilds.settings import Settings


@dataclass(frozen=True, slots=True)
class DoctorOperations:
    settings: Settings | None = None
    """None reads the environment, and reports it when it cannot be read."""

    async def examine(self) -> DoctorReport:
        """Make every check; takes about ten seconds at most, and whatever goes wrong is in the report."""
        return await examine(self.settings)
