-- Returns whether a prebuild is expired and cannot be handed out. Both limits are strict: at that instant it is still good.
-- It is one SQL expression, so that PostgreSQL inlines it and a claim walks the partial index without a call for each row.
-- Plans use the same rule, `is_expired` in prebuilds/planning/snapshot.py; tests compare the two.
CREATE FUNCTION is_expired(p_created_at timestamptz, p_expires_at timestamptz, p_last_invalidated_at timestamptz)
RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT (p_expires_at < now()) IS TRUE OR (p_created_at < p_last_invalidated_at) IS TRUE
$$
