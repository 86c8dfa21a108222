"""The mark of a claim: what a claimed workspace keeps with itself of whom it was given to.

The database may be restored to a time before the claim. It then takes the workspace for a ready prebuild, or does not
know it at all. The mark lies outside the database, beside the workspace, and outlives that: a driver compares it with
each call, and refuses a call that does not fit with `OwnedByAnother`.

A mark is written before the hand-over, and stays as it is until the workspace is destroyed. Only a transfer to another
owner replaces it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError

from prebuilds.provisioners.base import OwnedByAnother, Provision
from prebuilds.provisioners.kit.folders import write_whole
from prebuilds.provisioners.kit.host import make_folder

MARK_FILE = "owner.json"
UNREADABLE = "(unreadable mark)"


class Mark(BaseModel):
    model_config = ConfigDict(frozen=True)

    deployment_id: UUID
    epoch: UUID
    """Of the database that recorded the claim."""
    workspace_id: UUID
    build_number: int
    """The build that gave it away."""
    owner: str
    claim_id: str | None = None


def mark_of(wanted: Provision) -> Mark:
    """The mark that this build leaves with a claimed workspace."""
    return Mark(
        deployment_id=wanted.deployment_id,
        epoch=wanted.epoch,
        workspace_id=wanted.workspace_id,
        build_number=wanted.build_number,
        owner=wanted.owner,
        claim_id=wanted.claim_id,
    )


def check_deployment(what: str, deployment: UUID | str | None, ours: UUID) -> None:
    """Refuse what is not this deployment's.

    Args:
        what: Names the thing to a person, such as `container prebuilds-...`.
        deployment: The id that the thing carries; None: it carries none.
    Raises:
        OwnedByAnother: It carries another id, or none.
    """
    if str(deployment) == str(ours):
        return
    whose = f"belongs to the deployment {deployment}" if deployment else "carries no deployment's mark"
    raise OwnedByAnother(
        f"{what} {whose}, and this deployment is {ours}: it is left as it is. Remove or rename it if nobody needs it",
        {"what": what} | ({"deployment": str(deployment)} if deployment else {}),
    )


def check_mark(what: str, mark: Mark | None, wanted: Provision) -> None:
    """Refuse a call for what another person was given. No mark fits every call.

    Raises:
        OwnedByAnother: The mark is of another deployment, claim or owner, or the call knows of no claim.
    """
    if mark is None or fits(mark, wanted):
        return
    check_deployment(what, mark.deployment_id, wanted.deployment_id)
    claim = f"claim {mark.claim_id}" if mark.claim_id is not None else "a claim"
    asked = f"{wanted.owner} by claim {wanted.claim_id}" if wanted.claimed else "nobody"
    raise OwnedByAnother(
        f"{what} was given to {mark.owner} by {claim} in build {mark.build_number}, and the database says that it was "
        f"given to {asked}: it is left as it is. The database may have been restored to an earlier time",
        {
            "what": what,
            "deployment": str(mark.deployment_id),
            "epoch": str(mark.epoch),
            "owner": mark.owner,
            **({"claim_id": mark.claim_id} if mark.claim_id is not None else {}),
        },
    )


def fits(mark: Mark, wanted: Provision) -> bool:
    """Whether the call is of the claim that left the mark, or of a transfer from or to the owner in it.

    After a restore, an operator gives a workspace back to the owner in its mark by a transfer. The database then knows
    another claim of it, or none; the owner may hand it on all the same.
    """
    place = (wanted.deployment_id, wanted.workspace_id)
    if not wanted.claimed or (mark.deployment_id, mark.workspace_id) != place:
        return False
    same_claim, owner = mark.claim_id == wanted.claim_id, mark.owner.casefold()
    if owner == wanted.owner.casefold():
        return same_claim or wanted.claim_id is None or bool(wanted.previous_owners)
    before = [name.casefold() for name in wanted.previous_owners]
    given_back = before if wanted.claim_id is None else before[1:]  # the first one had it by the claim
    return owner in (before if same_claim else given_back)


def is_to_be_left(mark: Mark | None, wanted: Provision) -> bool:
    """Whether this call has a mark to leave: there is none yet, or it is of the owner before a transfer."""
    return wanted.claimed and (mark is None or mark.owner.casefold() != wanted.owner.casefold())


# --- Marks as files, in a workspace's own folder on this host ---


def read_mark(what: str, folder: Path) -> Mark | None:
    """The mark in a workspace's folder; None when there is none.

    Raises:
        OwnedByAnother: There is one, and it cannot be read: nobody knows whose the workspace is.
    """
    path = folder / MARK_FILE
    try:
        return Mark.model_validate_json(path.read_text())
    except FileNotFoundError:
        return None
    except (ValidationError, ValueError, OSError) as error:
        raise OwnedByAnother(
            f"{what} carries a mark that cannot be read ({path}): it is left as it is. Mend that file, or remove it if "
            "the workspace is nobody's",
            {"what": what, "file": str(path)},
        ) from error


def leave_mark(folder: Path, mark: Mark) -> None:
    """Write the mark so that it outlives a crash of the machine, before anybody is given anything."""
    make_folder(folder)
    write_whole(folder / MARK_FILE, mark.model_dump_json())
    entry = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(entry)  # the new name, too
    finally:
        os.close(entry)


def told_in_inventory(mark: Mark | None) -> dict[str, Any]:
    """The fields of an `InventoryItem` that tell of the mark."""
    return {} if mark is None else {"claimed_by": mark.owner, "claim_id": mark.claim_id}


def file_told_in_inventory(folder: Path) -> dict[str, Any]:
    """The same for a mark in a folder; one that cannot be read is a mark all the same."""
    try:
        return told_in_inventory(read_mark("", folder))
    except OwnedByAnother:
        return {"claimed_by": UNREADABLE}
