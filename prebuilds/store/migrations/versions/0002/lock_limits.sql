-- Locks what an organization's limits count, until the transaction ends. Where only members have limits, it locks the part of
-- one member (p_owner_id). Callers take this lock before they lock a prebuild. It is an advisory lock, since `apply` holds
-- the organization's row while it waits for other locks. When another transaction has the lock and p_waits is false, the
-- function returns false at once.
CREATE OR REPLACE FUNCTION lock_limits(
    p_organization_id uuid, p_owner_id uuid, p_limits jsonb, p_waits boolean DEFAULT true
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    c_organizations CONSTANT int := x'70726C6F'::int;  -- "prlo"
    c_members CONSTANT int := x'70726C6D'::int;  -- "prlm"
    v_organization CONSTANT int := uuid_hash(p_organization_id);
    v_member CONSTANT int := v_organization # uuid_hash(p_owner_id);
BEGIN
    IF p_owner_id IS NULL OR p_limits ?| ARRAY['workspaces', 'claims_per_minute'] THEN
        IF NOT p_waits THEN
            RETURN pg_try_advisory_xact_lock(c_organizations, v_organization);
        END IF;
        PERFORM pg_advisory_xact_lock(c_organizations, v_organization);
    ELSE
        IF NOT p_waits THEN
            RETURN pg_try_advisory_xact_lock_shared(c_organizations, v_organization)
                   AND pg_try_advisory_xact_lock(c_members, v_member);
        END IF;
        PERFORM pg_advisory_xact_lock_shared(c_organizations, v_organization);
        PERFORM pg_advisory_xact_lock(c_members, v_member);
    END IF;
    RETURN true;
END
$$
