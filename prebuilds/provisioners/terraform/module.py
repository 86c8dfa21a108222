"""A module's files, and the variables and outputs that they declare, read without Terraform."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from prebuilds.api import ProvisionFailed
from prebuilds.provisioners.base import Provision
from prebuilds.provisioners.kit.tree_reading import read_tree
from prebuilds.provisioners.kit.trees import DIGEST_PREFIX, CannotKeep, KeptFile, Tree, digest_of, unpack_tree
from prebuilds.provisioners.terraform.calls import blocks_in, calls_outside, is_json, local_calls, texts_in
from prebuilds.provisioners.terraform.output import INPUTS, PLAN
from prebuilds.provisioners.terraform.run import OUTPUT
from prebuilds.provisioners.terraform.source import RESERVED, TerraformSource, fill_variables, invalid
from prebuilds.vocabulary import PREBUILDS_USER

# A block begins a line, as HCL requires. A block in a comment of several lines is found, too, which costs a warning
# about a value that is not used.
BLOCK = r'^[ \t]*{kind}[ \t]+"?([A-Za-z_][\w-]*)"?[ \t]*(?:\{{|$)'
VARIABLE_BLOCK = re.compile(BLOCK.format(kind="variable"), re.M)
OUTPUT_BLOCK = re.compile(BLOCK.format(kind="output"), re.M)
OTHER_STATE = re.compile(r'^[ \t]*(?:backend[ \t]+"?[A-Za-z_][\w-]*"?|cloud)[ \t]*\{', re.M)
LEFT_OUT = (
    *(".terraform", ".git", "*.tfstate", "*.tfstate.*", "tfplan", "*.tfplan", "crash.log", "crash.*.log"),
    *(".DS_Store", "*.swp"),
)
"""Files and folders of a directory that are not kept: a person's own runs and tools left them there. States and plans
may hold secrets."""
APPLY_AGAIN = (
    "apply the same files again, which stores them anew; without them, give the workspace up by "
    "`prebuilds release W --abandon`"
)
NO_FILES = "release the workspace, by `prebuilds release W --abandon` where its deletion fails, and claim another one"


class RunStage(StrEnum):
    """What a module is run for, as `prebuilds_stage` says it."""

    CREATE = "create"
    CLAIM = "claim"
    START = "start"  # used also to delete a workspace that somebody owns
    STOP = "stop"
    PAUSED = "paused"


@dataclass(frozen=True)
class Module:
    """A module's files, with the names that they declare."""

    tree: Tree
    variables: frozenset[str] = field(init=False)
    outputs: frozenset[str] = field(init=False)
    frees_when_stopped: bool = field(init=False)
    """True: a stop and a pause apply it, since it declares `prebuilds_start_count`. The object `prebuilds` has that
    number, too, and does not ask for it: a module may pass the whole object on without knowing a stage `stop`."""

    def __post_init__(self) -> None:
        texts = texts_in(self.tree)
        for kind, pattern in (("variable", VARIABLE_BLOCK), ("output", OUTPUT_BLOCK)):
            names: set[str] = set()
            for name, text in texts.items():
                names |= {block for block, _ in blocks_in(text, kind)} if is_json(name) else set(pattern.findall(text))
            object.__setattr__(self, f"{kind}s", frozenset(names))
        object.__setattr__(self, "frees_when_stopped", f"{RESERVED}_start_count" in self.variables)

    @property
    def digest(self) -> str:
        """Hash of all files."""
        return digest_of(self.tree).removeprefix(DIGEST_PREFIX)[:32]


