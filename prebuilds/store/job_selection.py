"""The statement that lists builds as jobs, for each filter in a shape that an index answers.

However many builds there are, it reads about as many rows as it returns. So a filter stands in the statement only when
it is given, statuses stand there literally, since partial indexes need that, and so does the limit: with a parameter in
its place, PostgreSQL plans for a tenth of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from prebuilds.planning.policy import Reach
from prebuilds.store.reach import WITHIN_REACH, reach_values
from prebuilds.views import JobFilter
from prebuilds.vocabulary import BuildStatus
from prebuilds.vocabulary.owners import owner_key

JOBS = """
    SELECT b.id AS build_id, b.workspace_id, b.preset_id, b.transition, b.stage, b.status, u.name AS initiator,
           b.initiator_id, v.queue, w.host, b.created_at, b.started_at, b.completed_at, b.error, b.number,
           owner.name || '/' || w.name AS workspace, o.name || '/' || t.name || '/' || p.name AS preset
      FROM {builds} AS b JOIN users u ON u.id = b.initiator_id JOIN workspaces w ON w.id = b.workspace_id
      JOIN template_versions v ON v.id = b.template_version_id JOIN users owner ON owner.id = w.owner_id
      JOIN templates t ON t.id = v.template_id JOIN organizations o ON o.id = t.organization_id
      LEFT JOIN presets p ON p.id = b.preset_id
"""
"""Builds with what people are shown of them; `builds` is a table or a subselect of builds."""

_UNFINISHED = (BuildStatus.PENDING, BuildStatus.RUNNING, BuildStatus.CANCELING)
_ENDED_BADLY = (BuildStatus.FAILED, BuildStatus.CANCELED)
_PARTS = (_UNFINISHED, _ENDED_BADLY, (BuildStatus.SUCCEEDED,))
"""The statuses that an index has together. Of those that none has, most builds are."""

_INITIATOR = "b.initiator_id = (SELECT id FROM users WHERE key = :initiator)"
_AFTER = "b.created_at <= :after_at AND (b.created_at < :after_at OR b.id > :after_id)"
_ORDER = "ORDER BY b.created_at DESC, b.id"
# The builds of an organization are selected by its versions: an index finds the newest builds of each version.
_VERSIONS = "(SELECT id FROM template_versions WHERE template_id = ANY(CAST(:templates AS uuid[]))) AS versions"
_VERSIONS_WITHIN = """
    (SELECT v.id FROM template_versions v JOIN templates t ON t.id = v.template_id
       JOIN organizations o ON o.id = t.organization_id
      WHERE o.name = ANY(CAST(:reach_all AS text[]))) AS versions
"""
_WITHIN = f"""
    EXISTS (SELECT FROM workspaces w JOIN users owner ON owner.id = w.owner_id
              JOIN organizations o ON o.id = w.organization_id WHERE w.id = b.workspace_id AND {WITHIN_REACH})
"""
_OWN_ALONE = """
    b.workspace_id = ANY(ARRAY(SELECT w.id FROM users u JOIN workspaces w ON w.owner_id = u.id AND w.deleted_at IS NULL
                                WHERE u.key = :reach_user
                                UNION ALL
                               SELECT w.id FROM users u
                                 JOIN workspaces w ON w.owner_id = u.id AND w.deleted_at IS NOT NULL
                                WHERE u.key = :reach_user))
"""


def select_jobs(
    wanted: JobFilter, templates: Sequence[UUID] | None, reach: Reach, limit: int, after: Sequence[Any] | None
) -> tuple[str, dict[str, Any]]:
    """Return the statement for the newest builds that match, without their order, and its values.

    Args:
        templates: The templates that the filter names; None for all.
        limit: The most builds.
        after: The time and the id of the job that these follow; None to begin with the newest.
    """
    parts = [
        _select_part(statuses, wanted, templates is not None, reach, limit, after is not None)
        for statuses in _statuses_together(wanted.status)
    ]
    every = " UNION ALL ".join(f"({part})" for part in parts)
    newest = f"(SELECT * FROM ({every}) AS b {_ORDER} LIMIT {int(limit)})"
    values: dict[str, Any] = {
        **{"initiator": None if wanted.initiator is None else owner_key(wanted.initiator), "templates": templates},
        **(dict(zip(("after_at", "after_id"), after, strict=True)) if after is not None else {}),
        **reach_values(reach),
    }
    statement = JOBS.format(builds=newest)
    return statement, {name: value for name, value in values.items() if f":{name}" in statement}


def _statuses_together(wanted: Sequence[BuildStatus]) -> list[list[BuildStatus]]:
    """Split statuses by the index that has them; one empty list for every status."""
    if not wanted or set(wanted) == set(BuildStatus):
        return [[]]
    return [found for part in _PARTS if (found := [status for status in part if status in wanted])]


def _select_part(
    statuses: Sequence[BuildStatus], wanted: JobFilter, by_template: bool, reach: Reach, limit: int, later: bool
) -> str:
    """Select the newest builds of some statuses, which an index has together; none means every status."""
    conditions = []
    if statuses:
        listed = ", ".join(f"'{status.value}'" for status in statuses)
        conditions.append(f"b.status IN ({listed})")
    if wanted.initiator is not None:
        conditions.append(_INITIATOR)
    if later:
        conditions.append(_AFTER)
    versions = _VERSIONS if by_template else None
    if reach.all is not None:
        nobodys = reach.people == reach.own == frozenset()
        if nobodys and versions is None:
            versions = _VERSIONS_WITHIN
        else:
            conditions.append(_WITHIN)
        if not reach.all and reach.people == frozenset() and not nobodys:
            conditions.append(_OWN_ALONE)
    few = bool(statuses) and BuildStatus.SUCCEEDED not in statuses
    if versions is None or few:
        if versions is not None:
            conditions.append(f"b.template_version_id IN (SELECT versions.id FROM {versions})")
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        return f"SELECT b.* FROM workspace_builds b {where} {_ORDER} LIMIT {int(limit)}"
    where = " AND ".join(["b.template_version_id = versions.id", *conditions])
    return f"""
        SELECT b.* FROM {versions}, LATERAL (
               SELECT b.* FROM workspace_builds b WHERE {where} {_ORDER} LIMIT {int(limit)}) AS b
    """
