"""What `apply` changes: organizations, members, templates and presets become what the file says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from pydantic import Field
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds import provisioners
from prebuilds.api import StoreUnavailable, TemplateNotFound
from prebuilds.payloads import Payload
from prebuilds.planning.content import VersionContent, content_changes, policy_changes, preset_id
from prebuilds.store import templates as store
from prebuilds.store.engine import gave_way
from prebuilds.store.events import record_event, record_for_each
from prebuilds.store.people import members_but, remove_members
from prebuilds.templates.file import OrganizationEntry, TemplateEntry, TemplateFile
from prebuilds.vocabulary import PREBUILDS_USER

TRIES_MAX = 5


class ActivatedVersion(Payload):
    """A template version that became the active one: a new one, or an earlier one again."""

    template: str
    """`organization/template`."""
    version: int
    id: UUID


class AppliedChange(Payload):
    """One field that is another now."""

    what: str
    """As in `ApplyResult`: `preset acme/python/small`."""
    field: str
    """Of the file; a duration's ends in `_seconds`."""
    old: Any = None
    """What it was; null for nothing."""
    new: Any = None


class ReplacedPrebuilds(Payload):
    """Prebuilds that the loop replaces, since their preset's content is another now."""

    preset: str
    """`organization/template/preset`."""
    prebuilds: int


class ApplyResult(Payload):
    """What changed, as readable paths in the file's order: `organization acme`, `user alice`, `member acme/alice`,
    `template acme/python`, `preset acme/python/small`; a preset that is not in the new version, and a member whom the
    file says is none any more, end in `(removed)`."""

    created: list[str] = Field(default_factory=list)
    updated: list[str] = Field(default_factory=list)
    unchanged: list[str] = Field(default_factory=list)
    versions: list[ActivatedVersion] = Field(default_factory=list)
    changes: list[AppliedChange] = Field(default_factory=list)
    """What is another now of that which was there before, old and new, in the file's order."""
    replaced: list[ReplacedPrebuilds] = Field(default_factory=list)
    """Of presets with prebuilds that now belong to a version which is not the active one."""

    @property
    def change_count(self) -> int:
        return len(self.created) + len(self.updated) + len(self.versions)

    @property
    def changed(self) -> bool:
        return self.change_count > 0


