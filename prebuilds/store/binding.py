"""The database's side of its binding to a Temporal namespace."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.store.events import record_event
from prebuilds.temporal.binding import DatabaseSide, NamespaceSide

READ = text("SELECT deployment_id, temporal_namespace_id, temporal_namespace FROM settings")
# The update requires the binding that was read before, so that one of two concurrent `init`s fails.
BIND = text("""
    UPDATE settings SET temporal_namespace_id = :id, temporal_namespace = :name
     WHERE temporal_namespace_id IS NOT DISTINCT FROM CAST(:before AS text)
 RETURNING id
""")


BINDING_LOCK = 0x7072656275696C62


@asynccontextmanager
async def binding_turn(engine: AsyncEngine) -> AsyncIterator[None]:
    """Let one process at a time bind this database. Two at once would set and remove the same mark of the namespace."""
    async with engine.begin() as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": BINDING_LOCK})
        yield


async def read_binding(engine: AsyncEngine, where: str) -> DatabaseSide:
    """Read the recorded binding. *where* is the database's name in messages."""
    async with engine.connect() as connection:
        row = (await connection.execute(READ)).one()
    return DatabaseSide(where, row.deployment_id, row.temporal_namespace_id, row.temporal_namespace)


async def record_binding(engine: AsyncEngine, database: DatabaseSide, namespace: NamespaceSide, actor: str) -> bool:
    """Bind the database to *namespace*, and record an event.

    Args:
        database: The binding that was read before; it is replaced.
        namespace: The namespace, with its id.
        actor: Who binds it, for the event.
    Returns:
        Whether this call bound it; False when another process did meanwhile.
    """
    before = {"id": namespace.id, "name": namespace.name, "before": database.namespace_id}
    adopted_from = [str(other) for other in namespace.others(database.deployment_id)]
    data = {
        "namespace": namespace.name,
        "namespace_id": namespace.id,
        "address": namespace.address,
        "namespace_before": database.namespace,
        "namespace_id_before": database.namespace_id,
        "adopted_from": adopted_from,
    }
    async with engine.begin() as connection:
        if await connection.scalar(BIND, before) is None:
            return False
        await record_event(connection, "deployment_bound", actor, data=data)
    return True
