"""One workspace's module in its folder, under its lock: brought up to date, planned, applied, destroyed, saved."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import shutil
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from prebuilds.api import ProvisionFailed
from prebuilds.payloads import Replacement
from prebuilds.provisioners.base import Progress, Provision, StaleBuild
from prebuilds.provisioners.kit.finishing import to_the_end
from prebuilds.provisioners.kit.folders import write_whole
from prebuilds.provisioners.kit.marks import Mark
from prebuilds.provisioners.terraform.check import raise_config_errors, validation_errors
from prebuilds.provisioners.terraform.folder import Record, TerraformFolders
from prebuilds.provisioners.terraform.mark import COMMON, end_orphan
from prebuilds.provisioners.terraform.module import inputs_of, load_module
from prebuilds.provisioners.terraform.output import INPUTS
from prebuilds.provisioners.terraform.run import (
    INTERRUPT_S,
    ORPHAN_S,
    Ran,
    Terraform,
    environment,
    find_binary,
)
from prebuilds.provisioners.terraform.source import parse_source
from prebuilds.provisioners.terraform.state import Saved, has_resources, later, pack, replacements_in, seed, unpack

logger = logging.getLogger(__name__)

PLAN = "prebuilds.plan"
LOCK_FILE = ".terraform.lock.hcl"
SAVE_S = 10.0
"""For the last save of a call, which also a cancelled one waits for."""


class Planned(BaseModel):
    """A plan that lies in the folder, to be applied as it is."""

    model_config = ConfigDict(frozen=True)

    key: str
    """Of everything it depends on: build, module, inputs, state."""
    changes: bool
    replacements: list[Replacement] = Field(default_factory=list)


class Work:
    def __init__(self, folders: TerraformFolders, wanted: Provision, progress: Progress | None) -> None:
        """Args:
        progress: None for `plan`, which tells nobody and saves nothing.
        """
        self._folders = folders
        self._wanted = wanted
        self._progress = progress
        self._id = wanted.workspace_id
        self.folder = folders.module(self._id)
        self._saved: str | None = None
        self.is_prepared = False
        self._mark: Mark | None = None
        self.record = self._new_record(wanted.build_number)

    @property
    def state(self) -> str | None:
        return self._folders.read_state(self._id)

    def say(self, line: str) -> None:
        if self._progress is not None:
            self._progress(line)

    async def take_up(self) -> None:
        """Refuse who must not act on it, end what a dead worker left running, and put the later state in place.

        Raises:
            OwnedByAnother: The workspace is another deployment's, or was given to a person by another claim.
            StaleBuild: A later build was here.
        """
        wanted, folders = self._wanted, self._folders
        saved = unpack(wanted.state)
        self._mark = saved.mark if saved is not None else None
        before = folders.enter(wanted, self._mark)
        await end_orphan(folders.running(self._id), self.folder, ORPHAN_S, self.say)
        replaced = saved.replaced if saved is not None and saved.build == wanted.build_number else []
        if before is None:
            made_by = saved.made_by if saved is not None else wanted.build_number
            record = self._new_record(made_by).model_copy(update={"replaced": replaced})
        else:
            kept = before.replaced if before.build_number == wanted.build_number else []
            record = before.model_copy(update={"build_number": wanted.build_number, "replaced": _union(kept, replaced)})
        local = self.state
        text = later(local, saved.text if saved is not None else None) or seed(self._id)
        if not has_resources(text):
            record = record.model_copy(update={"made_by": wanted.build_number})  # whatever was made is gone
        self.record = folders.write(self._id, record)
        if text != local:
            write_whole(folders.state(self._id), text)
        self._saved = saved.text if saved is not None else None

    def keep_mark(self) -> None:
        """Keep the mark of the workspace's claim, in its folder and with each state that is saved from now on."""
        self._mark = self._folders.keep_mark(self._wanted, self._mark)

    async def prepare(self, stage: str) -> None:
        """Write module and inputs, and have the module initialised on this host.

        Raises:
            InvalidSource: The module can never work.
            ProvisionFailed: No binary; or a provider or module could not be fetched.
        """
        source = parse_source(self._wanted.source)
        module = load_module(source)
        self.source, self.module, self._inputs = source, module, inputs_of(source, module, self._wanted, stage)
        binary = find_binary(source.binary)
        if binary is None:
            named = source.binary or "tofu or terraform"
            raise ProvisionFailed(f"no {named} on this host's PATH; install OpenTofu or Terraform on every worker")
        env = environment(self._folders.root.absolute(), source.env)
        key = hashlib.sha256(f"{module.digest} {binary}".encode()).hexdigest()[:32]
        ready = self._folders.initialised(key).absolute()
        await self._initialise(Terraform(binary, ready, {**env, "TF_DATA_DIR": str(ready / ".terraform")}, self.say))
        self._place_module()
        if (ready / LOCK_FILE).is_file():
            shutil.copyfile(ready / LOCK_FILE, self.folder / LOCK_FILE)
        write_whole(self.folder / INPUTS, json.dumps(self._inputs, indent=2) + "\n")
        self._terraform = Terraform(binary, self.folder, {**env, "TF_DATA_DIR": str(ready / ".terraform")}, self.say)
        self._terraform.mask(list(self._wanted.claim_parameters.values()))
        self.is_prepared = True

    async def plan(self, *, reuse: bool = False) -> Planned:
        """Plan into the folder.

        Args:
            reuse: Take the plan that is there, when it is of this build and nothing has changed since.
        """
        kept = self._folders.folder(self._id) / "planned.json"
        key = self._plan_key()
        if reuse and kept.is_file():
            planned = Planned.model_validate_json(kept.read_text())
            if planned.key == key:
                return planned
        kept.unlink(missing_ok=True)
        ran = await self._run("plan", *COMMON, "-json", "-detailed-exitcode", f"-out={PLAN}", *self._parallelism())
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
        """Keep them with the build, since a repeat that goes on where this one ended plans fewer. Returns all."""
        self.record = self._folders.write(
            self._id, self.record.model_copy(update={"replaced": _union(self.record.replaced, found)})
        )
        return self.record.replaced

    async def apply(self, planned: Planned) -> None:
        """Apply that very plan.

        Raises:
            ProvisionFailed: With the end of what it said. The state holds what was made all the same.
        """
        # It may come to its end elsewhere, and have another address there.
        self.record = self._folders.write(self._id, self.record.model_copy(update={"served": False}))
        for replacement in planned.replacements:
            self.say(f"replaces {replacement.resource}, forced by {', '.join(replacement.paths) or 'its plan'}")
        await self.save(always=True)  # known before anything exists
        try:
            if planned.changes:
                ran = await self._run("apply", *COMMON, "-json", *self._parallelism(), PLAN, saving=True)
                if ran.code != 0:
                    raise ProvisionFailed(f"terraform apply failed: {ran.reason}")
        finally:
            (self._folders.folder(self._id) / "planned.json").unlink(missing_ok=True)
            (self.folder / PLAN).unlink(missing_ok=True)
            await self._last_save()

    async def destroy(self) -> None:
        """Destroy what the state holds; nothing is run when it holds nothing.

        Raises:
            StaleBuild: A later build is at work, or a later attempt of this one, elsewhere; nothing is destroyed.
        """
        if not has_resources(self.state):
            return
        await self.save(always=True)  # refused to whom another one has overtaken: by now these may be its resources
        try:
            ran = await self._run("destroy", *COMMON, "-auto-approve", "-json", *self._parallelism(), saving=True)
            if ran.code != 0:
                raise ProvisionFailed(f"terraform destroy failed: {ran.reason}")
        finally:
            await self._last_save()

    async def save(self, *, always: bool = False) -> None:
        """Save the state when it has changed since the last time. A file that is half written waits."""
        text = self.state
        if self._progress is None or text is None or (text == self._saved and not always) or not _whole(text):
            return
        await self._progress.save_state(self.packed(text))
        self._saved = text

    def keep_address(self, address: str | None) -> None:
        """For `probe`: it is ready at this address."""
        update = {"address": address, "served": True, "stopped": False}
        self.record = self._folders.write(self._id, self.record.model_copy(update=update))

    def packed(self, text: str) -> dict[str, Any]:
        record = self.record
        return pack(
            Saved(
                made_by=record.made_by,
                build=record.build_number,
                replaced=record.replaced,
                mark=self._mark,
                text=text,
            )
        )

    # --- Steps ---

    def _new_record(self, made_by: int) -> Record:
        wanted = self._wanted
        return Record(
            deployment_id=wanted.deployment_id,
            epoch=wanted.epoch,
            made_by=made_by,
            build_number=wanted.build_number,
        )

    async def _run(self, *words: str, saving: bool = False) -> Ran:
        mark = self._folders.running(self._id)
        beside = self._save_meanwhile if saving else None
        return await self._terraform.run(*words, mark=mark, beside=beside, finishes=saving)

    async def _save_meanwhile(self) -> None:
        try:
            await self.save()
        except StaleBuild:
            raise  # another attempt, or a later build, is at work elsewhere: this one must end what it does
        except Exception as error:  # the next change, or the end, saves again
            logger.warning("A state could not be saved yet", extra={"workspace": str(self._id), "error": repr(error)})

    async def _last_save(self) -> None:
        async def bounded() -> None:
            try:
                await asyncio.wait_for(self.save(), SAVE_S)
            except StaleBuild:
                raise  # nor may it end the build
            except Exception as error:
                logger.warning(
                    "A state was not saved; it is in this host's folder",
                    extra={"workspace_id": str(self._id), "error": repr(error)},
                )

        await to_the_end(bounded())

    async def _initialise(self, terraform: Terraform) -> None:
        """`init` and `validate`, once for this content on this host."""
        folder = terraform.folder
        if (folder / "ready").is_file():
            return
        async with self._folders.initialising():
            if (folder / "ready").is_file():
                return
            mark = self._folders.initialising_mark
            await end_orphan(mark, folder.parent, INTERRUPT_S, self.say)
            folder.mkdir(parents=True, exist_ok=True)
            self.module.write(folder)
            ran = await terraform.run("init", *COMMON, mark=mark)
            checked = await terraform.run("validate", "-no-color", "-json", whole=True)
            raise_config_errors(validation_errors(checked.output), self.source)
            if ran.code != 0:
                raise ProvisionFailed(f"terraform init failed: {ran.reason}")
            (folder / "ready").touch()

    def _place_module(self) -> None:
        for name in set(self.record.files) - set(self.module.files):
            (self.folder / name).unlink(missing_ok=True)
        self.record = self._folders.write(self._id, self.record.model_copy(update={"files": sorted(self.module.files)}))
        self.module.write(self.folder)

    def _parallelism(self) -> list[str]:
        return [f"-parallelism={self.source.parallelism}"] if self.source.parallelism is not None else []

    def _plan_key(self) -> str:
        parts = [self._wanted.build_number, self.module.digest, self._inputs, self.state]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _union(first: list[Replacement], second: list[Replacement]) -> list[Replacement]:
    return list({r.resource: r for r in [*second, *first]}.values())


def _whole(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
