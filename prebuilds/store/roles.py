"""Grants least-privilege database roles what they need: one for workers, one for HTTP servers, one for dashboards.

The role that owns the tables grants; it needs no right beyond that. Whoever administers the server makes the roles
themselves, with their passwords (decision 0035). Grants are repeated with each schema version.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import InvalidInput
from prebuilds.store.tables import metadata

WORKER, SERVER, READER = KINDS = ("worker", "server", "reader")
"""Suffixes of the roles: `PREFIX_worker` is for control, claims and provisioner workers, `PREFIX_server` for HTTP
servers and commands, `PREFIX_reader` for dashboards and reports."""

GRANT_LOCK = 0x7072656272_6F6C65
"""Advisory lock: two grants at the same time would end one of them with `tuple concurrently updated`."""
VERSION_TABLE = "alembic_version"
ALL: Final = "SELECT, INSERT, UPDATE, DELETE"
_OF_BOTH: Mapping[str, str] = {VERSION_TABLE: "SELECT", "schema_steps": "SELECT", "settings": "SELECT, UPDATE"}
OF_WORKERS: Mapping[str, str] = {
    **_OF_BOTH,
    # What the clean-up of old rows needs. PostgreSQL asks whoever locks a row for the right to update some column.
    "tokens": "SELECT (id, revoked_at, expires_at), UPDATE (last_used_at), DELETE",
    "sign_in_links": "SELECT (digest, expires_at), UPDATE (expires_at), DELETE",
}
"""A worker's rights where they are not all. Only servers and commands make tokens and see their digests."""
OF_SERVERS: Mapping[str, str] = {**_OF_BOTH, "tokens": "SELECT, INSERT, UPDATE"}
UNREADABLE_TABLES = frozenset(
    ("build_logs", "claim_secrets", "notifications", "operator_requests", "sign_in_links", "template_files")
)
"""Tables of which the reader sees nothing: secrets, and texts in which programs and people may have written some."""
UNREADABLE_COLUMNS: Mapping[str, frozenset[str]] = {
    "claim_queue": frozenset(("request", "secrets", "request_hash")),
    "claims": frozenset(("answer", "request_hash")),
    "drills": frozenset(("evidence",)),
    "settings": frozenset(("request_key",)),
    "template_versions": frozenset(("source",)),
    "templates": frozenset(("drill",)),
    "tokens": frozenset(("digest",)),
    "workspace_builds": frozenset(("provisioner_state",)),
    "workspaces": frozenset(("address", "resources")),
}
"""Columns that the reader does not see: keys and digests, a driver's state, addresses, which may hold a token, and
what programs have written."""

READ_ROLES = text("SELECT rolname FROM pg_roles WHERE rolname = ANY(CAST(:names AS text[]))")
READ_PLACE = text("SELECT quote_ident(current_schema()) AS schema, quote_ident(current_user) AS owner")
MAY_CREATE = text("""
    SELECT rolname FROM pg_roles
     WHERE rolname = ANY(CAST(:names AS text[])) AND has_schema_privilege(oid, current_schema(), 'CREATE')
     ORDER BY rolname
""")


def role_names(prefix: str) -> dict[str, str]:
    """Return the name of each role, by its kind."""
    return {kind: f"{prefix}_{kind}" for kind in KINDS}


async def check_roles(engine: AsyncEngine, prefix: str) -> None:
    """Check that all roles of *prefix* exist.

    Raises:
        InvalidInput: Some do not; the remedy has the statements that make them.
    """
    names = list(role_names(prefix).values())
    async with engine.connect() as connection:
        found = set(await connection.scalars(READ_ROLES, {"names": names}))
    if missing := [name for name in names if name not in found]:
        made = "; ".join(f"CREATE ROLE {_quoted(name)} LOGIN PASSWORD '...'" for name in missing)
        raise InvalidInput(
            f"the database's server has no role {' and no role '.join(missing)}",
            {"roles": f"{', '.join(missing)} must exist"},
            remedy=f"have an administrator of the server run: {made}",
        )


async def grant_roles(engine: AsyncEngine, prefix: str) -> list[str]:
    """Grant the roles of *prefix* what they need on the tables, and revoke what they no longer need.

    Tables that a later version adds are the workers' and servers' at once, by default privileges. The reader sees them
    once this has run again.

    Returns:
        Warnings: roles that can change the schema all the same.
    """
    async with engine.begin() as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": GRANT_LOCK})
        place = (await connection.execute(READ_PLACE)).one()
        for statement in grants(prefix, schema=place.schema, owner=place.owner):
            await connection.exec_driver_sql(statement)
        able = await connection.scalars(MAY_CREATE, {"names": list(role_names(prefix).values())})
    return [
        f"the role {name} can create tables in the schema {place.schema}: it is a superuser or a member of the owner, "
        f"or everybody can. Run, as the schema's owner: REVOKE CREATE ON SCHEMA {place.schema} FROM PUBLIC"
        for name in able
    ]


def grants(prefix: str, *, schema: str, owner: str) -> list[str]:
    """Return the statements that give the roles their rights, in their order.

    Args:
        schema: The tables' schema, quoted.
        owner: The tables' owner, quoted.
    """
    worker, server, reader = (_quoted(name) for name in role_names(prefix).values())
    both, every = f"{worker}, {server}", f"{worker}, {server}, {reader}"
    later = f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT"
    names = [VERSION_TABLE, *sorted(metadata.tables)]
    tables = ", ".join(f"{schema}.{name}" for name in names)
    statements = [
        f"GRANT USAGE ON SCHEMA {schema} TO {every}",
        f"{later} {ALL} ON TABLES TO {both}",
        f"{later} USAGE, SELECT ON SEQUENCES TO {both}",
        f"REVOKE ALL ON {tables} FROM {every}",
        f"GRANT USAGE, SELECT ON {_sequences(schema)} TO {both}",
    ]
    for role, exceptions in ((worker, OF_WORKERS), (server, OF_SERVERS)):
        rights = {name: exceptions.get(name, ALL) for name in names}
        for right in sorted(set(rights.values())):
            on = ", ".join(f"{schema}.{name}" for name in names if rights[name] == right)
            statements.append(f"GRANT {right} ON {on} TO {role}")
    statements.append(f"GRANT SELECT ON {schema}.{VERSION_TABLE} TO {reader}")
    # By column, so that one that a later version adds is not readable before that version has said that it may be.
    statements += [
        f"GRANT SELECT ({', '.join(columns)}) ON {schema}.{name} TO {reader}" for name, columns in readable().items()
    ]
    return statements


def readable() -> dict[str, list[str]]:
    """Return the columns that the reader sees, by table."""
    return {
        name: [column.name for column in table.columns if column.name not in UNREADABLE_COLUMNS.get(name, ())]
        for name, table in sorted(metadata.tables.items())
        if name not in UNREADABLE_TABLES
    }


def _sequences(schema: str) -> str:
    """The sequences that statements name: of passes, and of events, whose last number a stream of events reads."""
    return f"SEQUENCE {schema}.pass_numbers, {schema}.events_id_seq"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
