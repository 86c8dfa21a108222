"""What `apply` changes: organizations, members, templates and presets become what the file says."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import StoreUnavailable
from prebuilds.failures.database import is_deadlock
from prebuilds.planning.content import limit_changes
from prebuilds.provisioners import read_by_name
from prebuilds.store import apply as store
from prebuilds.store.events import record_event
from prebuilds.store.people import members_except, remove_members
from prebuilds.templates.applying_template import ApplyingTemplate, policy_changed
from prebuilds.templates.entries import OrganizationEntry, TemplateEntry
from prebuilds.templates.file import TemplateFile
from prebuilds.templates.result import ApplyResult
from prebuilds.vocabulary import PREBUILDS_USER

TRIES_MAX = 5


async def apply(engine: AsyncEngine, file: TemplateFile, *, actor: str, dry_run: bool = False) -> ApplyResult:
    """Make what is stored as *file* says, in one transaction; applied again, it changes nothing.

    Claims, hand-overs and passes lock people, presets and workspaces as it does, in orders of their own. So where
    PostgreSQL has it give way to one of them, it begins again.

    Policy (counts, expiry, schedule, limits) changes in place. Changed content (provisioner, queue, source, the set of
    presets, their parameters) becomes a new active version; content that was active before makes that version active
    again. A preset whose own content (provisioner, queue, source, its parameters) is the same in the new version keeps
    its id, its pool and its holds; one whose content was active earlier gets its holds reset. What the file has no
    entry for is left as it is: members are not removed, unless the file has `members_exact: true`; a deprecated
    template stays so. A preset that a template's entry does not list is not in the new version.

    Args:
        actor: Who applies, for the events.
        dry_run: Find out what would change, and change nothing.
    Raises:
        TemplateNotFound: A template was deleted in the meantime; nothing was changed.
        InvalidSource: A file that was not parsed by `parse_template_file` names files that cannot be kept.
        StoreUnavailable: It had to give way each time; nothing was changed.
    """
    await asyncio.to_thread(_read_sources, file)
    for _ in range(TRIES_MAX):
        try:
            return await _apply(engine, file, actor, dry_run=dry_run)
        except DBAPIError as error:
            if not is_deadlock(error):
                raise
    raise StoreUnavailable(
        "the database is too busy to apply the file, and nothing was changed", remedy="apply it again"
    )


def _read_sources(file: TemplateFile) -> None:
    """Keep the files of sources that were not checked, since somebody has made *file* without parsing a text."""
    for organization in file.organizations:
        for template in organization.templates:
            if template.kept is None:
                template.set_kept(read_by_name(template.provisioner, template.source))


async def _apply(engine: AsyncEngine, file: TemplateFile, actor: str, *, dry_run: bool) -> ApplyResult:
    async with engine.connect() as connection, connection.begin() as transaction:
        await store.lock_apply(connection)
        applying = _Applying(connection, actor)
        for organization in file.organizations:
            await applying.organization(organization)
        result = await applying.finish()
        if dry_run:
            await transaction.rollback()
    return result


@dataclass
class _Applying:
    """One run of `apply`, inside its transaction."""

    connection: AsyncConnection
    actor: str
    result: ApplyResult = field(default_factory=ApplyResult)
    organizations: list[str] = field(default_factory=list)
    """The names of the organizations in which something was changed."""
    templates: list[ApplyingTemplate] = field(default_factory=list)
    unlimited: list[UUID] = field(default_factory=list)
    """The organizations whose `claims_per_minute` was removed."""

    async def organization(self, entry: OrganizationEntry) -> None:
        before = self.result.change_count
        await self._organization(entry)
        if self.result.change_count > before:
            self.organizations.append(entry.name)

    async def _organization(self, entry: OrganizationEntry) -> None:
        label = f"organization {entry.name}"
        found = await store.find_organization(self.connection, entry.name)
        if found is None:
            enabled = entry.prebuilds is not False
            organization_id = await store.create_organization(self.connection, entry.name, enabled=enabled)
            if entry.limits is not None:
                await store.set_limits(self.connection, organization_id, entry.limits.stored())
            self.result.created.append(label)
        else:
            organization_id = found.id
            changes: dict[str, tuple[Any, Any]] = {}
            if entry.prebuilds not in (None, found.enabled):
                await store.switch_organization(self.connection, organization_id, enabled=not found.enabled)
                changes["prebuilds"] = (found.enabled, not found.enabled)
            if entry.limits is not None and entry.limits.stored() != found.limits:
                await store.set_limits(self.connection, organization_id, entry.limits.stored())
                limits = limit_changes(found.limits, entry.limits.stored())
                if limits.get("limits.claims_per_minute", (None, 1))[1] is None:
                    self.unlimited.append(organization_id)
                changes |= limits
            if changes:
                await self._policy_changed(label, changes)
                self.result.updated.append(label)
            else:
                self.result.unchanged.append(label)
        await self._members(organization_id, entry)
        for template in entry.templates:
            await self._template(organization_id, f"{entry.name}/{template.name}", template)

    async def finish(self) -> ApplyResult:
        """Make the writes that others wait for as late as possible, in the order of locks: presets, templates, recent
        claims, workspaces.

        Raises:
            TemplateNotFound: A template was deleted in the meantime.
        """
        for template in self.templates:
            await template.move_presets()
        for template in self.templates:
            await template.activate()
        for template in self.templates:
            await template.schedule_drills()
        for organization_id in self.unlimited:
            await store.forget_claims(self.connection, organization_id)
        for template in self.templates:
            await template.set_expiry()
        if self.result.changed:
            changes = self.result.model_dump(mode="json", include={"created", "updated", "versions"})
            data = changes | {"organizations": self.organizations}
            await record_event(self.connection, "applied", self.actor, data=data)
        return self.result

    async def _members(self, organization_id: UUID, entry: OrganizationEntry) -> None:
        created = await store.create_users(self.connection, entry.members)
        has_pool = any(preset.instances is not None for template in entry.templates for preset in template.presets)
        # The system user owns the pools, and who owns a workspace is a member of its organization.
        wanted = [*entry.members, *([PREBUILDS_USER] if has_pool else [])]
        added = await store.add_members(self.connection, organization_id, wanted)
        for name in wanted:
            if name in created:
                self.result.created.append(f"user {name}")
            label = f"member {entry.name}/{name}"
            if name in added:
                self.result.created.append(label)
            elif name != PREBUILDS_USER:
                self.result.unchanged.append(label)
        if entry.members_exact is not None:
            await self._exactly(organization_id, entry, exact=entry.members_exact)

    async def _exactly(self, organization_id: UUID, entry: OrganizationEntry, *, exact: bool) -> None:
        label = f"organization {entry.name}"
        if await store.set_members_exact(self.connection, organization_id, exact=exact):
            await self._policy_changed(label, {"members_exact": (not exact, exact)})
            if label in self.result.unchanged:
                self.result.unchanged.remove(label)
                self.result.updated.append(label)
        if exact:
            others = await members_except(self.connection, organization_id, entry.members)
            removed = await remove_members(self.connection, organization_id, others)
            for user in removed:
                await record_event(
                    self.connection, "member_removed", self.actor, data={"organization": entry.name, "user": user}
                )
            self.result.updated.extend(f"member {entry.name}/{user} (removed)" for user in removed)

    async def _template(self, organization_id: UUID, path: str, entry: TemplateEntry) -> None:
        found = await store.find_template(self.connection, organization_id, entry.name)
        template_id = found.id if found else await store.create_template(self.connection, organization_id, entry.name)
        template = ApplyingTemplate(self.connection, self.actor, self.result, path, entry, template_id, found)
        await template.record()
        self.templates.append(template)

    async def _policy_changed(self, label: str, changes: Mapping[str, tuple[Any, Any]]) -> None:
        await policy_changed(self.connection, self.actor, self.result, label, changes)
