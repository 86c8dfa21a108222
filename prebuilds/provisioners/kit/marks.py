"""The mark of a claim: a record of the owner that a claimed workspace keeps with itself.

The database may be restored to a time before the claim. It then takes the workspace for a ready prebuild, or does not
know it at all. The mark lies outside the database, beside the workspace, and survives the restore. A driver compares
the mark with each call, and refuses a call that does not fit with `OwnedByAnother`.

The driver writes the mark before the hand-over. The mark stays unchanged until the workspace is destroyed; only a
transfer to another owner replaces it.
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
"""The owner that an inventory gives for a mark that cannot be read."""


class Mark(BaseModel):
    """The owner of a claimed workspace, and the claim."""

    model_config = ConfigDict(frozen=True)

    deployment_id: UUID
    epoch: UUID
    """The epoch of the database that recorded the claim."""
    workspace_id: UUID
    build_number: int
    """The build that gave the workspace away."""
    owner: str
    claim_id: str | None = None
    """None: no claim gave it away, as after a transfer of a workspace that was made for its owner."""


def mark_of(wanted: Provision) -> Mark:
    """Return the mark that this build leaves with a claimed workspace."""
    return Mark(
        deployment_id=wanted.deployment_id,
        epoch=wanted.epoch,
        workspace_id=wanted.workspace_id,
        build_number=wanted.build_number,
        owner=wanted.owner,
        claim_id=wanted.claim_id,
    )


def check_deployment(what: str, deployment: UUID | str | None, ours: UUID) -> None:
    """Refuse a thing of another deployment.

    Args:
        what: Names the thing in messages, such as `container prebuilds-...`.
        deployment: The deployment id that the thing carries; None: it carries none.
        ours: This deployment's id.
    Raises:
        OwnedByAnother: The thing carries another id, or none.
    """
    if str(deployment) == str(ours):
        return
    whose = f"belongs to the deployment {deployment}" if deployment else "carries no deployment's mark"
    raise OwnedByAnother(
        f"{what} {whose}, and this deployment is {ours}: it is left as it is",
        {"what": what} | ({"deployment": str(deployment)} if deployment else {}),
    )


def check_mark(what: str, mark: Mark | None, wanted: Provision) -> None:
    """Refuse a call for a workspace that another person was given. A workspace without a mark fits every call.

    Args:
        what: Names the workspace's thing in messages.
        mark: The workspace's mark; None: it has none.
    Raises:
        OwnedByAnother: The mark is of another deployment, claim or owner, or the call knows of no claim.
    """
    if mark is None or fits(mark, wanted):
        return
    check_deployment(what, mark.deployment_id, wanted.deployment_id)
    claim = f"claim {mark.claim_id}" if mark.claim_id is not None else "a claim"
    recorded = f"{wanted.owner} by claim {wanted.claim_id}" if wanted.claimed else "nobody"
    raise OwnedByAnother(
        f"{what} was given to {mark.owner} by {claim} in build {mark.build_number}, and the database says that it was "
        f"given to {recorded}: it is left as it is. The database may have been restored to an earlier time",
        {
            "what": what,
            "deployment": str(mark.deployment_id),
            "epoch": str(mark.epoch),
            "owner": mark.owner,
            **({"claim_id": mark.claim_id} if mark.claim_id is not None else {}),
        },
        remedy="see what the database has lost with `prebuilds restored --dry-run`, and give the workspace back with "
        "`prebuilds workspaces transfer`",
    )


def fits(mark: Mark, wanted: Provision) -> bool:
    """Return whether the call belongs to the claim that left the mark, or to a transfer from or to the mark's owner.

    After a restore, an operator gives a workspace back to the mark's owner by a transfer. The database then knows
    another claim of the workspace, or none. The owner may still transfer it further.
    """
    place = (wanted.deployment_id, wanted.workspace_id)
    if not wanted.claimed or (mark.deployment_id, mark.workspace_id) != place:
        return False
    same_claim, owner = mark.claim_id == wanted.claim_id, mark.owner.casefold()
    if owner == wanted.owner.casefold():
        return same_claim or wanted.claim_id is None or bool(wanted.previous_owners)
    before = [name.casefold() for name in wanted.previous_owners]
    given_back = before if wanted.claim_id is None else before[1:]  # the first owner had it by the claim itself
    return owner in (before if same_claim else given_back)


def must_leave_mark(mark: Mark | None, wanted: Provision) -> bool:
    """Return whether the call has to leave a mark: it is of a claim, and *mark* is None or a previous owner's."""
    return wanted.claimed and (mark is None or mark.owner.casefold() != wanted.owner.casefold())


# --- Marks as files in a workspace's folder on this host ---


def read_mark(what: str, folder: Path) -> Mark | None:
    """Return the mark in a workspace's folder; None when there is none.

    Args:
        what: Names the workspace's thing in messages.
    Raises:
        OwnedByAnother: The mark cannot be read, so the workspace's owner is unknown.
    """
    path = folder / MARK_FILE
    try:
        return Mark.model_validate_json(path.read_text())
    except FileNotFoundError:
        return None
    except (ValidationError, ValueError, OSError) as error:
        raise OwnedByAnother(
            f"{what} carries a mark that cannot be read ({path}): it is left as it is",
            {"what": what, "file": str(path)},
            remedy="mend that file, or remove it if the workspace is nobody's",
        ) from error


def leave_mark(folder: Path, mark: Mark) -> None:
    """Write the mark so that it survives a crash of the machine. Call it before the owner is given anything."""
    make_folder(folder)
    write_whole(folder / MARK_FILE, mark.model_dump_json())
    entry = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(entry)  # stores the new file name, too
    finally:
        os.close(entry)


def inventory_fields(mark: Mark | None) -> dict[str, Any]:
    """Return the fields of an `InventoryItem` that describe the mark; none when *mark* is None."""
    return {} if mark is None else {"claimed_by": mark.owner, "claim_id": mark.claim_id}


def read_inventory_fields(folder: Path) -> dict[str, Any]:
    """Return the same for the mark in a folder. A mark that cannot be read counts, with the owner `UNREADABLE`."""
    try:
        return inventory_fields(read_mark("", folder))
    except OwnedByAnother:
        return {"claimed_by": UNREADABLE}
