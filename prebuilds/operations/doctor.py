"""Checks of an installation. They open their own connections, because a connection may be what is broken."""

from __future__ import annotations

from dataclasses import dataclass

from prebuilds.doctor import DoctorReport, examine
from prebuilds.settings import Settings


@dataclass(frozen=True, slots=True)
class DoctorOperations:
    """The operation behind `prebuilds doctor`."""

    settings: Settings | None = None
    """None reads the environment; a setting that cannot be read then is a finding of the report."""

    async def examine(self, *, trials: bool = True) -> DoctorReport:
        """Run every check. Takes about ten seconds at most; all failures are in the report.

        Args:
            trials: Also run the checks that start workflows; False for who examines again and again.
        """
        return await examine(self.settings, trials=trials)
