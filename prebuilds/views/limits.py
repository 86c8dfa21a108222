"""The limits of organizations."""

from __future__ import annotations

from prebuilds.payloads import Payload


class LimitRow(Payload):
    """One limit of an organization, and how much of it is used."""

    organization: str
    limit: str
    """The limit's name in the template file, such as `pool_members`."""
    maximum: int
    used: int
    """How much counts toward the limit now; for `workspaces_per_member`, the workspaces of the member who has most."""

    @property
    def reached(self) -> bool:
        """Whether the limit is used up."""
        return self.used >= self.maximum


class LimitPage(Payload):
    """A page of the list of limits, by organization and name."""

    limits: list[LimitRow]
    next: str | None
    """The cursor to send as `after` for the next page; None when this is the last page."""
