-- Adds the older version of a claim's prebuild to the claim's answer, and returns the answer.
CREATE OR REPLACE FUNCTION tell_version(p_claim_id text, p_version int) RETURNS jsonb LANGUAGE sql AS $$
    UPDATE claims SET answer = answer || jsonb_build_object('version', p_version) WHERE id = p_claim_id RETURNING answer
$$
