"""Checks that a database and a Temporal namespace belong together, and binds them to each other."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError

from prebuilds.api import StackUnreachable, WrongDeployment
from prebuilds.failures.database import CONNECTION_LOST, reaching
from prebuilds.store.binding import binding_turn, read_binding, record_binding
from prebuilds.store.engine import database_named
from prebuilds.temporal.binding import (
    DatabaseSide,
    Fit,
    NamespaceSide,
    check_binding,
    read_namespace,
    require_fit,
    write_marks,
)
from prebuilds.temporal.connecting import described
from prebuilds.temporal.queues import queues_without_pollers
from prebuilds.vocabulary import CLAIMS_QUEUE, CONTROL_QUEUE, ORCHESTRATOR_ID

logger = logging.getLogger(__name__)

WATCH_INTERVAL_S = 60.0
"""The time between a worker's checks, in seconds. Each check reads a row and makes one call."""
TRIES_MAX = 5
TRY_AGAIN_WITHIN_S = 0.5
"""The longest pause before another try, in seconds. Two deployments that write their marks at the same moment both
withdraw; random pauses make them try again at different times."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The outcome of binding a database and a namespace."""

    deployment_id: UUID
    namespace: str
    fit: Fit
    """`UNKNOWN`: nothing was bound, since the namespace cannot be described."""
    changed: bool
    """Whether this call has changed anything."""
    replaced: tuple[str, ...] = ()
    """The bindings that were replaced, each as a sentence for people."""


async def check_deployment(
    engine: AsyncEngine, client: Client, database_url: str, expected: UUID | None = None
) -> tuple[DatabaseSide, NamespaceSide, Fit]:
    """Check that a database and a namespace belong together. The check reads a row and makes one call.

    Args:
        database_url: The URL of *engine*, for the message.
        expected: The deployment that PREBUILDS_DEPLOYMENT names; None accepts whichever the database has.
    Returns:
        What each side has recorded, and how they fit.
    Raises:
        WrongDeployment: One of the two belongs to something else.
        StackUnreachable: They are not bound to each other yet, or the database is away.
        RPCError: Temporal does not answer, or has no such namespace.
    """
    database = await check_database(engine, database_url, expected)
    namespace = await read_namespace(client)
    fit = require_fit(database, namespace)
    if fit is Fit.UNKNOWN:
        logger.warning(
            "Cannot check which deployment the Temporal namespace belongs to: these credentials may not describe it"
        )
    return database, namespace, fit


async def watch_deployment(
    engine: AsyncEngine, client: Client, database_url: str, expected: UUID | None = None
) -> None:
    """Repeat `check_deployment` until the two no longer belong together.

    While a worker runs, another deployment may adopt its namespace, or another deployment's Temporal may come up at the
    same address.

    Raises:
        WrongDeployment: One of the two belongs to something else.
    """
    while True:
        await asyncio.sleep(WATCH_INTERVAL_S)
        with suppress(StackUnreachable, RPCError, SQLAlchemyError, *CONNECTION_LOST):  # an outage ends by itself
            require_fit(await check_database(engine, database_url, expected), await read_namespace(client))


async def check_database(engine: AsyncEngine, database_url: str, expected: UUID | None) -> DatabaseSide:
    """Check that a database belongs to the deployment *expected*; None accepts any.

    Raises:
        WrongDeployment: The database belongs to another deployment.
        StackUnreachable: The database is away.
    """
    with reaching("its deployment was read"):
        database = await read_binding(engine, database_named(database_url))
    if expected not in (None, database.deployment_id):
        raise WrongDeployment(
            f"PREBUILDS_DEPLOYMENT names deployment {expected}, and {database} is another one",
            {"database": database.where, "deployment_id": str(database.deployment_id), "expected": str(expected)},
            remedy="correct PREBUILDS_DEPLOYMENT, or point PREBUILDS_DATABASE_URL at that deployment",
        )
    return database


