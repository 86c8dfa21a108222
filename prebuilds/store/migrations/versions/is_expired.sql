-- Whether a prebuild can be handed out no longer. Both limits are strict: at the very instant it is still good.
-- One expression in SQL, so that PostgreSQL inlines it: a claim then walks the partial index and calls nothing for a row.
-- Its twin for plans is `is_expired` in prebuilds/planning/snapshot.py; tests compare the two.
CREATE FUNCTION is_expired(p_created_at timestamptz, p_expires_at timestamptz, p_last_invalidated_at timestamptz)
RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT (p_expires_at < now()) IS TRUE OR (p_created_at < p_last_invalidated_at) IS TRUE
$$
