"""Sets up a deployment, and lets it continue after its database was restored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta

from prebuilds.api import StackUnreachable
from prebuilds.background.deployment import bind_deployment
from prebuilds.failures.temporal import asking_temporal
from prebuilds.operations.context import Context
from prebuilds.operations.inventory import InventoryOperations
from prebuilds.operations.opening import open_database
from prebuilds.settings import database_url, load_settings, temporal_address
from prebuilds.store import migrate as migrating
from prebuilds.store import restoring
from prebuilds.store.claim_secrets import forget_request_key
from prebuilds.store.expanding import PATIENCE_S
from prebuilds.store.roles import check_roles, grant_roles, role_names
from prebuilds.temporal.connecting import connect
from prebuilds.temporal.search_attributes import register
from prebuilds.views import Binding, Initialized, Migrated, MigrationPlan, MigrationStep, RestoredReport
from prebuilds.vocabulary.actors import Actor

PATIENCE = timedelta(seconds=PATIENCE_S)


@dataclass(frozen=True, slots=True)
class SystemOperations:
    """Operations on a deployment as a whole."""

    context: Context

    async def restored(self, actor: Actor, *, dry_run: bool = False) -> RestoredReport:
        """Confirm that the database was restored: mark every prebuild that it may be wrong about as in doubt, and let
        claims and passes continue.

        Args:
            dry_run: Change nothing; also ask every host which workspaces it knows to be claimed.
        """
        done = await restoring.restored(self.context.engine, actor.name, dry_run=dry_run)
        if not dry_run:
            await self.context.nudge()
            return done.report
        seen = await InventoryOperations(self.context.client).compare()
        claimed = [row for row in seen.findings if row.claimed_by is not None and row.finding != "vanished"]
        return done.report.model_copy(update={"claimed": claimed, "not_asked": seen.unavailable})


def _tell_nobody(_: str) -> None:
    pass


async def migrate(
    *,
    finish: bool = False,
    patience: timedelta = PATIENCE,
    roles: str | None = None,
    tell: Callable[[str], None] = _tell_nobody,
) -> Migrated:
    """Create or upgrade the schema of the environment's database, beside workers of the release before. It is safe to
    repeat and to run concurrently.

    Args:
        finish: Those workers have all ended: shut their release out, and drop what only it needed.
        patience: How long each step waits for others' transactions.
        roles: Grant `ROLES_worker`, `ROLES_server` and `ROLES_reader` what they need; None grants nothing.
        tell: Called with a line for each step.
    Raises:
        InvalidInput: One of the roles does not exist; then nothing is changed.
        StackUnreachable: The database does not answer, its version is too old, or its schema is newer than this
            release.
        MigrationBlocked: Others' transactions have lasted for longer than *patience*.
    """
    async with open_database(any_schema=True) as engine:
        if roles is not None:
            await check_roles(engine, roles)
        done = await migrating.migrate(engine, finish=finish, patience_s=patience.total_seconds(), tell=tell)
        warnings = await grant_roles(engine, roles) if roles is not None else []
    return Migrated(
        schema_before=done.before,
        schema_now=done.now,
        steps=done.steps,
        finished=done.finished,
        roles=list(role_names(roles).values()) if roles is not None else [],
        warnings=warnings,
    )


async def plan_migration() -> MigrationPlan:
    """Say what `migrate` would do. Changes nothing. Raises StackUnreachable as `migrate` does."""
    async with open_database(any_schema=True) as engine:
        plan = await migrating.plan(engine)
    return MigrationPlan(
        schema_before=plan.before,
        schema_now=migrating.head_revision(),
        needed=plan.needed,
        steps=[MigrationStep(name=step.name, kind=step.kind) for step in plan.steps],
        finished=plan.finished,
    )


async def init(
    actor: Actor,
    *,
    adopt: bool = False,
    forget_state_key: bool = False,
    roles: str | None = None,
    tell: Callable[[str], None] = _tell_nobody,
) -> Initialized:
    """Set up a deployment: migrate the database, register Temporal's search attributes, and bind the database and the
    namespace to each other. It is safe to repeat.

    Args:
        adopt: Bind the two also when one of them is bound to something else.
        forget_state_key: Continue without a lost state key, and delete what was encrypted with it.
        roles, tell: As for `migrate`.
    Returns:
        What was done. If Temporal does not answer, its part is missing: `binding` is None.
    Raises:
        InvalidInput, StackUnreachable: As for `migrate`.
        WrongDeployment: One of the two is bound to something else, or *adopt* would replace a binding that is in use.
    """
    schema = await migrate(roles=roles, tell=tell)
    if forget_state_key:
        async with open_database() as engine:
            await forget_request_key(engine)
    binding: Binding | None = None
    try:
        attributes, binding = await _bind(actor, adopt)
    except StackUnreachable as error:
        attributes = f"not done: {error}"
    return Initialized(
        **dict(schema),
        search_attributes=attributes,
        binding=binding,
    )


async def _bind(actor: Actor, adopt: bool) -> tuple[str, Binding]:
    settings = load_settings()
    async with open_database() as engine:
        client = await connect(temporal_address(settings))
        with asking_temporal():
            bound = await bind_deployment(engine, client, database_url(settings), actor=actor.name, adopt=adopt)
    registered = "registered" if await register(client) else "refused by the cluster; everything works without them"
    return registered, Binding.model_validate(asdict(bound) | {"fit": bound.fit.value})
