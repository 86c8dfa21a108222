"""One workspace's module in its folder: prepared, planned, applied, destroyed. The caller holds its lock."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from prebuilds.api import ProvisionFailed
from prebuilds.payloads import Replacement
from prebuilds.provisioners.base import Progress, Provision
from prebuilds.provisioners.kit.finishing import to_the_end
from prebuilds.provisioners.kit.folders import write_whole
from prebuilds.provisioners.kit.marks import Mark
from prebuilds.provisioners.kit.trees import write_tree
from prebuilds.provisioners.terraform.check import raise_config_errors, validation_errors
from prebuilds.provisioners.terraform.folder import TerraformFolders, record_for, union
from prebuilds.provisioners.terraform.initialised import INITIALISED, forget_unused, is_fresh, is_initialised
from prebuilds.provisioners.terraform.mark import COMMON, end_orphan
from prebuilds.provisioners.terraform.module import RunStage, inputs_of, load_module
from prebuilds.provisioners.terraform.output import INPUTS, PLAN
from prebuilds.provisioners.terraform.run import (
    INTERRUPT_S,
    ORPHAN_S,
    Ran,
    Terraform,
    environment,
    find_binary,
)
from prebuilds.provisioners.terraform.saving import StateSaver
from prebuilds.provisioners.terraform.source import parse_source
from prebuilds.provisioners.terraform.state import Saved, has_resources, later, pack, replacements_in, seed, unpack

LOCK_FILE = ".terraform.lock.hcl"


class Planned(BaseModel):
    """A plan in the workspace's folder, which can be applied as it is."""

    model_config = ConfigDict(frozen=True)

    key: str
    """Hash of everything that the plan depends on: build, module, inputs, state."""
    changes: bool
    """False: there is nothing to apply."""
    replacements: list[Replacement] = Field(default_factory=list)


