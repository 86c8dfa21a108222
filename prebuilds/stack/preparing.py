"""Preparing an embedded stack's database and Temporal before the workers start."""

from __future__ import annotations

from prebuilds.background.deployment import Bound, bind_deployment, check_database
from prebuilds.settings import load_settings
from prebuilds.store.engine import create_engine
from prebuilds.store.migrate import migrate
from prebuilds.temporal.connecting import connect

NAMESPACE = "default"
"""The dev server's namespace. Its workers use it whatever the environment says."""


async def set_up(database_url: str, temporal_address: str) -> Bound:
    """Migrate the schema, and bind the two servers to each other. Returns the binding.

    One stack owns both servers, so the binding replaces an earlier one of either.

    Raises:
        WrongDeployment: The database belongs to another deployment than the one that PREBUILDS_DEPLOYMENT names.
    """
    engine = create_engine(database_url, statement_timeout=None)
    try:
        await migrate(engine, finish=True)  # all processes of a stack are of one release
        await check_database(engine, database_url, load_settings().deployment)
        client = await connect(temporal_address, namespace=NAMESPACE)
        return await bind_deployment(engine, client, database_url, actor="prebuilds dev", adopt=True, owned=True)
    finally:
        await engine.dispose()
