"""Templates, their versions and presets."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    Interval,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, ExcludeConstraint

from prebuilds.store.tables.columns import NAME_CHECK, metadata, time_column, uuid_column

templates = Table(
    "templates",
    metadata,
    uuid_column("id", pk=True),
    uuid_column("organization_id", "organizations.id"),
    Column("name", Text, nullable=False),
    uuid_column("active_version_id", null=True),
    Column("deprecated", Boolean, nullable=False, server_default=text("false")),
    time_column("deleted_at"),
    Column("default_ttl", Interval),
    Column("build_timeout", Interval, nullable=False, server_default=text("'30 minutes'")),
    Column("ready_timeout", Interval, nullable=False, server_default=text("'5 minutes'")),
    Column("rollout", JSONB),  # how a new version replaces pools; null: by the defaults
    time_column("created_at", null=False),
    Column("drill", JSONB),  # how claims of it are tried out (`DrillPolicy`); null: they are not
    Index(
        "templates_live_name_key", "organization_id", "name", unique=True, postgresql_where=text("deleted_at IS NULL")
    ),
    CheckConstraint(NAME_CHECK, name="templates_name_check"),
)

# Files that versions keep, by digest, so that every worker makes the same ones (decision 0026).
template_files = Table(
    "template_files",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("manifest", JSONB, nullable=False),  # path -> size, hash and run bit, or the link's target
    Column("archive", LargeBinary, nullable=False),
    time_column("created_at", null=False),
    CheckConstraint("digest ~ '^sha256:[0-9a-f]{64}$'", name="template_files_digest_check"),
)

template_versions = Table(
    "template_versions",
    metadata,
    uuid_column("id", pk=True),
    uuid_column("template_id", "templates.id"),
    Column("number", Integer, nullable=False),
    Column("provisioner", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("source", JSONB, nullable=False),
    Column("files_digest", Text, ForeignKey("template_files.digest")),  # null: it keeps no files
    Column("hands_over", Boolean, nullable=False, server_default=text("true")),  # whether its driver acts at a claim
    time_column("created_at", null=False),
    UniqueConstraint("template_id", "number"),
)

presets = Table(
    "presets",
    metadata,
    uuid_column("id", pk=True),
    uuid_column(
        "template_version_id", "template_versions.id"
    ),  # the last one that became active with this preset in it
    uuid_column("template_id", "templates.id"),
    Column("name", Text, nullable=False),
    Column("desired_instances", Integer),  # null: no pool
    Column("expire_after", Interval),
    Column("timezone", Text),
    Column("target", JSONB),  # target of the pool's size; null: the count above is its size
    Column("ready_by", Boolean, nullable=False, server_default=text("false")),
    Column("cost_per_hour", Float),
    Column("standby_paused", Integer, nullable=False, server_default=text("0")),
    Column("max_concurrent", Integer),  # creations and deletions of its pool at a time; null: any number
    Column("is_default", Boolean, nullable=False, server_default=text("false")),
    Column("claim_parameters", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    time_column("last_invalidated_at"),
    time_column("limit_reset_at"),
    Column("last_pass", BigInteger, nullable=False, server_default=text("0")),
    time_column("created_at", null=False),
    uuid_column("canary_rollout_id", null=True),  # the rollout whose canary shares its claims; null: none does
    # A unique constraint, but one whose columns PostgreSQL does not take for a key: `apply` moves a preset to another
    # version, and a changed key would hold up every claim that refers to the preset meanwhile.
    ExcludeConstraint(
        ("template_version_id", "="), ("name", "="), using="btree", name="presets_template_version_id_name_excl"
    ),
    Index("presets_name_idx", "template_id", "name"),
    CheckConstraint(NAME_CHECK, name="presets_name_check"),
    CheckConstraint("desired_instances >= 0", name="presets_desired_instances_check"),
    Index("presets_standby_idx", "id", postgresql_where=text("standby_paused > 0")),
    CheckConstraint("standby_paused >= 0", name="presets_standby_paused_check"),
    CheckConstraint("max_concurrent > 0", name="presets_max_concurrent_check"),
)

preset_parameters = Table(
    "preset_parameters",
    metadata,
    uuid_column("preset_id", "presets.id", pk=True),
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

preset_schedules = Table(
    "preset_schedules",
    metadata,
    uuid_column("preset_id", "presets.id", pk=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("cron", Text, nullable=False),
    Column("instances", Integer, nullable=False),
    Column("least", Boolean, nullable=False, server_default=text("false")),  # whether a target may ask for more
    CheckConstraint("instances >= 0", name="preset_schedules_instances_check"),
)