class Work:
    """One call's work on one workspace."""

    def __init__(self, folders: TerraformFolders, wanted: Provision, progress: Progress | None) -> None:
        """Make the work of one call for one workspace.

        Args:
            progress: None for a `plan` call, which logs nothing and saves nothing.
        """
        self._folders = folders
        self._wanted = wanted
        self.source = parse_source(wanted.source)
        self._progress = progress
        self._id = wanted.workspace_id
        self.folder = folders.module(self._id)
        self._saver = StateSaver(self._id, progress, lambda: self.state, self.packed)
        self.is_prepared = False
        self._mark: Mark | None = None
        self.record = record_for(wanted, None, None)

    @property
    def state(self) -> str | None:
        """The state file's text; None: there is no file."""
        return self._folders.read_state(self._id)

    def log(self, line: str) -> None:
        """Add a line to the build's log."""
        if self._progress is not None:
            self._progress(line)

    async def take_up(self) -> None:
        """Begin the call: check that it may act, end what a dead worker left running, and place the later state.

        Raises:
            OwnedByAnother: The workspace belongs to another deployment, or another claim gave it to a person.
            StaleBuild: A later build was here.
            ProvisionFailed: The saved state cannot be read.
        """
        wanted, folders = self._wanted, self._folders
        saved = unpack(wanted.state)
        self._mark = saved.mark if saved is not None else None
        before = folders.enter(wanted, self._mark)
        await end_orphan(folders.running(self._id), self.folder, ORPHAN_S, self.log)
        record = record_for(wanted, before, saved)
        local = self.state
        text = later(local, saved.text if saved is not None else None) or seed(self._id)
        if not has_resources(text) and not record.freed:
            record = record.model_copy(update={"made_by": wanted.build_number})  # nothing is left of earlier builds
        self.record = folders.write(self._id, record)
        if text != local:
            write_whole(folders.state(self._id), text)
        self._saver.saved = saved.text if saved is not None else None

    def keep_mark(self) -> None:
        """Keep the claim's mark in the folder, and with each state that is saved from now on."""
        self._mark = self._folders.keep_mark(self._wanted, self._mark)

    async def prepare(self, stage: RunStage) -> None:
        """Write the module and its inputs, and initialise the module on this host.

        Raises:
            InvalidSource: The module can never work.
            ProvisionFailed: There is no binary, a provider or module could not be fetched, or the version's files are
                missing.
        """
        source = self.source
        module = await asyncio.to_thread(load_module, source, self._wanted.files)  # it may have megabytes
        self.module, self._inputs = module, inputs_of(source, module, self._wanted, stage)
        binary = find_binary(source.binary)
        if binary is None:
            named = source.binary or "tofu or terraform"
            raise ProvisionFailed(
                f"no {named} on this host's PATH", remedy="install OpenTofu or Terraform on every worker"
            )
        env = environment(self._folders.root.absolute(), source.env)
        key = hashlib.sha256(f"{module.digest} {binary}".encode()).hexdigest()[:32]
        ready = self._folders.initialised(key).absolute()
        await self._initialise(Terraform(binary, ready, {**env, "TF_DATA_DIR": str(ready / ".terraform")}, self.log))
        await to_the_end(self._place_module())
        if (ready / LOCK_FILE).is_file():
            shutil.copyfile(ready / LOCK_FILE, self.folder / LOCK_FILE)
        write_whole(self.folder / INPUTS, json.dumps(self._inputs, indent=2) + "\n")
        self._terraform = Terraform(binary, self.folder, {**env, "TF_DATA_DIR": str(ready / ".terraform")}, self.log)
        self._terraform.mask(list(self._wanted.claim_parameters.values()))
        self.is_prepared = True

    async def plan(self, *, reuse: bool = False) -> Planned:
        """Plan into the folder, and return the plan.

        Args:
            reuse: Return the folder's plan when this build made it and nothing has changed since.
        Raises:
            InvalidSource: A value does not fit its variable.
            ProvisionFailed: Terraform could not plan. Quotes its errors.
        """
        kept = self._folders.folder(self._id) / "planned.json"
        key = self._plan_key()
        if reuse and kept.is_file():
            planned = Planned.model_validate_json(kept.read_text())
            if planned.key == key:
                return planned
        kept.unlink(missing_ok=True)
        ran = await self._run("plan", *COMMON, "-json", "-detailed-exitcode", f"-out={PLAN}", *self._options())
        if ran.code not in (0, 2):
            raise_config_errors([error for error in ran.errors if error.of_variable], self.source)
            raise ProvisionFailed(f"terraform plan failed: {ran.reason}")
        replacements: list[Replacement] = []
        if ran.code == 2:
            shown = await self._terraform.run("show", "-no-color", "-json", PLAN, whole=True)
            if shown.code != 0:
                raise ProvisionFailed(
                    f"terraform show of the plan failed: {self._terraform.masked(shown.output)[-1000:]}"
                )
            replacements = replacements_in(json.loads(shown.output[shown.output.index("{") :]))
        planned = Planned(key=key, changes=ran.code == 2, replacements=replacements)
        write_whole(kept, planned.model_dump_json())
        return planned

    def note_replacements(self, found: list[Replacement]) -> list[Replacement]:
        """Add *found* to what the build has to replace, and return all.

        They are kept, since a repeated attempt that continues after a crash plans fewer replacements.
        """
        self.record = self._folders.write(
            self._id, self.record.model_copy(update={"replaced": union(self.record.replaced, found)})
        )
        return self.record.replaced

    def note_freeing(self) -> None:
        """Record that the module is about to be applied for a stop. The next state that is saved says so, too."""
        self.record = self._folders.write(self._id, self.record.model_copy(update={"freed": True}))

    async def apply(self, planned: Planned) -> None:
        """Apply exactly this plan.

        Raises:
            ProvisionFailed: Terraform failed. Quotes its errors; the state has what was made.
            StaleBuild: A later build or attempt works elsewhere.
        """
        # Another host may finish the build, and know another address.
        self.record = self._folders.write(self._id, self.record.model_copy(update={"served": False}))
        for replacement in planned.replacements:
            self.log(f"replaces {replacement.resource}, forced by {', '.join(replacement.paths) or 'its plan'}")
        await self._saver.save(always=True)  # the build is known before anything exists
        try:
            if planned.changes:
                ran = await self._run("apply", *COMMON, "-json", *self._parallelism(), PLAN, saving=True)
                if ran.code != 0:
                    raise ProvisionFailed(f"terraform apply failed: {ran.reason}")
        finally:
            self.discard_plan()
            await self._saver.save_last()

    def discard_plan(self) -> None:
        """Remove the plan from the folder."""
        (self._folders.folder(self._id) / "planned.json").unlink(missing_ok=True)
        (self.folder / PLAN).unlink(missing_ok=True)

    async def destroy(self) -> None:
        """Destroy every resource in the state; run nothing when it has none.

        Raises:
            StaleBuild: A later build or attempt works elsewhere. Nothing is destroyed.
            ProvisionFailed: Terraform could not destroy everything. Quotes its errors.
        """
        if not has_resources(self.state):
            return
        # Refused to an overtaken attempt: the resources may belong to the later one by now.
        await self._saver.save(always=True)
        try:
            ran = await self._run("destroy", *COMMON, "-auto-approve", "-json", *self._options(), saving=True)
            if ran.code != 0:
                raise ProvisionFailed(f"terraform destroy failed: {ran.reason}")
        finally:
            await self._saver.save_last()

    def keep_address(self, address: str | None) -> None:
        """Record for `probe` that the workspace is ready at this address; None: it has no address to probe."""
        update = {"address": address, "served": True, "stopped": False, "freed": False}
        self.record = self._folders.write(self._id, self.record.model_copy(update=update))

    def packed(self, text: str) -> dict[str, Any]:
        """Return a state file's text with this call's record and mark, as the database keeps it."""
        record = self.record
        return pack(
            Saved(
                made_by=record.made_by,
                build=record.build_number,
                replaced=record.replaced,
                mark=self._mark,
                freed=record.freed,
                text=text,
            )
        )

    # --- Steps ---

    async def _run(self, *words: str, saving: bool = False) -> Ran:
        mark = self._folders.running(self._id)
        beside = self._saver.save_meanwhile if saving else None
        return await self._terraform.run(*words, mark=mark, beside=beside, finishes=saving)

    async def _initialise(self, terraform: Terraform) -> None:
        """Run `init` and `validate`, once for this module's content on this host. Removes what is unused for a week.

        Raises:
            InvalidSource: The module's text is wrong.
            ProvisionFailed: `init` failed.
        """
        folder = terraform.folder
        if is_fresh(folder):
            return
        async with self._folders.initialising():
            if is_initialised(folder):
                return
            mark = self._folders.initialising_mark
            await end_orphan(mark, folder.parent, INTERRUPT_S, self.log)
            folder.mkdir(parents=True, exist_ok=True)
            await to_the_end(asyncio.to_thread(write_tree, self.module.tree, folder))
            ran = await terraform.run("init", *COMMON, mark=mark)
            checked = await terraform.run("validate", "-no-color", "-json", whole=True)
            raise_config_errors(validation_errors(checked.output), self.source)
            if ran.code != 0:
                raise ProvisionFailed(f"terraform init failed: {ran.reason}")
            ready = folder / INITIALISED
            ready.parent.mkdir(exist_ok=True)
            ready.touch()
            await asyncio.to_thread(forget_unused, folder.parent)

    async def _place_module(self) -> None:
        before, after = set(self.record.files), set(self.module.tree)
        # Both are recorded first, so that what a crash leaves is removed by the next build.
        self.record = self._folders.write(self._id, self.record.model_copy(update={"files": sorted(before | after)}))
        await asyncio.to_thread(write_tree, self.module.tree, self.folder, before)
        self.record = self._folders.write(self._id, self.record.model_copy(update={"files": sorted(after)}))

    def _options(self) -> list[str]:
        """Return the options of a run that evaluates the module."""
        return [f"-var-file={INPUTS}", *self._parallelism()]

    def _parallelism(self) -> list[str]:
        return [f"-parallelism={self.source.parallelism}"] if self.source.parallelism is not None else []

    def _plan_key(self) -> str:
        parts = [self._wanted.build_number, self.module.digest, self._inputs, self.state]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
