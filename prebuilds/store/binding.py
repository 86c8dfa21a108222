"""Which Temporal namespace this database belongs to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.store.events import record_event
from prebuilds.temporal.binding import DatabaseSide, NamespaceSide

READ = text("SELECT deployment_id, temporal_namespace_id, temporal_namespace FROM settings")
# Only over what was read before, so that of two `init`s that bind this database at once one finds itself late.
BIND = text("""
    UPDATE settings SET temporal_namespace_id = :id, temporal_namespace = :name
     WHERE temporal_namespace_id IS NOT DISTINCT FROM CAST(:before AS text)
 RETURNING id
""")


BINDING_LOCK = 0x7072656275696C62


@asynccontextmanager
async def binding_turn(engine: AsyncEngine) -> AsyncIterator[None]:
    """Only one process at a time binds this database: two would set and withdraw the same mark of the namespace."""
    async with engine.begin() as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": BINDING_LOCK})
        yield


async def read_binding(engine: AsyncEngine, where: str) -> DatabaseSide:
    """What the database has recorded; *where* is how messages name it."""
    async with engine.connect() as connection:
        row = (await connection.execute(READ)).one()
    return DatabaseSide(where, row.deployment_id, row.temporal_namespace_id, row.temporal_namespace)


async def record_binding(engine: AsyncEngine, database: DatabaseSide, namespace: NamespaceSide, actor: str) -> bool:
    """Bind the database to *namespace*, with an event.

    Args:
        database: As it was read; what it is bound to is replaced.
        namespace: One whose id is known.
    Returns:
        Whether this call did; False when the database was bound by somebody else meanwhile.
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
