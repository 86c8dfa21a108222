-- Begins the lease of a workspace that a claim has won in this transaction, and says so in the claim's answer. Only claims
-- that ask for a lease call it, so no other claim pays for leases.
--
-- p_fresh is whether the claim was decided now: an answer that is given again leaves the lease as it is.
CREATE OR REPLACE FUNCTION begin_lease(p_answer jsonb, p_fresh boolean, p_lease interval) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_answer jsonb := p_answer || jsonb_build_object(
        'lease_seconds', extract(epoch FROM p_lease)::float8, 'lease_until', now() + p_lease);
BEGIN
    IF NOT p_fresh OR p_answer ->> 'workspace_id' IS NULL THEN
        RETURN p_answer;
    END IF;
    -- The relay's next sweep computes when the lease's end is told. If a build makes the workspace or hands it over, the
    -- build's end does that, and begins the lease anew.
    UPDATE workspaces
       SET lease = p_lease, lease_until = now() + p_lease,
           next_action_at = CASE WHEN latest_ended_at IS NULL THEN next_action_at ELSE now() END
     WHERE id = (p_answer ->> 'workspace_id')::uuid;
    UPDATE claims SET answer = v_answer WHERE id = p_answer ->> 'claim_id';
    RETURN v_answer;
END
$$
