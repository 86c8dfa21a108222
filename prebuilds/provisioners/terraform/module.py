"""A module's files, and the variables and outputs that they declare, read without Terraform."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prebuilds.provisioners.base import InvalidSource, Provision
from prebuilds.provisioners.terraform.source import RESERVED, TerraformSource, fill_variables, invalid
from prebuilds.vocabulary import PREBUILDS_USER

# A block begins a line, as HCL requires. A block in a comment of several lines is found, too, which costs a warning
# about a value that is not used.
BLOCK = r'^[ \t]*{kind}[ \t]+"?([A-Za-z_][\w-]*)"?[ \t]*(?:\{{|$)'
VARIABLE = re.compile(BLOCK.format(kind="variable"), re.M)
OUTPUT = re.compile(BLOCK.format(kind="output"), re.M)
OTHER_STATE = re.compile(r'^[ \t]*(?:backend[ \t]+"?[A-Za-z_][\w-]*"?|cloud)[ \t]*\{', re.M)
LEFT_OUT = (".terraform", ".git", "terraform.tfstate", "terraform.tfstate.backup", ".terraform.tfstate.lock.info")
"""Files and folders of a directory that are not copied: a person's own runs left them there."""
FILES_MAX, BYTES_MAX = 2000, 32 * 2**20
"""A module is text. A larger folder was named by mistake, and would be copied for each workspace."""


@dataclass(frozen=True)
class Module:
    """A module's files, with the names that they declare."""

    files: dict[str, bytes]
    """Path below the module's folder -> content."""
    variables: frozenset[str] = field(init=False)
    outputs: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        texts = {name: data.decode(errors="replace") for name, data in self.files.items() if "/" not in name}
        for kind, pattern in (("variable", VARIABLE), ("output", OUTPUT)):
            names = {found for name, text in texts.items() if name.endswith(".tf") for found in pattern.findall(text)}
            for name, text in texts.items():
                if name.endswith(".tf.json"):
                    names |= set(_json_blocks(text, kind))
            object.__setattr__(self, f"{kind}s", frozenset(names))

    @property
    def digest(self) -> str:
        """Hash of all files."""
        parts = [(name, hashlib.sha256(data).hexdigest()) for name, data in sorted(self.files.items())]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def write(self, folder: Path) -> None:
        """Write every file below *folder*; a file that is there already is left alone."""
        for name, data in self.files.items():
            path = folder / name
            if path.is_file() and path.read_bytes() == data:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def load_module(source: TerraformSource) -> Module:
    """Return the source's module, checked for faults with which it could never work.

    Raises:
        InvalidSource: Its folder is missing or too large, it keeps its state elsewhere, or it lacks a variable or
            output that the template names.
    """
    if source.directory is not None:
        where, module = "source.directory", Module(_read(Path(source.directory)))
    else:
        where, module = "source.files", Module({name: text.encode() for name, text in (source.files or {}).items()})
    problems: dict[str, str] = {}
    if (name := _keeps_state_elsewhere(module)) is not None:
        problems[where] = f"{name} has a backend or cloud block; remove it, since Prebuilds keeps the state itself"
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


def inputs_of(source: TerraformSource, module: Module, wanted: Provision, stage: str) -> dict[str, Any]:
    """Return the values of the variables that the module declares.

    Raises:
        InvalidSource: A placeholder has no value.
    """
    unclaimed = wanted.owner == PREBUILDS_USER and not wanted.claimed and stage != "claim"
    standard = {
        "workspace_id": str(wanted.workspace_id),
        "workspace_name": wanted.name,
        "owner": wanted.owner,
        "owner_slug": wanted.owner_slug,
        "stage": stage,
        "prebuild_count": 1 if unclaimed else 0,
        "organization": wanted.organization,
        "template": wanted.template,
        "preset": wanted.preset or "",
    }
    values = {**fill_variables(source, wanted), **wanted.claim_parameters}
    values |= {f"{RESERVED}_{name}": value for name, value in standard.items()}
    values[RESERVED] = standard
    return {name: value for name, value in sorted(values.items()) if name in module.variables}


def _read(root: Path) -> dict[str, bytes]:
    if not root.is_dir():
        raise invalid({"source.directory": f"{root} is no folder on this host; every worker of the queue needs it"})
    files: dict[str, bytes] = {}
    size = 0
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT)
        for name in sorted(set(names) - set(LEFT_OUT)):
            path = Path(folder) / name
            if not path.is_file():
                continue
            size += path.stat().st_size
            if len(files) >= FILES_MAX or size > BYTES_MAX:
                raise _too_large(root)
            files[path.relative_to(root).as_posix()] = path.read_bytes()
    if not any("/" not in name and name.endswith((".tf", ".tf.json")) for name in files):
        raise invalid({"source.directory": f"{root} has no .tf file"})
    return files


def _too_large(root: Path) -> InvalidSource:
    most = f"{FILES_MAX} files and {BYTES_MAX // 2**20} MiB"
    return invalid({"source.directory": f"{root} has more than {most}; name the module's own folder"})


def _keeps_state_elsewhere(module: Module) -> str | None:
    for name, data in sorted(module.files.items()):
        text = data.decode(errors="replace")
        in_json = name.endswith(".tf.json") and {"backend", "cloud"} & set(_json_blocks(text, "terraform"))
        if "/" not in name and ((name.endswith(".tf") and OTHER_STATE.search(text)) or in_json):
            return name
    return None


def _json_blocks(text: str, kind: str) -> list[str]:
    try:
        found: Any = json.loads(text)
    except ValueError:
        return []  # Terraform's own error says more
    blocks = found.get(kind) if isinstance(found, Mapping) else None
    parts = blocks if isinstance(blocks, list) else [blocks]
    return [str(name) for part in parts if isinstance(part, Mapping) for name in part]
