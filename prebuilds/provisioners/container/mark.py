"""Owners of containers and volumes, by label; and the mark of a claim, an empty volume with labels.

A container's labels cannot be changed. The engine itself has to remember a claim, since the state folder may be lost
and other hosts may share the engine. So a claim leaves a volume `prebuilds-DEPLOYMENT-WORKSPACE.owner`. The names of a
template's own volumes contain no dot.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol
from uuid import UUID

from pydantic import ValidationError

from prebuilds.provisioners.base import OwnedByAnother, Provision
from prebuilds.provisioners.container.source import OUR_LABELS
from prebuilds.provisioners.container.spec import (
    BUILD_LABEL,
    DEPLOYMENT_LABEL,
    EPOCH_LABEL,
    WORKSPACE_LABEL,
    container_name,
)
from prebuilds.provisioners.kit.marks import Mark, check_deployment, check_mark, mark_of, must_leave_mark

OWNER_LABEL = f"{OUR_LABELS}owner"
CLAIM_LABEL = f"{OUR_LABELS}claim_id"


class Volumes(Protocol):
    """The part of `Engine` that marks use; `engine.py` imports this module."""

    async def make_volume(self, name: str, labels: Mapping[str, str]) -> dict[str, str]:
        """Make a volume, and return its labels; when the name is taken, that volume's labels."""
        ...

    async def volume_labels(self, name: str) -> dict[str, str] | None:
        """Return a volume's labels; None when there is no such volume."""
        ...

    async def remove_volume(self, name: str) -> None:
        """Remove a volume; a missing one is success."""
        ...


def mark_volume(deployment_id: UUID, workspace_id: UUID) -> str:
    """Return the name of the volume that is the workspace's mark."""
    return f"{container_name(deployment_id, workspace_id)}.owner"


def check_labels(what: str, labels: Mapping[str, str], ours: Mapping[str, str]) -> None:
    """Refuse a container or volume that does not belong to the deployment and workspace of *ours*.

    Args:
        what: Names the thing in messages, such as `container prebuilds-...`.
    Raises:
        OwnedByAnother: *labels* name another deployment or workspace, or none.
    """
    check_deployment(what, labels.get(DEPLOYMENT_LABEL), UUID(ours[DEPLOYMENT_LABEL]))
    if (theirs := labels.get(WORKSPACE_LABEL)) != ours[WORKSPACE_LABEL]:
        raise OwnedByAnother(
            f"{what} is labelled as the workspace {theirs}'s: it is left as it is",
            {"what": what, "deployment": ours[DEPLOYMENT_LABEL]},
        )


async def check_owner(engine: Volumes, wanted: Provision) -> Mark | None:
    """Return the workspace's mark; None when it has none.

    Raises:
        OwnedByAnother: The mark does not fit this call.
    """
    name = mark_volume(wanted.deployment_id, wanted.workspace_id)
    labels = await engine.volume_labels(name)
    if labels is None:
        return None
    mark = mark_in(name, labels)
    check_mark(_what(wanted), mark, wanted)
    return mark


async def leave_owner(engine: Volumes, wanted: Provision, mark: Mark | None) -> None:
    """Leave the claim's mark, where the build is of a claim and there is none yet, or a previous owner's.

    Args:
        mark: The mark that exists now; None: none.
    Raises:
        OwnedByAnother: Another claim has left its mark meanwhile.
    """
    if not must_leave_mark(mark, wanted):
        return
    name, new = mark_volume(wanted.deployment_id, wanted.workspace_id), mark_of(wanted)
    if mark is not None:
        await engine.remove_volume(name)
    check_mark(_what(wanted), mark_in(name, await engine.make_volume(name, labels_of(new))), wanted)


def labels_of(mark: Mark) -> dict[str, str]:
    """Return the labels that store a mark."""
    claim = {CLAIM_LABEL: mark.claim_id} if mark.claim_id is not None else {}
    return {
        DEPLOYMENT_LABEL: str(mark.deployment_id),
        EPOCH_LABEL: str(mark.epoch),
        WORKSPACE_LABEL: str(mark.workspace_id),
        BUILD_LABEL: str(mark.build_number),
        OWNER_LABEL: mark.owner,
        **claim,
    }


def mark_in(name: str, labels: Mapping[str, str]) -> Mark:
    """Return the mark in a volume's labels.

    Raises:
        OwnedByAnother: The volume *name* is no mark.
    """
    try:
        return Mark.model_validate(
            {
                "deployment_id": labels.get(DEPLOYMENT_LABEL),
                "epoch": labels.get(EPOCH_LABEL),
                "workspace_id": labels.get(WORKSPACE_LABEL),
                "build_number": labels.get(BUILD_LABEL),
                "owner": labels.get(OWNER_LABEL),
                "claim_id": labels.get(CLAIM_LABEL),
            }
        )
    except ValidationError as error:
        what = f"volume {name}"
        raise OwnedByAnother(
            f"{what} stands where the mark of a claim belongs, and is none: it is left as it is", {"what": what}
        ) from error


def _what(wanted: Provision) -> str:
    return f"container {container_name(wanted.deployment_id, wanted.workspace_id)}"