async def apply(engine: AsyncEngine, file: TemplateFile, *, actor: str, dry_run: bool = False) -> ApplyResult:
    """Make what is stored as *file* says, in one transaction; applied again, it changes nothing.

    Claims, hand-overs and passes lock people, presets and workspaces as it does, in orders of their own. So where
    PostgreSQL has it give way to one of them, it begins again.

    Policy (counts, expiry, schedule, limits) changes in place. Changed content (provisioner, queue, source, the set of
    presets, their parameters) becomes a new active version; content that was active before makes that version active
    again, with its holds reset. What the file has no entry for is left as it is: members are not removed, unless the
    file has `members_exact: true`; a deprecated template stays so. A preset that a template's entry does not list is
    not in the new version.

    Args:
        actor: Who applies, for the events.
        dry_run: Find out what would change, and change nothing.
    Raises:
        TemplateNotFound: A template was deleted in the meantime; nothing was changed.
        StoreUnavailable: It had to give way each time; nothing was changed.
    """
    for _ in range(TRIES_MAX):
        try:
            return await _apply(engine, file, actor, dry_run=dry_run)
        except DBAPIError as error:
            if not gave_way(error):
                raise
    raise StoreUnavailable("the database is too busy to apply the file, and nothing was changed; apply it again")


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
    """Those in which something was changed, by name."""
    expiry: dict[UUID, timedelta | None] = field(default_factory=dict)
    """Pools whose prebuilds get another expiry, at the end."""

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
            self.result.created.append(label)
        else:
            organization_id, enabled = found
            if entry.prebuilds not in (None, enabled):
                await store.switch_organization(self.connection, organization_id, enabled=not enabled)
                await self._policy_changed(label, {"prebuilds": (enabled, not enabled)})
                self.result.updated.append(label)
            else:
                self.result.unchanged.append(label)
        await self._members(organization_id, entry)
        for template in entry.templates:
            await self._template(organization_id, f"{entry.name}/{template.name}", template)

    async def finish(self) -> ApplyResult:
        for preset, expire_after in self.expiry.items():
            await store.set_expiry(self.connection, preset, expire_after)
        if self.result.changed:
            told = self.result.model_dump(mode="json", include={"created", "updated", "versions"})
            data = told | {"organizations": self.organizations}
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
            others = await members_but(self.connection, organization_id, entry.members)
            removed = await remove_members(self.connection, organization_id, others)
            for user in removed:
                await record_event(
                    self.connection, "member_removed", self.actor, data={"organization": entry.name, "user": user}
                )
            self.result.updated.extend(f"member {entry.name}/{user} (removed)" for user in removed)

    async def _template(self, organization_id: UUID, path: str, entry: TemplateEntry) -> None:
        found = await store.find_template(self.connection, organization_id, entry.name)
        template_id = found.id if found else await store.create_template(self.connection, organization_id, entry.name)
        content, policy = entry.content(), entry.policy()
        version_id = content.version_id(template_id)
        replaced = found.active_version_id if found else None
        activates = replaced != version_id
        changes = policy_changes(found.policy, policy) if found else {}

        if found is None:
            self.result.created.append(f"template {path}")
        elif activates or changes:
            self.result.updated.append(f"template {path}")
        else:
            self.result.unchanged.append(f"template {path}")
        number, is_new = await store.ensure_version(
            self.connection,
            template_id,
            version_id,
            content,
            hands_over=provisioners.hands_over(entry.provisioner, entry.source),
        )
        await self._presets(path, entry, version_id, replaced)
        if activates and replaced is not None:
            await self._content_changed(path, content, replaced)
        if activates:
            if not is_new:
                await store.reset_holds(self.connection, version_id)
            version = ActivatedVersion(template=path, version=number, id=version_id)
            self.result.versions.append(version)
            await self._version_activated(version, entry, found.active_number if found else None, is_new)
        if changes:
            await self._policy_changed(f"template {path}", changes)
        if activates or changes:
            done = await store.update_template(self.connection, template_id, policy, version_id)
            if not done:
                raise TemplateNotFound(f"template {path} was deleted meanwhile; apply again to make it anew")

    async def _presets(self, path: str, entry: TemplateEntry, version_id: UUID, replaced: UUID | None) -> None:
        """Set each preset's policy; what people are told compares with the preset of that name active so far."""
        stored = await store.read_policies(self.connection, version_id)
        active = await store.read_policies(self.connection, replaced) if replaced else {}
        await store.set_policies(
            self.connection,
            {
                preset_id(version_id, preset.name): preset.policy()
                for preset in entry.presets
                if stored[preset.name] != preset.policy()
            },
        )
        for preset in entry.presets:
            id_, label, policy = preset_id(version_id, preset.name), f"preset {path}/{preset.name}", preset.policy()
            if stored[preset.name].expire_after != policy.expire_after:
                self.expiry[id_] = policy.expire_after
            known = active.get(preset.name)
            changes = policy_changes(known, policy) if known else {}
            if changes:
                await self._policy_changed(label, changes, preset=id_)
            if known is None:
                self.result.created.append(label)
            elif changes or replaced != version_id:
                self.result.updated.append(label)
            else:
                self.result.unchanged.append(label)
        gone = active.keys() - {preset.name for preset in entry.presets}
        self.result.updated.extend(f"preset {path}/{name} (removed)" for name in sorted(gone))

    async def _version_activated(
        self, version: ActivatedVersion, entry: TemplateEntry, replaced: int | None, is_new: bool
    ) -> None:
        data = {**version.model_dump(mode="json"), "replaces": replaced, "new": is_new}
        presets = [preset_id(version.id, preset.name) for preset in entry.presets]
        if presets:
            await record_for_each(self.connection, "version_activated", self.actor, presets, data)
        else:
            await record_event(self.connection, "version_activated", self.actor, data=data)

    async def _content_changed(self, path: str, content: VersionContent, replaced: UUID) -> None:
        """Tell what a provisioner sees otherwise than before, and how many prebuilds are replaced for it."""
        before = await store.read_content(self.connection, replaced)
        for what, name, old, new in content_changes(before, content):
            label = f"template {path}" if what is None else f"preset {path}/{what}"
            self.result.changes.append(AppliedChange(what=label, field=name, old=old, new=new))
        for name, count in (await store.count_prebuilds(self.connection, replaced)).items():
            self.result.replaced.append(ReplacedPrebuilds(preset=f"{path}/{name}", prebuilds=count))

    async def _policy_changed(
        self, label: str, changes: Mapping[str, tuple[Any, Any]], preset: UUID | None = None
    ) -> None:
        for name, (old, new) in changes.items():
            self.result.changes.append(AppliedChange(what=label, field=name, old=old, new=new))
        data = {"what": label, "changes": changes}
        await record_event(self.connection, "policy_changed", self.actor, preset_id=preset, data=data)
