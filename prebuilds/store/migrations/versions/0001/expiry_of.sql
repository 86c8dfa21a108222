-- Returns when a prebuild expires; null: never. It counts in seconds, so a day has 24 hours also when daylight saving ends.
CREATE FUNCTION expiry_of(p_created_at timestamptz, p_expire_after interval) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT p_created_at + make_interval(secs => extract(epoch FROM nullif(p_expire_after, interval '0'))::float8)
$$
