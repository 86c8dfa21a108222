"""The binding of a database and a Temporal namespace: what each side has recorded, and whether both records agree.

The database's settings name the one namespace that it uses. The namespace's own data, which no retention deletes, has a
mark for each deployment that was ever bound to it. A mark's key is `prebuilds.deployment.ID`. Its value names the
database, and is empty once another deployment has adopted the namespace. Each deployment has a key of its own, since a
server merges keys and has no conditional write: when two deployments write at the same time, at least one of them reads
the other's mark afterwards.
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
"""The statuses with which servers refuse to change a namespace: the credentials do not permit it, or the cluster is a
passive replica of another one."""
SHOWN_MAX = 200
"""How many characters of a mark a message shows. Anybody may have written the mark."""
POINT_OR_ADOPT = (
    "point PREBUILDS_DATABASE_URL, TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE at one deployment, "
    "or bind these two on purpose with `prebuilds init --adopt`"
)


@dataclass(frozen=True, slots=True)
class DatabaseSide:
    """What the database has recorded."""

    where: str
    """`host:port/name`, without user and password."""
    deployment_id: UUID
    namespace_id: str | None
    """The id of the namespace that it is bound to; None when it is not bound yet. A namespace that is created again
    under the same name has another id."""
    namespace: str | None
    """The name that the namespace had when it was bound; None when it is not bound yet."""

    def __str__(self) -> str:
        return f"the database {self.where} (deployment {self.deployment_id})"


@dataclass(frozen=True, slots=True)
class NamespaceSide:
    """What the Temporal namespace has recorded."""

    name: str
    address: str
    id: str | None
    """None: these credentials may not describe the namespace, so that nothing else is known of it."""
    marks: Mapping[UUID, str] = field(default_factory=dict)
    """The deployments that are bound to it, each with the name of its database. There is more than one only while two
    deployments are being bound."""

    def __str__(self) -> str:
        return f"the Temporal namespace {self.name} at {self.address}"

    def others(self, deployment_id: UUID) -> dict[UUID, str]:
        """Return the marks of all other deployments than this one."""
        return {other: database for other, database in self.marks.items() if other != deployment_id}


class Fit(StrEnum):
    """How the records of a database and a namespace fit together."""

    BOUND = "bound"
    """Each of them names the other."""
    DATABASE_ALONE = "database_alone"
    """The database names this namespace, but the namespace has no mark, since it could not be written."""
    UNBOUND = "unbound"
    """One side or both have no record yet, and neither belongs to anything else."""
    DATABASE_ELSEWHERE = "database_elsewhere"
    """The database belongs to another namespace."""
    NAMESPACE_ELSEWHERE = "namespace_elsewhere"
    """The namespace belongs to another deployment."""
    UNKNOWN = "unknown"
    """These credentials may not describe the namespace, and its name contradicts nothing."""


def check_binding(database: DatabaseSide, namespace: NamespaceSide) -> Fit:
    """Return how a database and a namespace fit together, by what both have recorded."""
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
    """Return the same as `check_binding`, but refuse a database and a namespace that do not belong together.

    Raises:
        WrongDeployment: One of the two belongs to something else. The message says to what, and what to do.
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
        other = f", which belongs to {_owners(namespace, database)}" if namespace.others(database.deployment_id) else ""
        id_ = "" if namespace.id is None else f" (id {namespace.id})"
        raise WrongDeployment(f"{own}, not to {namespace}{id_}{other}", details, remedy=POINT_OR_ADOPT)
    if fit is Fit.NAMESPACE_ELSEWHERE:
        own = f"{namespace} belongs to {_owners(namespace, database)}, not to {database}"
        raise WrongDeployment(own, details, remedy=POINT_OR_ADOPT)
    if fit is Fit.UNBOUND:
        raise StackUnreachable(
            f"{database} and {namespace} are not bound to each other yet", remedy="run `prebuilds init`"
        )
    return fit


def require_expected(expected: UUID, namespace: NamespaceSide) -> None:
    """Refuse a namespace that belongs to another deployment than *expected*. A namespace without marks is accepted.

    Raises:
        WrongDeployment: The namespace belongs to another deployment, which the message names.
    """
    if not namespace.marks or expected in namespace.marks:
        return
    raise WrongDeployment(
        f"{namespace} belongs to {_owners(namespace)}, not to deployment {expected}, which PREBUILDS_DEPLOYMENT or the "
        "running `prebuilds dev` names",
        {"namespace": namespace.name, "address": namespace.address, "expected": str(expected)},
        remedy="point TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE at that deployment, or correct PREBUILDS_DEPLOYMENT",
    )


def _owners(namespace: NamespaceSide, database: DatabaseSide | None = None) -> str:
    others = namespace.others(database.deployment_id) if database is not None else namespace.marks
    return " and ".join(f"deployment {other} (database {where})" for other, where in others.items())


async def read_namespace(client: Client) -> NamespaceSide:
    """Read what the client's namespace has recorded. It takes one call of about a millisecond.

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
    return NamespaceSide(name, address, info.id or None, _parse_marks(info.data))


async def write_marks(client: Client, marks: Mapping[UUID, str]) -> bool:
    """Write marks to the client's namespace, in one write. An empty text withdraws a mark.

    Returns:
        Whether they were written; False when the server does not permit it.
    Raises:
        RPCError: Temporal does not answer.
    """
    data = {f"{KEY}{deployment_id}": mark for deployment_id, mark in marks.items()}
    try:
        await client.workflow_service.update_namespace(
            UpdateNamespaceRequest(namespace=client.namespace, update_info=UpdateNamespaceInfo(data=data))
        )
    except RPCError as error:
        if error.status in NOT_WRITABLE:
            return False
        raise
    return True


def _parse_marks(data: Mapping[str, str]) -> dict[UUID, str]:
    """Return the marks in a namespace's data, without withdrawn ones and keys that are not ours."""
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
