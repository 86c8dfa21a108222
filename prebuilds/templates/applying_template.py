"""What `apply` changes of one template: its policy, its active version, its presets and their pools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from prebuilds import provisioners
from prebuilds.api import TemplateNotFound
from prebuilds.planning.content import ContentIds, VersionContent, content_changes, file_changes, policy_changes
from prebuilds.planning.drills import DrillPolicy
from prebuilds.planning.rollouts import RolloutPolicy
from prebuilds.store import drill_schedules, versions
from prebuilds.store.apply import RecordedTemplate, update_template
from prebuilds.store.events import record_event, record_for_each
from prebuilds.store.rollouts import ActivatedPools, begin_rollout
from prebuilds.store.template_files import read_manifest
from prebuilds.store.versions import RecordedPreset
from prebuilds.templates.entries import TemplateEntry
from prebuilds.templates.result import ActivatedVersion, AppliedChange, ApplyResult, PoolPrebuilds


@dataclass
class ApplyingTemplate:
    """One template of a file, inside the transaction of `apply`.

    `record` comes first. The other steps lock what passes, ends of builds and claims wait for, so `apply` takes each of
    them late and for all templates, in the order of locks: presets, templates, workspaces.
    """

    connection: AsyncConnection
    actor: str
    result: ApplyResult
    path: str
    """`organization/template`."""
    entry: TemplateEntry
    template_id: UUID
    found: RecordedTemplate | None
    """The template as it was; None: it is new."""

    before: Mapping[str, RecordedPreset] = field(default_factory=dict)
    """The presets that were active so far, by name."""
    earlier: set[UUID] = field(default_factory=set)
    """Presets of the file that were recorded before, in the active version or in another one."""
    expiry: dict[UUID, timedelta | None] = field(default_factory=dict)
    """Pools whose prebuilds get another expiry."""
    number: int = 0
    """The number of the file's version, set when the version is recorded."""

    @cached_property
    def content(self) -> VersionContent:
        return self.entry.content()

    @cached_property
    def ids(self) -> ContentIds:
        return self.content.ids(self.template_id)

    @property
    def active(self) -> UUID | None:
        """The version that was active so far."""
        return self.found.active_version_id if self.found else None

    @property
    def activates(self) -> bool:
        """Whether another version becomes the active one."""
        return self.active != self.ids.version

    @cached_property
    def changes(self) -> dict[str, tuple[Any, Any]]:
        """What differs in the template's policy."""
        return policy_changes(self.found.policy, self.entry.policy()) if self.found else {}

    async def record(self) -> None:
        """Record the version and its presets, set the presets' policy, and add what changes to the result."""
        label = f"template {self.path}"
        if self.found is None:
            self.result.created.append(label)
        elif self.activates or self.changes:
            self.result.updated.append(label)
        else:
            self.result.unchanged.append(label)
        self.number, is_new = await versions.ensure_version(
            self.connection,
            self.template_id,
            self.ids.version,
            self.content,
            files=self.entry.kept.files if self.entry.kept is not None else None,
            hands_over=provisioners.hands_over(self.entry.provisioner, self.entry.source),
        )
        if self.active is not None:
            self.before = await versions.read_presets(self.connection, self.active)
        await self._presets()
        if self.activates and self.active is not None:
            await self._content_changed(self.active)
        await self._pools()
        if self.activates:
            version = ActivatedVersion(template=self.path, version=self.number, id=self.ids.version)
            self.result.versions.append(version)
            await self._version_activated(version, is_new=is_new)
        if self.changes:
            await policy_changed(self.connection, self.actor, self.result, label, self.changes)

    async def move_presets(self) -> None:
        """Carry the presets that were recorded before over to the new active version."""
        if self.activates and self.earlier:
            await versions.move_presets(self.connection, self.ids.version, self.earlier)

    async def activate(self) -> None:
        """Set the template's policy and active version, and begin the version's rollout.

        Raises:
            TemplateNotFound: It was deleted in the meantime.
        """
        if self.activates or self.changes:
            policy = self.entry.policy()
            if not await update_template(self.connection, self.template_id, policy, self.ids.version):
                raise TemplateNotFound(
                    f"template {self.path} was deleted meanwhile", remedy="apply again to make it anew"
                )
        if self.activates and self.found is not None and self.active is not None:
            activated = ActivatedPools(
                template_id=self.template_id,
                version_id=self.ids.version,
                number=self.number,
                presets={p.name: self.ids.presets[p.name] for p in self.entry.presets if p.instances is not None},
                earlier_version_id=self.active,
                earlier_number=self.found.active_number or 0,
                earlier_presets=[preset.id for preset in self.before.values()],
                policy=RolloutPolicy.of_json(self.entry.policy().rollout),
            )
            await begin_rollout(self.connection, activated, self.actor)

    async def schedule_drills(self) -> None:
        """Record when the next drill is due, for a template whose drills have changed."""
        if "drill" in self.changes or (self.found is None and self.entry.drill is not None):
            await drill_schedules.reschedule(
                self.connection, self.template_id, DrillPolicy.of_json(self.entry.policy().drill)
            )

    async def set_expiry(self) -> None:
        """Carry changed expiries over to the prebuilds that can be claimed now."""
        for preset, expire_after in self.expiry.items():
            await versions.set_expiry(self.connection, preset, expire_after)

    async def _presets(self) -> None:
        """Record each preset and set its policy. What people are told compares with the preset active so far."""
        stored, new = await versions.ensure_presets(self.connection, self.template_id, self.content, self.ids)
        self.earlier = set(self.ids.presets.values()) - new
        await versions.reset_holds(self.connection, self.earlier - {preset.id for preset in self.before.values()})
        policies = {preset.name: preset.policy() for preset in self.entry.presets}
        changed = {name: policy for name, policy in policies.items() if stored[name].policy != policy}
        await versions.set_policies(self.connection, {stored[name].id: policy for name, policy in changed.items()})
        for name, policy in policies.items():
            preset, label, known = stored[name], f"preset {self.path}/{name}", self.before.get(name)
            if preset.policy.expire_after != policy.expire_after:
                self.expiry[preset.id] = policy.expire_after
            changes = policy_changes(known.policy, policy) if known else {}
            if changes:
                await policy_changed(self.connection, self.actor, self.result, label, changes, preset=preset.id)
            if known is None:
                self.result.created.append(label)
            elif changes or known.id != preset.id:
                self.result.updated.append(label)
            else:
                self.result.unchanged.append(label)
        gone = sorted(self.before.keys() - policies.keys())
        self.result.updated.extend(f"preset {self.path}/{name} (removed)" for name in gone)

    async def _content_changed(self, active: UUID) -> None:
        """List each field whose value changed for the provisioner."""
        before = await versions.read_content(self.connection, active)
        for preset, name, old, new in content_changes(before, self.content):
            label = f"template {self.path}" if preset is None else f"preset {self.path}/{preset}"
            self.result.changes.append(AppliedChange(what=label, field=name, old=old, new=new))
        if before.files != self.content.files:
            manifests = [await read_manifest(self.connection, one.files) for one in (before, self.content)]
            for path, old, new in file_changes(*manifests):
                change = AppliedChange(what=f"template {self.path}", field=f"source.directory/{path}", old=old, new=new)
                self.result.changes.append(change)

    async def _pools(self) -> None:
        """Count the prebuilds that are removed, replaced and kept, for each preset that was active so far."""
        pooled = {preset.name for preset in self.entry.presets if preset.instances is not None}
        emptied = {name for name, preset in self.before.items() if preset.policy.instances is not None} - pooled
        counted = sorted(self.before if self.activates else emptied)
        if not counted:
            return
        counts = await versions.count_prebuilds(self.connection, [self.before[name].id for name in counted])
        for name in counted:
            preset = self.before[name].id
            if name not in pooled:
                pools = self.result.removed
            elif preset != self.ids.presets[name]:
                pools = self.result.replaced
            else:
                pools = self.result.kept
            if preset in counts:
                pools.append(PoolPrebuilds(preset=f"{self.path}/{name}", prebuilds=counts[preset]))

    async def _version_activated(self, version: ActivatedVersion, *, is_new: bool) -> None:
        """Record the event for each preset. A kept one gets another kind, since an activated version ends holds."""
        replaces = self.found.active_number if self.found else None
        data = {**version.model_dump(mode="json"), "replaces": replaces, "new": is_new}
        added: list[UUID] = []
        changed: list[UUID] = []
        kept: list[UUID] = []
        for name, preset in self.ids.presets.items():
            known = self.before.get(name)
            (added if known is None else kept if known.id == preset else changed).append(preset)
        kind = "version_activated"
        await record_for_each(self.connection, kind, self.actor, added, data | {"preset": "added"})
        await record_for_each(self.connection, kind, self.actor, changed, data | {"preset": "changed"})
        await record_for_each(self.connection, "pool_kept", self.actor, kept, data)
        if not added and not changed:
            await record_event(self.connection, kind, self.actor, data=data)


async def policy_changed(
    connection: AsyncConnection,
    actor: str,
    result: ApplyResult,
    label: str,
    changes: Mapping[str, tuple[Any, Any]],
    preset: UUID | None = None,
) -> None:
    """Record that policy was changed, and add it to the result.

    Args:
        label: What it is the policy of, as in `ApplyResult`.
        changes: Old and new value, by field.
    """
    for name, (old, new) in changes.items():
        result.changes.append(AppliedChange(what=label, field=name, old=old, new=new))
    await record_event(connection, "policy_changed", actor, preset_id=preset, data={"what": label, "changes": changes})
