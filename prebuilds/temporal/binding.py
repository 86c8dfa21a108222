"""A database and a Temporal namespace belong together: what each side has recorded, and whether that fits.

The database's settings name the one namespace that it uses. The namespace's own data, which no retention forgets, has a
mark for each deployment that was ever bound to it: `prebuilds.deployment.ID`, empty once another deployment has adopted
the namespace. A key for each deployment, since a server merges keys and has no conditional write: of two deployments
that write at the same time, at least one reads the other's mark afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from temporalio.api.namespace.v1 import UpdateNamespaceInfo
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, UpdateNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from prebuilds.api import StackUnreachable, WrongDeployment
from prebuilds.vocabulary.plain_text import escape

KEY = "prebuilds.deployment."
NOT_PERMITTED = (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED, RPCStatusCode.UNIMPLEMENTED)
NOT_WRITABLE = (*NOT_PERMITTED, RPCStatusCode.INVALID_ARGUMENT, RPCStatusCode.FAILED_PRECONDITION)
"""How servers refuse to change a namespace: by credentials, or as a cluster that only follows another one."""
SHOWN_MAX = 200
"""Characters of a mark that a message shows: anybody may have written it."""
POINT_OR_ADOPT = (
    "point PREBUILDS_DATABASE_URL, TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE at one deployment, "
    "or bind these two on purpose with `prebuilds init --adopt`"
)


@dataclass(frozen=True, slots=True)
class DatabaseSide:
    """What the database has recorded."""

    where: str
    """`host:port/name`, never with a user or a password."""
    deployment_id: UUID
    namespace_id: str | None
    """The namespace's own id, which a namespace that is made anew does not have; None: bound to none yet."""
    namespace: str | None
    """Its name when it was bound."""

    def __str__(self) -> str:
        return f"the database {self.where} (deployment {self.deployment_id})"


@dataclass(frozen=True, slots=True)
class NamespaceSide:
    """What the Temporal namespace has recorded."""

    name: str
    address: str
    id: str | None
    """None: these credentials may not describe the namespace, and nothing else is known of it."""
    marks: Mapping[UUID, str] = field(default_factory=dict)
    """Deployments that are bound to it -> their database, in words; more than one only while two are being bound."""

    def __str__(self) -> str:
        return f"the Temporal namespace {self.name} at {self.address}"

    def others(self, deployment_id: UUID) -> dict[UUID, str]:
        return {other: told for other, told in self.marks.items() if other != deployment_id}


class Fit(StrEnum):
    BOUND = "bound"
    DATABASE_ALONE = "database_alone"
    """The database names this namespace, which has no mark of anybody: it could not be written."""
    UNBOUND = "unbound"
    """One side or both have no record yet, and neither belongs to anything else."""
    DATABASE_ELSEWHERE = "database_elsewhere"
    """The database belongs to another namespace."""
    NAMESPACE_ELSEWHERE = "namespace_elsewhere"
    """The namespace belongs to another deployment."""
    UNKNOWN = "unknown"
    """These credentials may not describe the namespace, and its name contradicts nothing."""


def check_binding(database: DatabaseSide, namespace: NamespaceSide) -> Fit:
    """Whether a database and a namespace belong together, by what both have recorded."""
    if namespace.id is None:
        known = database.namespace in (None, namespace.name)
        return Fit.UNKNOWN if known else Fit.DATABASE_ELSEWHERE
    if database.namespace_id not in (None, namespace.id):
        return Fit.DATABASE_ELSEWHERE
    if database.deployment_id in namespace.marks:
        return Fit.BOUND if database.namespace_id is not None else Fit.UNBOUND
    if namespace.marks:
        return Fit.NAMESPACE_ELSEWHERE
    return Fit.DATABASE_ALONE if database.namespace_id is not None else Fit.UNBOUND


def require_fit(database: DatabaseSide, namespace: NamespaceSide) -> Fit:
    """The same, refusing what does not belong together.

    Raises:
        WrongDeployment: One of the two belongs to something else; says what each belongs to, and what to do.
        StackUnreachable: They are not bound to each other yet.
    """
    fit = check_binding(database, namespace)
    details = {
        "database": database.where,
        "deployment_id": str(database.deployment_id),
        "namespace": namespace.name,
        "address": namespace.address,
        "belongs_to": [str(other) for other in namespace.others(database.deployment_id)],
    }
    if fit is Fit.DATABASE_ELSEWHERE:
        own = f"{database} belongs to the Temporal namespace {database.namespace} (id {database.namespace_id})"
        told = f", which belongs to {_owners(namespace, database)}" if namespace.others(database.deployment_id) else ""
        id_ = "" if namespace.id is None else f" (id {namespace.id})"
        raise WrongDeployment(f"{own}, not to {namespace}{id_}{told}; {POINT_OR_ADOPT}", details)
    if fit is Fit.NAMESPACE_ELSEWHERE:
        own = f"{namespace} belongs to {_owners(namespace, database)}, not to {database}"
        raise WrongDeployment(f"{own}; {POINT_OR_ADOPT}", details)
    if fit is Fit.UNBOUND:
        raise StackUnreachable(f"{database} and {namespace} are not bound to each other yet; run `prebuilds init`")
    return fit


def require_expected(expected: UUID, namespace: NamespaceSide) -> None:
    """Refuse a namespace that belongs to another deployment than *expected*; one with no mark tells nothing.

    Raises:
        WrongDeployment: Says whose it is.
    """
    if not namespace.marks or expected in namespace.marks:
        return
    raise WrongDeployment(
        f"{namespace} belongs to {_owners(namespace)}, not to deployment {expected}, which PREBUILDS_DEPLOYMENT or the "
        "running `prebuilds dev` names; point TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE at that deployment, or correct "
        "PREBUILDS_DEPLOYMENT",
        {"namespace": namespace.name, "address": namespace.address, "expected": str(expected)},
    )


def _owners(namespace: NamespaceSide, database: DatabaseSide | None = None) -> str:
    others = namespace.others(database.deployment_id) if database is not None else namespace.marks
    return " and ".join(f"deployment {other} (database {told})" for other, told in others.items())


async def read_namespace(client: Client) -> NamespaceSide:
    """What the client's namespace has recorded: one call, of about a millisecond.

    Raises:
        RPCError: Temporal does not answer, or has no such namespace.
    """
    name, address = client.namespace, client.service_client.config.target_host
    try:
        found = await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=name))
    except RPCError as error:
        if error.status in NOT_PERMITTED:
            return NamespaceSide(name, address, None)
        raise
    info = found.namespace_info
    return NamespaceSide(name, address, info.id or None, _marks(info.data))


async def write_marks(client: Client, marks: Mapping[UUID, str]) -> bool:
    """Set marks of the client's namespace, in one write; an empty one is a mark withdrawn.

    Returns:
        Whether it was written; False where the server does not let us.
    Raises:
        RPCError: Temporal does not answer.
    """
    data = {f"{KEY}{deployment_id}": told for deployment_id, told in marks.items()}
    try:
        await client.workflow_service.update_namespace(
            UpdateNamespaceRequest(namespace=client.namespace, update_info=UpdateNamespaceInfo(data=data))
        )
    except RPCError as error:
        if error.status in NOT_WRITABLE:
            return False
        raise
    return True


def _marks(data: Mapping[str, str]) -> dict[UUID, str]:
    found = {}
    for key in sorted(data):
        if not key.startswith(KEY) or not data[key]:
            continue
        try:
            deployment_id = UUID(key.removeprefix(KEY))
        except ValueError:
            continue
        found[deployment_id] = escape(data[key][:SHOWN_MAX])
    return found
