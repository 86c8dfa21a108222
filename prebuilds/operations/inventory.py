"""Comparisons of what exists on the hosts with what is recorded. They need Temporal alone."""

from __future__ import annotations

from dataclasses import dataclass

from temporalio.client import Client

from prebuilds.api import StackUnreachable
from prebuilds.background.relay import start_inventory
from prebuilds.temporal.connecting import reached, result_of
from prebuilds.temporal.waiting import while_served
from prebuilds.views import InventoryReport
from prebuilds.vocabulary.actors import Actor

RUNS_MAX = 3
"""Comparisons that `fix` joins at most. One that does not act may run when `fix` is called, and so may the next."""


@dataclass(frozen=True, slots=True)
class InventoryOperations:
    """Starts comparisons, or joins the one that runs."""

    client: Client

    async def compare(self) -> InventoryReport:
        """Compare, and change nothing. Joins a comparison that runs, even one that acts.

        Raises:
            StackUnreachable: Temporal does not answer, or no control worker runs.
        """
        return await self._run(fix=False)

    async def fix(self, actor: Actor) -> InventoryReport:
        """Compare, and act on each finding that an earlier comparison has seen, too: remove orphans, replace what has
        vanished.

        Args:
            actor: Who asks. It is not recorded, since the comparison acts in the name of the deployment.
        Raises:
            StackUnreachable: Temporal does not answer, no control worker runs, or comparisons that do not act keep
                running.
        """
        for _ in range(RUNS_MAX):
            report = await self._run(fix=True)
            if report.fix:
                return report
        raise StackUnreachable("inventories without --fix keep running", remedy="try again in a moment")

    async def _run(self, *, fix: bool) -> InventoryReport:
        run = await reached(start_inventory(self.client, fix=fix))
        return InventoryReport.model_validate(await while_served(self.client, result_of(run), "the inventory"))
