-- When a prebuild expires; null: never. In seconds: a day has 24 hours here, also when the clocks are set back.
CREATE FUNCTION expiry_of(p_created_at timestamptz, p_expire_after interval) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT p_created_at + make_interval(secs => extract(epoch FROM nullif(p_expire_after, interval '0'))::float8)
$$
