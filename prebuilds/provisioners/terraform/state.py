"""A workspace's Terraform state: packed for the database, and which of two copies is the later one.

Saved as `{"v": 1, "encoding": "zlib+base64", "data": ..., "made_by": 1, "build": 3, "replaced": [...],
"mark": {...}}`. A state may hold secrets in clear text, as Terraform itself keeps them: who reads our database reads
them, unless there is a key; then the encoding is `zlib+fernet`.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from pydantic import BaseModel, ConfigDict, Field

from prebuilds.api import ProvisionFailed
from prebuilds.payloads import Replacement
from prebuilds.provisioners.kit.marks import Mark
from prebuilds.settings.state_key import decrypt, state_cipher

PLAIN, ENCRYPTED = "zlib+base64", "zlib+fernet"
VERSION = 1
LINEAGES = uuid5(NAMESPACE_URL, "prebuilds/terraform-lineage")


class Saved(BaseModel):
    """What the database keeps of a workspace."""

    model_config = ConfigDict(frozen=True)

    made_by: int
    """The build that first made it: its repeats are still its creation."""
    build: int
    """Which build saved it."""
    replaced: list[Replacement] = Field(default_factory=list)
    """What that build has to replace, known from its first plan: a repeat's own plan would no longer show it."""
    mark: Mark | None = None
    """Of its claim, for a host that was not at the hand-over."""
    text: str
    """The state file's own text."""


def pack(saved: Saved) -> dict[str, Any]:
    packed, cipher = zlib.compress(saved.text.encode(), 6), state_cipher()
    return {
        "v": VERSION,
        "encoding": PLAIN if cipher is None else ENCRYPTED,
        "data": (base64.b64encode(packed) if cipher is None else cipher.encrypt(packed)).decode(),
        **saved.model_dump(mode="json", exclude={"text"}),
    }


def unpack(state: dict[str, Any] | None) -> Saved | None:
    """What `pack` made; None for nothing.

    Raises:
        ProvisionFailed: A later release has saved it in another way, or it is damaged. Going on without it would make
            everything a second time.
        StateKeyUnusable: It is encrypted, by a key that this worker does not have.
    """
    if state is None:
        return None
    if state.get("v") != VERSION or state.get("encoding") not in (PLAIN, ENCRYPTED):
        how = f"version {state.get('v')}, {state.get('encoding')}"
        raise ProvisionFailed(f"the saved Terraform state ({how}) is of another release; run this worker's successor")
    try:
        data: str = state["data"]
        packed = decrypt(data) if state["encoding"] == ENCRYPTED else base64.b64decode(data, validate=True)
        text = zlib.decompress(packed).decode()
        return Saved.model_validate({**state, "text": text})
    except (KeyError, ValueError, zlib.error) as error:
        raise ProvisionFailed(f"the saved Terraform state is damaged: {error}") from error


def seed(workspace_id: UUID) -> str:
    """An empty state. Its lineage is the workspace's own, so that all copies of all hosts can be compared."""
    return json.dumps(
        {
            "version": 4,
            "terraform_version": "1.0.0",
            "serial": 1,
            "lineage": str(uuid5(LINEAGES, str(workspace_id))),
            "outputs": {},
            "resources": [],
        }
    )


def later(local: str | None, saved: str | None) -> str | None:
    """Of two copies the one to go on with: the higher serial of one lineage.

    Of two lineages, which only a hand-made state brings about, the one that has resources; the saved one when both do.
    """
    if local is None or saved is None:
        return local if saved is None else saved
    ours, theirs = _read(local), _read(saved)
    if ours is None or theirs is None:
        return saved if ours is None else local
    if ours.get("lineage") == theirs.get("lineage"):
        return local if ours.get("serial", 0) >= theirs.get("serial", 0) else saved
    return local if ours.get("resources") and not theirs.get("resources") else saved


def has_resources(text: str | None) -> bool:
    """Whether it holds anything to destroy; what cannot be read is taken to hold something."""
    if text is None:
        return False
    state = _read(text)
    return state is None or any(r.get("mode") != "data" and r.get("instances") for r in state.get("resources", ()))


def resource_names(text: str) -> list[str]:
    state = _read(text) or {}
    return sorted(
        {
            f"{r['module'] + '.' if r.get('module') else ''}{r['type']}.{r['name']}"
            for r in state.get("resources", ())
            if r.get("mode") == "managed" and r.get("instances")
        }
    )


def shown_outputs(text: str) -> dict[str, Any]:
    """Outputs by name, without the sensitive ones."""
    outputs = (_read(text) or {}).get("outputs", {})
    return {name: output.get("value") for name, output in sorted(outputs.items()) if not output.get("sensitive")}


def replacements_in(plan: dict[str, Any]) -> list[Replacement]:
    """What a plan (of `show -json`) replaces, and the attribute paths that force it; never a value."""
    found = []
    for resource in plan.get("resource_changes", ()):
        change = resource.get("change", {})
        if {"create", "delete"} <= set(change.get("actions", ())):
            paths = [path_text(path) for path in change.get("replace_paths", ())]
            if not paths and resource.get("action_reason"):
                paths = [f"({resource['action_reason'].replace('_', ' ')})"]  # tainted, or asked for by another one
            found.append(Replacement(resource=resource["address"], paths=paths))
    return found


def path_text(path: Sequence[str | int]) -> str:
    """`["disk", 0, "size"]` as `disk[0].size`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _read(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
