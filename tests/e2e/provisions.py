"""Provisions that tests give to drivers."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from prebuilds.provisioners.base import Provision
from tests.identities import WHO


def wanted(source: dict[str, Any], number: int = 1, workspace_id: UUID | None = None, **changes: Any) -> Provision:
    return Provision(
        **WHO | {key: changes.pop(key) for key in WHO.keys() & changes.keys()},
        workspace_id=workspace_id or uuid4(),
        build_number=number,
        name=changes.pop("name", "prebuild-1"),
        owner=changes.pop("owner", "prebuilds"),
        organization="acme",
        template="python",
        preset="small",
        source=source,
        **changes,
    )


def later(provision: Provision, **changes: Any) -> Provision:
    return provision.model_copy(update={"build_number": provision.build_number + 1, **changes})
