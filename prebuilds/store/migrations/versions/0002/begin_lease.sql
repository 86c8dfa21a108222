-- Begins the lease of a workspace that a claim has won in this transaction, and adds it to the claim's answer. Callers call
-- it only for claims with a lease, so other claims do not pay for leases.
--
-- p_fresh says whether the claim was decided now. A repeated answer does not change the lease.
CREATE OR REPLACE FUNCTION begin_lease(p_answer jsonb, p_fresh boolean, p_lease interval) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_answer jsonb := p_answer || jsonb_build_object(
        'lease_seconds', extract(epoch FROM p_lease)::float8, 'lease_until', now() + p_lease);
BEGIN
    IF NOT p_fresh OR p_answer ->> 'workspace_id' IS NULL THEN
        RETURN p_answer;
    END IF;
    -- The relay's next sweep computes when the owner is told about the end of the lease. If a build creates the workspace or
    -- hands it over, the end of the build does this, and the lease begins again there.
    UPDATE workspaces
       SET lease = p_lease, lease_until = now() + p_lease,
           next_action_at = CASE WHEN latest_ended_at IS NULL THEN next_action_at ELSE now() END
     WHERE id = (p_answer ->> 'workspace_id')::uuid;
    UPDATE claims SET answer = v_answer WHERE id = p_answer ->> 'claim_id';
    RETURN v_answer;
END
$$
