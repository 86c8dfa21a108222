"""Alembic's entry point: runs the migrations on the connection that `prebuilds.store.migrate` provides."""

from alembic import context

from prebuilds.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
