-- Locks the count of a pool's claims by name while a canary runs, and says whose turn the next one is. So such claims take turns.
-- No row: every claim goes by the usual order, since no canary runs, or since the older version knows other claim parameters than
-- those whose values this claim brings.
--
-- Of n served claims, the new version has served at most n times its percentage, rounded down: as many when it always had one
-- ready, and it makes up for turns at which it had none.
CREATE OR REPLACE FUNCTION lock_canary(p_rollout_id uuid, p_preset_id uuid, p_brings_values boolean)
RETURNS TABLE (is_new boolean, preset_id uuid, version_id uuid, version int) LANGUAGE sql AS $$
    SELECT c.new_claims < (c.claims + 1) * CAST(t.rollout #>> '{canary,percent}' AS bigint) / 100, p.id, v.id, v.number
      FROM canary_claims c
      JOIN rollouts r ON r.id = c.rollout_id AND r.canary_state = 'running' AND r.state IN ('running', 'paused', 'failed')
      JOIN templates t ON t.id = r.template_id AND t.rollout #>> '{canary,percent}' IS NOT NULL
      JOIN presets active ON active.id = c.preset_id
      JOIN presets p ON p.id = c.older_preset_id
      JOIN template_versions v ON v.id = p.template_version_id
     WHERE c.rollout_id = p_rollout_id AND c.preset_id = p_preset_id
       AND (NOT p_brings_values OR p.claim_parameters = active.claim_parameters)
       FOR UPDATE OF c
$$
