"""What pools were asked for, in small rows."""

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
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from prebuilds.store.tables.columns import metadata, time_column

# The claims of one minute, by the preset's name: a new version goes on with what was learned of the one before.
preset_demand = Table(
    "preset_demand",
    metadata,
    Column("template_id", Uuid, ForeignKey("templates.id", ondelete="CASCADE"), primary_key=True),
    Column("preset_name", Text, primary_key=True),
    Column("minute", time_column("minute").type, primary_key=True),
    Column("claims", ARRAY(Integer), nullable=False),  # in each ten seconds of the minute
    Column("hits", Integer, nullable=False),  # claims of the minute that found one ready
    Index("preset_demand_minute_idx", "minute"),
    CheckConstraint("cardinality(claims) = 6", name="preset_demand_claims_check"),
)

# The sizes that targets ask for, and why.
preset_sizes = Table(
    "preset_sizes",
    metadata,
    Column("template_id", Uuid, ForeignKey("templates.id", ondelete="CASCADE"), primary_key=True),
    Column("preset_name", Text, primary_key=True),
    Column("size", Integer),  # null: nothing was computed yet
    Column("asked", JSONB),  # wanted sizes that hold it up (`sizes_of_json`); null: none is stored
    Column("paused", Integer),  # the paused prebuilds that are held beside it; null: no count was chosen
    Column("paused_asked", JSONB),  # wanted counts of these that hold it up (`sizes_of_json`)
    Column("rule", JSONB),  # the rule that is followed; null: none was chosen yet
    Column("chosen_for", JSONB),  # the target that it was chosen for
    Column("outcome", JSONB),  # results of the rules when this one was chosen
    Column("lead_seconds", Float),  # the lead time that the size was computed for
    Column("head_start_seconds", Float),  # how early windows decide with `ready_by`; null: nothing was measured
    time_column("chosen_at"),
    time_column("sized_at"),  # when a worker last took its turn
    CheckConstraint("size >= 0", name="preset_sizes_size_check"),
    CheckConstraint("paused >= 0", name="preset_sizes_paused_check"),
)

# Up to which event claims were counted.
demand_progress = Table(
    "demand_progress",
    metadata,
    Column("id", Boolean, primary_key=True, server_default=text("true")),
    Column("event_id", BigInteger, nullable=False, server_default=text("0")),
    CheckConstraint("id", name="demand_progress_one_row_check"),
)
