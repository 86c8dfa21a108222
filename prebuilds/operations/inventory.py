"""What exists on the hosts, against what is recorded. It needs Temporal alone."""

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
"""A comparison that only looks may be running when one that acts is asked for; so may the next."""


@dataclass(frozen=True, slots=True)
class InventoryOperations:
    client: Client

    async def compare(self) -> InventoryReport:
        """Ask every host what exists, and change nothing. Joins a comparison that runs, also one that acts.

        Raises:
            StackUnreachable: Temporal does not answer, or no control worker is there.
        """
        return await self._run(fix=False)

    async def fix(self, actor: Actor) -> InventoryReport:
        """Ask every host, remove orphans and replace what has vanished, as far as a look before has seen them, too.

        Args:
            actor: Who asks; not recorded, since the comparison acts in the name of the deployment.
        Raises:
            StackUnreachable: Temporal does not answer, no control worker is there, or comparisons that only look keep
                running.
        """
        for _ in range(RUNS_MAX):
            if (report := await self._run(fix=True)).fix:
                return report
        raise StackUnreachable("others keep looking without acting", remedy="try again in a moment")

    async def _run(self, *, fix: bool) -> InventoryReport:
        run = await reached(start_inventory(self.client, fix=fix))
        return InventoryReport.model_validate(await while_served(self.client, result_of(run), "the inventory"))
