-- Counts a served claim by name while a canary runs. The caller has locked the row by `lock_canary`.
CREATE OR REPLACE FUNCTION count_canary_claim(p_rollout_id uuid, p_preset_id uuid, p_new boolean) RETURNS void LANGUAGE sql AS $$
    UPDATE canary_claims SET claims = claims + 1, new_claims = new_claims + CAST(p_new AS integer)
     WHERE rollout_id = p_rollout_id AND preset_id = p_preset_id
$$