async def bind_deployment(
    engine: AsyncEngine, client: Client, database_url: str, *, actor: str, adopt: bool = False, owned: bool = False
) -> Bound:
    """Bind a database and a namespace to each other. It is safe to repeat, and to run in several processes at once.

    The namespace is marked before the database is written. If the process dies between the two, the mark keeps other
    deployments out, the database is still unbound, and the next call completes the binding.

    Args:
        actor: Who binds them, for the events.
        adopt: Whether to bind them even when one of the two belongs to something else; that binding is replaced.
        owned: Whether nobody else can use the namespace, so that *adopt* need not check that it is unused.
    Raises:
        WrongDeployment: One of the two belongs to something else, or the deployment that *adopt* would replace is in
            use.
        StackUnreachable: Other processes have bound them at the same time in each of five tries.
        RPCError: Temporal does not answer, or has no such namespace.
    """
    async with binding_turn(engine):
        for _ in range(TRIES_MAX):
            bound = await _try_to_bind(engine, client, database_url, actor, adopt=adopt, owned=owned)
            if bound is not None:
                return bound
            await asyncio.sleep(random.uniform(0, TRY_AGAIN_WITHIN_S))  # noqa: S311 - two that collide must differ
    raise StackUnreachable(
        "others bind this database or this namespace at the same time", remedy="run `prebuilds init` again"
    )


async def _try_to_bind(
    engine: AsyncEngine, client: Client, database_url: str, actor: str, *, adopt: bool, owned: bool
) -> Bound | None:
    """Try to bind them once. None: another process has interfered, and this try was undone."""
    database, namespace = await read_binding(engine, database_named(database_url)), await read_namespace(client)
    fit = check_binding(database, namespace)
    if fit in (Fit.BOUND, Fit.UNKNOWN):
        return Bound(database.deployment_id, namespace.name, fit, changed=False)
    if fit in (Fit.DATABASE_ELSEWHERE, Fit.NAMESPACE_ELSEWHERE) and not adopt:
        require_fit(database, namespace)
    others = namespace.others(database.deployment_id)
    if others and adopt and not owned:
        await _refuse_if_at_work(client, namespace)
    withdrawn = dict.fromkeys(others, "") if adopt else {}
    marked = await write_marks(client, {database.deployment_id: database.where, **withdrawn})
    if marked and not await _keep_mark_if_alone(client, database):
        return None
    recorded = fit is Fit.DATABASE_ALONE or await record_binding(engine, database, namespace, actor)
    if not recorded:
        await write_marks(client, {database.deployment_id: ""})
        return None
    return Bound(
        database.deployment_id,
        namespace.name,
        Fit.BOUND if marked else Fit.DATABASE_ALONE,
        changed=marked or fit is not Fit.DATABASE_ALONE,
        replaced=_list_replaced(database, namespace),
    )


async def _keep_mark_if_alone(client: Client, database: DatabaseSide) -> bool:
    """Withdraw our mark if another deployment has marked the namespace too; return whether our mark stays.

    A deployment that finds its mark alone may keep it, since any deployment that marks the namespace later reads that
    mark and withdraws its own.
    """
    after = await read_namespace(client)
    if set(after.marks) == {database.deployment_id}:
        return True
    await write_marks(client, {database.deployment_id: ""})
    return False


async def _refuse_if_at_work(client: Client, namespace: NamespaceSide) -> None:
    """Refuse to adopt a namespace in which workers or the loop run. They checked the binding when they started, and
    would continue to use the namespace.

    Raises:
        WrongDeployment: The namespace is in use.
    """
    queues = (CONTROL_QUEUE, CLAIMS_QUEUE)
    served = sorted(set(queues) - await queues_without_pollers(client, queues, "workflow"))
    loop = await described(client, ORCHESTRATOR_ID)
    signs = [f"workers poll {' and '.join(served)}"] if served else []
    if loop is not None and loop.status is WorkflowExecutionStatus.RUNNING:
        signs.append("its loop runs")
    if signs:
        raise WrongDeployment(
            f"{namespace} is in use by {' and '.join(f'deployment {other}' for other in namespace.marks)}: "
            f"{', and '.join(signs)}",
            remedy="there run `prebuilds stop --wait`, end its workers and wait 90 s, or where that deployment is lost "
            f"run `temporal workflow terminate --workflow-id {ORCHESTRATOR_ID}`, and adopt again",
        )


def _list_replaced(database: DatabaseSide, namespace: NamespaceSide) -> tuple[str, ...]:
    before = []
    if database.namespace_id not in (None, namespace.id):
        before.append(f"the database belonged to namespace {database.namespace} (id {database.namespace_id})")
    before += [
        f"the namespace belonged to deployment {other} (database {mark})"
        for other, mark in namespace.others(database.deployment_id).items()
    ]
    return tuple(before)
