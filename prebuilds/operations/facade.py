"""All operations of a deployment in one object.

Each part is imported at its first use, so that a command loads only what it needs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from prebuilds.operations.context import Context

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from prebuilds.operations.builds import BuildOperations
    from prebuilds.operations.doctor import DoctorOperations
    from prebuilds.operations.drills import DrillOperations
    from prebuilds.operations.explain import ExplainOperations
    from prebuilds.operations.inventory import InventoryOperations
    from prebuilds.operations.jobs import JobOperations
    from prebuilds.operations.limits import LimitOperations
    from prebuilds.operations.lint import LintOperations
    from prebuilds.operations.logs import LogOperations
    from prebuilds.operations.loop import LoopOperations
    from prebuilds.operations.people import PeopleOperations
    from prebuilds.operations.pools import PoolOperations
    from prebuilds.operations.presets import PresetOperations
    from prebuilds.operations.resources import ResourceOperations
    from prebuilds.operations.rollouts import RolloutOperations
    from prebuilds.operations.sizes import SizeOperations
    from prebuilds.operations.status import StatusOperations
    from prebuilds.operations.system import SystemOperations
    from prebuilds.operations.templates import TemplateOperations
    from prebuilds.operations.tokens import TokenOperations
    from prebuilds.operations.workspaces import WorkspaceOperations


@dataclass(frozen=True, slots=True)
class Operations:
    """All operations of one deployment. Bad input raises a typed error before anything is written."""

    context: Context

    def on(self, engine: AsyncEngine) -> Operations:
        """Return the same operations on another engine; all their statements go through *engine*."""
        return Operations(replace(self.context, engine=engine))

    @property
    def builds(self) -> BuildOperations:
        from prebuilds.operations.builds import BuildOperations

        return BuildOperations(self.context.engine)

    @property
    def doctor(self) -> DoctorOperations:
        from prebuilds.operations.doctor import DoctorOperations

        return DoctorOperations(self.context.settings)

    @property
    def drills(self) -> DrillOperations:
        from prebuilds.operations.drills import DrillOperations

        return DrillOperations(self.context)

    @property
    def rollouts(self) -> RolloutOperations:
        from prebuilds.operations.rollouts import RolloutOperations

        return RolloutOperations(self.context)

    @property
    def explain(self) -> ExplainOperations:
        from prebuilds.operations.explain import ExplainOperations

        return ExplainOperations(self.context)

    @property
    def inventory(self) -> InventoryOperations:
        from prebuilds.operations.inventory import InventoryOperations

        return InventoryOperations(self.context.client)

    @property
    def jobs(self) -> JobOperations:
        from prebuilds.operations.jobs import JobOperations

        return JobOperations(self.context)

    @property
    def limits(self) -> LimitOperations:
        from prebuilds.operations.limits import LimitOperations

        return LimitOperations(self.context.engine)

    @property
    def lint(self) -> LintOperations:
        from prebuilds.operations.lint import LintOperations

        return LintOperations(self.context.client)

    @property
    def logs(self) -> LogOperations:
        from prebuilds.operations.logs import LogOperations

        return LogOperations(self.context.engine)

    @property
    def loop(self) -> LoopOperations:
        from prebuilds.operations.loop import LoopOperations

        return LoopOperations(self.context)

    @property
    def people(self) -> PeopleOperations:
        from prebuilds.operations.people import PeopleOperations

        return PeopleOperations(self.context)

    @property
    def pools(self) -> PoolOperations:
        from prebuilds.operations.pools import PoolOperations

        return PoolOperations(self.context)

    @property
    def presets(self) -> PresetOperations:
        from prebuilds.operations.presets import PresetOperations

        return PresetOperations(self.context)

    @property
    def resources(self) -> ResourceOperations:
        from prebuilds.operations.resources import ResourceOperations

        return ResourceOperations(self.context.engine)

    @property
    def sizes(self) -> SizeOperations:
        from prebuilds.operations.sizes import SizeOperations

        return SizeOperations(self.context)

    @property
    def status(self) -> StatusOperations:
        from prebuilds.operations.status import StatusOperations

        return StatusOperations(self.context)

    @property
    def system(self) -> SystemOperations:
        from prebuilds.operations.system import SystemOperations

        return SystemOperations(self.context)

    @property
    def templates(self) -> TemplateOperations:
        from prebuilds.operations.templates import TemplateOperations

        return TemplateOperations(self.context)

    @property
    def tokens(self) -> TokenOperations:
        from prebuilds.operations.tokens import TokenOperations

        return TokenOperations(self.context.engine)

    @property
    def workspaces(self) -> WorkspaceOperations:
        from prebuilds.operations.workspaces import WorkspaceOperations

        return WorkspaceOperations(self.context)
