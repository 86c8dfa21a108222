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
from prebuilds.store.binding import binding_turn, read_binding, record_binding
from prebuilds.store.engine import CONNECTION_LOST, database_named, reaching
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
"""Between a worker's checks. Each reads a row and makes one call."""
TRIES_MAX = 5
TRY_AGAIN_WITHIN_S = 0.5
"""For two deployments that write their marks at the same moment: both withdraw, and try again at different times."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A database and a namespace, as they are bound now."""

    deployment_id: UUID
    namespace: str
    fit: Fit
    """`UNKNOWN`: nothing was bound, since the namespace cannot be described."""
    changed: bool
    replaced: tuple[str, ...] = ()
    """What either of them belonged to before, in words."""


async def check_deployment(
    engine: AsyncEngine, client: Client, database_url: str, expected: UUID | None = None
) -> tuple[DatabaseSide, NamespaceSide, Fit]:
    """Refuse to go on with a database and a namespace that do not belong together. Reads a row and makes one call.

    Args:
        database_url: Of *engine*, for the message.
        expected: The deployment that PREBUILDS_DEPLOYMENT names; None for whichever the database has.
    Raises:
        WrongDeployment: One of the two belongs to something else.
        StackUnreachable: They are not bound to each other yet.
        RPCError: Temporal does not answer, or has no such namespace.
    """
    database = await check_database(engine, database_url, expected)
    namespace = await read_namespace(client)
    fit = require_fit(database, namespace)
    if fit is Fit.UNKNOWN:
        logger.warning("Cannot check whose the Temporal namespace is: these credentials may not describe it")
    return database, namespace, fit


async def watch_deployment(
    engine: AsyncEngine, client: Client, database_url: str, expected: UUID | None = None
) -> None:
    """Check again and again, until the two no longer belong together: while a worker runs, its namespace may be adopted
    by another deployment, or another one's Temporal may come up at the same address.

    Raises:
        WrongDeployment: As `check_deployment` does.
    """
    while True:
        await asyncio.sleep(WATCH_INTERVAL_S)
        with suppress(StackUnreachable, RPCError, SQLAlchemyError, *CONNECTION_LOST):  # what is away comes back
            require_fit(await check_database(engine, database_url, expected), await read_namespace(client))


async def check_database(engine: AsyncEngine, database_url: str, expected: UUID | None) -> DatabaseSide:
    """Refuse a database of another deployment than *expected*; None accepts any.

    Raises:
        WrongDeployment: Says which deployment the database is.
        StackUnreachable: It is away.
    """
    with reaching("its deployment was read"):
        database = await read_binding(engine, database_named(database_url))
    if expected not in (None, database.deployment_id):
        raise WrongDeployment(
            f"PREBUILDS_DEPLOYMENT names deployment {expected}, and {database} is another one; "
            "correct PREBUILDS_DEPLOYMENT, or point PREBUILDS_DATABASE_URL at that deployment",
            {"database": database.where, "deployment_id": str(database.deployment_id), "expected": str(expected)},
        )
    return database


async def bind_deployment(
    engine: AsyncEngine, client: Client, database_url: str, *, actor: str, adopt: bool = False, owned: bool = False
) -> Bound:
    """Bind a database and a namespace to each other; safe to repeat, and to run from several places at once.

    The namespace is marked first: a process that dies after it has refused others and claimed nothing, and the next
    call completes the binding.

    Args:
        adopt: Also when one of the two belongs to something else, which is replaced.
        owned: Nobody else can use the namespace, so that it is adopted whoever seems to be at work in it.
    Raises:
        WrongDeployment: One of the two belongs to something else, or what *adopt* would replace is at work.
        StackUnreachable: Others bind them at the same time, again and again.
        RPCError: Temporal does not answer, or has no such namespace.
    """
    async with binding_turn(engine):
        for _ in range(TRIES_MAX):
            bound = await _try_to_bind(engine, client, database_url, actor, adopt=adopt, owned=owned)
            if bound is not None:
                return bound
            await asyncio.sleep(random.uniform(0, TRY_AGAIN_WITHIN_S))  # noqa: S311 - two that collide must differ
    raise StackUnreachable("others bind this database or this namespace at the same time; run `prebuilds init` again")


async def _try_to_bind(
    engine: AsyncEngine, client: Client, database_url: str, actor: str, *, adopt: bool, owned: bool
) -> Bound | None:
    """One try; None when another process came between, and nothing of this try is left."""
    database, namespace = await read_binding(engine, database_named(database_url)), await read_namespace(client)
    fit = check_binding(database, namespace)
    if fit in (Fit.BOUND, Fit.UNKNOWN):
        return Bound(database.deployment_id, namespace.name, fit, changed=False)
    if fit in (Fit.DATABASE_ELSEWHERE, Fit.NAMESPACE_ELSEWHERE) and not adopt:
        require_fit(database, namespace)
    others = namespace.others(database.deployment_id)
    if others and adopt and not owned:
        await _refuse_if_at_work(client, namespace)
    given_up = dict.fromkeys(others, "") if adopt else {}
    marked = await write_marks(client, {database.deployment_id: database.where, **given_up})
    if marked and not await _is_ours_alone(client, database):
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
        replaced=_replaced(database, namespace),
    )


async def _is_ours_alone(client: Client, database: DatabaseSide) -> bool:
    """Whether no other deployment has marked the namespace; else ours is withdrawn. Whose mark is read alone may stay:
    whoever marks after that reads it, and withdraws."""
    after = await read_namespace(client)
    if set(after.marks) == {database.deployment_id}:
        return True
    await write_marks(client, {database.deployment_id: ""})
    return False


async def _refuse_if_at_work(client: Client, namespace: NamespaceSide) -> None:
    """What runs has checked whose the namespace is when it started, and would go on in it."""
    queues = (CONTROL_QUEUE, CLAIMS_QUEUE)
    served = sorted(set(queues) - await queues_without_pollers(client, queues, "workflow"))
    loop = await described(client, ORCHESTRATOR_ID)
    signs = [f"workers poll {' and '.join(served)}"] if served else []
    if loop is not None and loop.status is WorkflowExecutionStatus.RUNNING:
        signs.append("its loop runs")
    if signs:
        raise WrongDeployment(
            f"{namespace} is in use by {' and '.join(f'deployment {other}' for other in namespace.marks)}: "
            f"{', and '.join(signs)}; there run `prebuilds stop --wait`, end its workers and wait 90 s, or where that "
            f"deployment is lost run `temporal workflow terminate --workflow-id {ORCHESTRATOR_ID}`, and adopt again"
        )


def _replaced(database: DatabaseSide, namespace: NamespaceSide) -> tuple[str, ...]:
    before = []
    if database.namespace_id not in (None, namespace.id):
        before.append(f"the database belonged to namespace {database.namespace} (id {database.namespace_id})")
    before += [
        f"the namespace belonged to deployment {other} (database {told})"
        for other, told in namespace.others(database.deployment_id).items()
    ]
    return tuple(before)