def read_module(source: TerraformSource) -> Module:
    """Return the module that a template names, from its folder on this host, checked for faults.

    Raises:
        InvalidSource: Its folder is missing or has something that cannot be kept; it keeps its state elsewhere, calls a
            module that is not in it, or lacks a variable or output that the template names.
    """
    if source.directory is None:
        return _checked(source, load_module(source))
    root = Path(source.directory)
    if not root.is_dir():
        raise invalid({"source.directory": f"{root} is no folder here; `apply` needs it, and keeps its files"})
    try:
        module = Module(read_tree(root, LEFT_OUT))
    except CannotKeep as error:
        raise invalid({"source.directory": "; ".join(error.problems)}) from error
    if not texts_in(module.tree):
        raise invalid({"source.directory": f"{root} has no .tf file"})
    return _checked(source, module)


def load_module(source: TerraformSource, files: bytes | None = None) -> Module:
    """Return a template version's module, as it was when it was applied.

    It is not checked again: where a later release refuses more, older workspaces must still be stopped and deleted.

    Args:
        source: The version's source; its `directory` is the digest of the folder that was applied.
        files: The archive of that folder; None: the version has none.
    Raises:
        ProvisionFailed: The archive is missing or damaged.
    """
    if source.directory is None:
        texts = {name: KeptFile(text.encode()) for name, text in (source.files or {}).items()}
        return Module(texts)
    if files is None:
        raise ProvisionFailed(f"the version keeps no files of {source.directory}", remedy=NO_FILES)
    try:
        return Module(unpack_tree(files, source.directory))
    except CannotKeep as error:
        raise ProvisionFailed(str(error), remedy=APPLY_AGAIN) from error


def _checked(source: TerraformSource, module: Module) -> Module:
    where = "source.directory" if source.directory is not None else "source.files"
    problems: dict[str, str] = {}
    if (name := _keeps_state_elsewhere(module)) is not None:
        problems[where] = f"{name} has a backend or cloud block; remove it, since Prebuilds keeps the state itself"
    elif own := sorted({INPUTS, PLAN, OUTPUT} & set(module.tree)):
        problems[where] = f"{own[0]} is a file that Prebuilds writes itself; remove or rename it"
    elif source.files is not None and (local := local_calls(module.tree)):
        problems[where] = f"{local[0]} is a folder, and `files` has none; keep the module in a folder, as `directory`"
    elif outside := calls_outside(module.tree):
        problems[where] = "; ".join(outside)
    for name in source.variables:
        if name not in module.variables:
            problems[f"source.variables.{name}"] = f'the module declares no variable "{name}"'
    for name in source.outputs or ():
        if name not in module.outputs:
            problems["source.outputs"] = f'the module declares no output "{name}"'
    if source.address is not None and source.address not in module.outputs:
        problems["source.address"] = f'the module declares no output "{source.address}"'
    if problems:
        raise invalid(problems)
    return module


def inputs_of(source: TerraformSource, module: Module, wanted: Provision, stage: RunStage) -> dict[str, Any]:
    """Return the values of the variables that the module declares.

    Raises:
        InvalidSource: A placeholder has no value.
    """
    unclaimed = wanted.owner == PREBUILDS_USER and not wanted.claimed and stage is not RunStage.CLAIM
    standard = {
        "workspace_id": str(wanted.workspace_id),
        "workspace_name": wanted.name,
        "owner": wanted.owner,
        "owner_slug": wanted.owner_slug,
        "stage": stage,
        "prebuild_count": 1 if unclaimed else 0,
        "start_count": 0 if stage in (RunStage.STOP, RunStage.PAUSED) else 1,
        "organization": wanted.organization,
        "template": wanted.template,
        "preset": wanted.preset or "",
    }
    values = {**fill_variables(source, wanted), **wanted.claim_parameters}
    values |= {f"{RESERVED}_{name}": value for name, value in standard.items()}
    values[RESERVED] = standard
    return {name: value for name, value in sorted(values.items()) if name in module.variables}


def _keeps_state_elsewhere(module: Module) -> str | None:
    for name, text in sorted(texts_in(module.tree).items()):
        if is_json(name):
            found = bool({"backend", "cloud"} & {block for block, _ in blocks_in(text, "terraform")})
        else:
            found = OTHER_STATE.search(text) is not None
        if found:
            return name
    return None
