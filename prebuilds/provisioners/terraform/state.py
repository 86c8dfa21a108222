"""A workspace's Terraform state: packing it for the database, comparing two copies, and reading it.

The database has `{"v": 1, "encoding": "zlib+base64", "data": ..., "made_by": 1, "build": 3, "replaced": [...],
"mark": {...}, "freed": false}`. A state may have secrets in clear text, as Terraform itself keeps them, and everyone
with access to the database can read them. With a state key the encoding is `zlib+fernet`, and `key` is that key's id.
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
from prebuilds.settings.sealed_states import ENCRYPTED, PLAIN, write_state
from prebuilds.settings.sealing import environment_key_ring
from prebuilds.settings.state_key import decrypt

REMOVE_BY_HAND = "remove by hand what it had made, then restore the database or release the workspace"
VERSION = 1
LINEAGES = uuid5(NAMESPACE_URL, "prebuilds/terraform-lineage")
"""Namespace of the lineages that we give to states."""


class Saved(BaseModel):
    """What the database keeps for a workspace."""

    model_config = ConfigDict(frozen=True)

    made_by: int
    """The build that first made the resources. A repeated attempt of that build is still the creation."""
    build: int
    """The build that saved the state."""
    replaced: list[Replacement] = Field(default_factory=list)
    """The resources that this build has to replace, by its first plan; a repeated attempt's plan would show fewer."""
    mark: Mark | None = None
    """The claim's mark, for hosts that did not serve the claim; None: the workspace is not claimed."""
    freed: bool = False
    """`freed` of the host's record, for hosts that did not serve the stop."""
    text: str
    """The state file's text."""


def pack(saved: Saved) -> dict[str, Any]:
    """Return the JSON object for the database, encrypted when there is a state key."""
    return {
        "v": VERSION,
        **write_state(zlib.compress(saved.text.encode(), 6), environment_key_ring()),
        **saved.model_dump(mode="json", exclude={"text"}),
    }


def unpack(state: dict[str, Any] | None) -> Saved | None:
    """Return what `pack` packed; None when *state* is None.

    Raises:
        ProvisionFailed: A later release saved it in another form, or it is damaged. Without the state, the next apply
            would make everything a second time.
        StateKeyUnusable: It is encrypted with a key that this worker does not have.
    """
    if state is None:
        return None
    if state.get("v") != VERSION or state.get("encoding") not in (PLAIN, ENCRYPTED):
        how = f"version {state.get('v')}, {state.get('encoding')}"
        raise ProvisionFailed(
            f"the saved Terraform state ({how}) is of another release", remedy="run that release's worker"
        )
    try:
        data: str = state["data"]
        packed = decrypt(data) if state["encoding"] == ENCRYPTED else base64.b64decode(data, validate=True)
        text = zlib.decompress(packed).decode()
        return Saved.model_validate({**state, "text": text})
    except (KeyError, ValueError, zlib.error) as error:
        raise ProvisionFailed(f"the saved Terraform state is damaged: {error}", remedy=REMOVE_BY_HAND) from error


def seed(workspace_id: UUID) -> str:
    """Return an empty state. Its lineage is derived from the workspace, so that copies of all hosts can be compared."""
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
    """Return the copy to continue with: the one with the higher serial. None when both are None.

    With two lineages, which only a hand-made state causes, it is the one with resources; *saved* when both have some.

    Args:
        local: The text on this host; None: none.
        saved: The text from the database; None: none.
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
    """Return whether a state has anything to destroy. A text that cannot be read counts as having; None does not."""
    if text is None:
        return False
    state = _read(text)
    return state is None or any(r.get("mode") != "data" and r.get("instances") for r in state.get("resources", ()))


def resource_names(text: str) -> list[str]:
    """Return the addresses of the managed resources in a state, sorted."""
    state = _read(text) or {}
    return sorted(
        {
            f"{r['module'] + '.' if r.get('module') else ''}{r['type']}.{r['name']}"
            for r in state.get("resources", ())
            if r.get("mode") == "managed" and r.get("instances")
        }
    )


def shown_outputs(text: str) -> dict[str, Any]:
    """Return a state's outputs by name, without the sensitive ones."""
    outputs = (_read(text) or {}).get("outputs", {})
    return {name: output.get("value") for name, output in sorted(outputs.items()) if not output.get("sensitive")}


def replacements_in(plan: dict[str, Any]) -> list[Replacement]:
    """Return what a plan of `show -json` replaces, with the attribute paths that force it; never values."""
    found = []
    for resource in plan.get("resource_changes", ()):
        change = resource.get("change", {})
        if {"create", "delete"} <= set(change.get("actions", ())):
            paths = [path_text(path) for path in change.get("replace_paths", ())]
            if not paths and resource.get("action_reason"):
                # The resource is tainted, or is replaced because of another one.
                paths = [f"({resource['action_reason'].replace('_', ' ')})"]
            found.append(Replacement(resource=resource["address"], paths=paths))
    return found


def path_text(path: Sequence[str | int]) -> str:
    """Return an attribute path as text: `["disk", 0, "size"]` as `disk[0].size`."""
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
