"""Organizations, users and who belongs where, and what they sign in with."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from prebuilds.store.tables.columns import NAME_CHECK, OWNER_CHECK, metadata, time_column, uuid_column
from prebuilds.vocabulary import PREBUILDS_USER, PREBUILDS_USER_ID

organizations = Table(
    "organizations",
    metadata,
    uuid_column("id", pk=True),
    Column("name", Text, nullable=False),
    Column("prebuilds_enabled", Boolean, nullable=False, server_default=text("true")),
    Column("members_exact", Boolean, nullable=False, server_default=text("false")),
    Column("limits", JSONB),  # limit -> number, as the file names them; null: none
    time_column("created_at", null=False),
    UniqueConstraint("name"),
    CheckConstraint(NAME_CHECK, name="organizations_name_check"),
)

users = Table(
    "users",
    metadata,
    uuid_column("id", pk=True),
    Column("name", Text, nullable=False),
    Column("key", Text, nullable=False),  # the name without case, for lookups (`prebuilds/vocabulary/owners.py`)
    time_column("disabled_at"),
    time_column("created_at", null=False),
    UniqueConstraint("key"),
    CheckConstraint(OWNER_CHECK, name="users_name_check"),
    CheckConstraint(f"(key = '{PREBUILDS_USER}') = (id = '{PREBUILDS_USER_ID}')", name="users_system_user_check"),
)

organization_members = Table(
    "organization_members",
    metadata,
    uuid_column("organization_id", "organizations.id", pk=True),
    uuid_column("user_id", "users.id", pk=True),
)

# The claims of the last minute, where an organization limits them (the database function `admit_claim`).
recent_claims = Table(
    "recent_claims",
    metadata,
    uuid_column("organization_id", "organizations.id", pk=True),
    Column("claim_id", Text, primary_key=True),
    Column("asked_at", DateTime(timezone=True), nullable=False),
    Index("recent_claims_asked_idx", "organization_id", "asked_at"),
)

# Members who were removed, so that no claim with `create_owner` brings them back.
former_members = Table(
    "former_members",
    metadata,
    uuid_column("organization_id", "organizations.id", pk=True),
    uuid_column("user_id", "users.id", pk=True),
    time_column("removed_at", null=False),
)

# Bearer tokens. The secret itself stands nowhere: `digest` is its SHA-256 (decision 0024).
tokens = Table(
    "tokens",
    metadata,
    uuid_column("id", pk=True),
    Column("name", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    uuid_column("user_id", "users.id", null=True),  # whose claims it makes
    Column("epoch", Uuid, nullable=False),  # when it was made or last confirmed; in another epoch it is refused
    time_column("created_at", null=False),
    Column("created_by", Text, nullable=False),
    time_column("expires_at"),
    time_column("last_used_at"),
    time_column("revoked_at"),
    Column("revoked_by", Text),
    Index("tokens_live_name_key", "name", unique=True, postgresql_where=text("revoked_at IS NULL")),
    CheckConstraint(NAME_CHECK, name="tokens_name_check"),
    CheckConstraint("octet_length(digest) = 32", name="tokens_digest_check"),
    CheckConstraint("cardinality(scopes) > 0", name="tokens_scopes_check"),
    CheckConstraint("(revoked_at IS NULL) = (revoked_by IS NULL)", name="tokens_revoked_check"),
)

# Links that sign a browser in once (`prebuilds/store/sign_in_links.py`).
sign_in_links = Table(
    "sign_in_links",
    metadata,
    Column("digest", LargeBinary, primary_key=True),  # hash of the code
    Column("sealed", LargeBinary, nullable=False),  # the token, encrypted under the code
    Column("expires_at", DateTime(timezone=True), nullable=False),
)
