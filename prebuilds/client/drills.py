"""The client's methods for drills: start, list and show them."""

from __future__ import annotations

from uuid import UUID

from prebuilds.client.base import TemporalPart
from prebuilds.payloads import OperatorRequest, parse_input
from prebuilds.views import DrillPage, DrillRow


class DrillsClient(TemporalPart):
    """The methods of `PrebuildsClient` for drills."""

    async def run_drill(self, target: str, by: str = "operator") -> DrillRow:
        """Start a drill now; `show_drill` returns its later state. While a drill of the same target that somebody has
        requested runs, return that one.

        Args:
            target: `organization/template`, whose presets take turns, or `organization/template/preset`.
        Raises:
            InvalidInput: *target* is no such path.
            TemplateNotFound, PresetNotFound: There is no such template or preset.
        """
        request = OperatorRequest(action="run_drill", target=target, by=by)
        return DrillRow.model_validate(await self._operate(request))

    async def list_drills(
        self, template: str | None = None, *, limit: int | None = None, after: str | None = None
    ) -> DrillPage:
        """List one page of the drills, newest first.

        Args:
            template: Only those of this template, by id or `organization/template`; None for all.
            limit: The most rows, at most 50 over Temporal; None for as many as the deployment gives at once.
            after: The `next` of the previous page; None for the first page.
        """
        request = {"action": "list_drills", "template": template, "limit": limit, "after": after}
        return DrillPage.model_validate(await self._operate(parse_input(OperatorRequest, request, "request")))

    async def show_drill(self, drill: UUID) -> DrillRow:
        """Read one drill.

        Raises:
            DrillNotFound: There is no such drill.
        """
        return DrillRow.model_validate(await self._operate(OperatorRequest(action="show_drill", drill=drill)))
