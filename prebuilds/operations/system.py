"""Setting a deployment up, and going on after its database was restored."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from prebuilds.api import StackUnreachable
from prebuilds.background.deployment import bind_deployment
from prebuilds.failures.temporal import asking_temporal
from prebuilds.operations.context import Context
from prebuilds.operations.inventory import InventoryOperations
from prebuilds.operations.opening import open_database
from prebuilds.settings import database_url, load_settings, temporal_address
from prebuilds.store import restoring
from prebuilds.store.claim_secrets import forget_request_key
from prebuilds.store.migrate import migrate as migrate_schema
from prebuilds.temporal.connecting import connect
from prebuilds.temporal.search_attributes import register
from prebuilds.views import Binding, Initialized, Migrated, RestoredReport
from prebuilds.vocabulary.actors import Actor


@dataclass(frozen=True, slots=True)
class SystemOperations:
    context: Context

    async def restored(self, actor: Actor, *, dry_run: bool = False) -> RestoredReport:
        """After a restore: doubt what the database may be wrong about, and let claims and passes go on.

        Args:
            dry_run: Change nothing, and ask the hosts what they know to be somebody's.
        """
        done = await restoring.restored(self.context.engine, actor.name, dry_run=dry_run)
        if not dry_run:
            await self.context.nudge()
            return done.report
        seen = await InventoryOperations(self.context.client).compare()
        claimed = [row for row in seen.findings if row.claimed_by is not None and row.finding != "vanished"]
        return done.report.model_copy(update={"claimed": claimed, "not_asked": seen.unavailable})


async def migrate() -> Migrated:
    """Create or upgrade the schema of the environment's database; safe to repeat, and to run at the same time from
    several places.

    Raises:
        StackUnreachable: The database does not answer, is too old, or its schema is newer than this release.
    """
    async with open_database(any_schema=True) as engine:
        before, now = await migrate_schema(engine)
    return Migrated(schema_before=before, schema_now=now)


async def init(actor: Actor, *, adopt: bool = False, forget_state_key: bool = False) -> Initialized:
    """Migrate, then register Temporal's search attributes, and bind the database and the namespace to each other. Safe
    to repeat.

    Args:
        adopt: Bind them also when one of them belongs to something else.
        forget_state_key: Go on without a state key that is lost, and without what it encrypted.
    Returns:
        What was done. When Temporal does not answer, its part is still to be done: `binding` is None.
    Raises:
        StackUnreachable: As `migrate` does.
        WrongDeployment: One of the two belongs to something else, or what *adopt* would replace is at work.
    """
    schema = await migrate()
    if forget_state_key:
        async with open_database() as engine:
            await forget_request_key(engine)
    binding: Binding | None = None
    try:
        attributes, binding = await _bind(actor, adopt)
    except StackUnreachable as error:
        attributes = f"not done: {error}"
    return Initialized(
        schema_before=schema.schema_before,
        schema_now=schema.schema_now,
        search_attributes=attributes,
        binding=binding,
    )


async def _bind(actor: Actor, adopt: bool) -> tuple[str, Binding]:
    settings = load_settings()
    async with open_database() as engine:
        client = await connect(temporal_address(settings))
        with asking_temporal():
            bound = await bind_deployment(engine, client, database_url(settings), actor=actor.name, adopt=adopt)
    registered = "registered" if await register(client) else "refused by the cluster; all works without them"
    return registered, Binding.model_validate(asdict(bound) | {"fit": bound.fit.value})
