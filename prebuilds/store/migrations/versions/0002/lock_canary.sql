-- Locks the count of a pool's claims by name while a canary runs, so that these claims run one after the other. It says which
-- version serves the next one. It returns no row, and the usual order applies, when no canary runs, or when the claim has
-- values for claim parameters and the older version has other claim parameters.
--
-- Of n served claims, the new version serves at most n times its percentage, rounded down. It serves fewer while it has no
-- prebuild ready, and catches up later.
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
