"""The statement that lists live workspaces, for each filter in a shape that an index answers.

It goes through the presets in the list's order, and reads a page's worth of each preset's workspaces by an index, until
the page is full. So neither released workspaces nor those of other presets are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from prebuilds.planning.policy import Reach
from prebuilds.store.reach import WITHIN_REACH, reach_values
from prebuilds.vocabulary import PREBUILDS_USER_ID
from prebuilds.vocabulary.owners import owner_key

# `vanished` is true if the owner was warned since the latest start, and the last inspection still found nothing
# running. `prebuilt` is a scalar subselect and not an EXISTS, which the planner would answer for all rows at once from
# all builds.
WORKSPACES = """
    SELECT w.id, w.name, owner.name AS owner, o.name AS organization, t.name AS template, w.preset_id, p.name AS preset,
           v.number AS version, w.latest_transition, w.latest_status, w.claimable_preset_id, w.owner_id, w.address,
           w.created_at, w.claimed_at, w.ttl, w.resources, w.host, w.autostart_schedule, w.next_start_at,
           w.next_action_at, w.lease, w.lease_until, w.quarantined_at, w.quarantine_reason, w.abandoned_at,
           coalesce((SELECT b.stage = 'create' FROM workspace_builds b WHERE b.workspace_id = w.id AND b.number = 1),
                    false) AS prebuilt,
           w.latest_transition = 'start' AND w.latest_status = 'succeeded' AND w.deleted_at IS NULL
             AND EXISTS (SELECT FROM inventory_sightings s
                          WHERE s.workspace_id = w.id AND s.finding = 'vanished' AND s.told_at > w.latest_ended_at)
             AS vanished
      FROM {workspaces} AS w JOIN users owner ON owner.id = w.owner_id JOIN organizations o ON o.id = w.organization_id
      JOIN templates t ON t.id = w.template_id JOIN template_versions v ON v.id = w.template_version_id
      LEFT JOIN presets p ON p.id = w.preset_id
"""
"""Workspaces with what people are shown of them; `workspaces` is a table or a subselect of workspaces."""

ORDER = ("after_organization", "after_template", "after_preset", "after_at", "after_id")
"""The values of a cursor: by these the list is ordered."""
_ORDERED = "ORDER BY o.name, o.template, o.preset, w.created_at, w.id"
_AFTER_PATH = "(o.name, t.name, p.name) >= (:after_organization, :after_template, :after_preset)"
_AFTER = f"(o.name, o.template, o.preset, w.created_at, w.id) > ({', '.join(f':{name}' for name in ORDER)})"
# Ids of owners, presets and organizations are found first, so that the planner knows that they are few.
_OWNED = "w.owner_id = (SELECT id FROM users WHERE key = :owner)"
_PREBUILT = f"w.owner_id = '{PREBUILDS_USER_ID}'"


def select_workspaces(
    owner: str | None,
    presets: Sequence[UUID] | None,
    prebuilt: bool,
    reach: Reach,
    limit: int,
    after: Sequence[Any] | None,
) -> tuple[str, dict[str, Any]]:
    """Return the statement for a page of live workspaces, in order, and its values.

    Args:
        owner: The owner's name; None for every owner.
        presets: The presets' ids; None for every preset.
        prebuilt: Only unclaimed workspaces.
        limit: The most workspaces.
        after: The values of `ORDER` of the workspace that these follow; None to begin with the first one.
    """
    of_preset, of_workspace = ["TRUE"], ["w.deleted_at IS NULL"]
    if owner is None and reach.all == reach.people == frozenset():
        owner = reach.user
    if owner is not None:
        of_workspace.append(_OWNED)
    if prebuilt:
        of_workspace.append(_PREBUILT)
    if presets is not None:
        of_preset.append("p.id = ANY(CAST(:presets AS uuid[]))")
    if reach.all is not None:
        of_workspace.append(WITHIN_REACH)
        if reach.people == reach.own == frozenset():
            of_preset.append("o.name = ANY(CAST(:reach_all AS text[]))")
    if after is not None:
        of_preset.append(_AFTER_PATH)
        of_workspace.append(_AFTER)
    paths = f"""
        SELECT p.id AS preset_id, o.name, t.name AS template, p.name AS preset
          FROM presets p JOIN templates t ON t.id = p.template_id JOIN organizations o ON o.id = t.organization_id
         WHERE {" AND ".join(of_preset)} ORDER BY o.name, t.name, p.name
    """
    found = " AND ".join(of_workspace)
    if owner is not None:  # one person's are few, of whatever preset
        page = f"""
            SELECT w.* FROM workspaces w JOIN users owner ON owner.id = w.owner_id JOIN ({paths}) AS o USING (preset_id)
             WHERE {found} {_ORDERED} LIMIT {int(limit)}
        """
    else:
        page = f"""
            SELECT w.* FROM ({paths}) AS o CROSS JOIN LATERAL (
                   SELECT w.* FROM workspaces w JOIN users owner ON owner.id = w.owner_id
                    WHERE w.preset_id = o.preset_id AND {found}
                    ORDER BY w.created_at, w.id LIMIT {int(limit)}) AS w
             {_ORDERED} LIMIT {int(limit)}
        """
    listed = WORKSPACES.format(workspaces=f"({page})")
    values: dict[str, Any] = {
        **{"owner": None if owner is None else owner_key(owner), "presets": presets},
        **(dict(zip(ORDER, after, strict=True)) if after is not None else {}),
        **reach_values(reach),
    }
    statement = f"{listed} ORDER BY o.name, t.name, p.name, w.created_at, w.id"
    return statement, {name: value for name, value in values.items() if f":{name}" in statement}
