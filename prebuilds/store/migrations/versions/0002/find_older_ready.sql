-- Locks and returns the oldest ready prebuild of an older version, for a claim by name when the active version has none
-- ready. It returns a row only while the template's rollout is open and lets older versions serve.
--
-- The version from which the rollout began comes first, then the newest version. A claim with values for claim parameters
-- gets only prebuilds of presets with the same claim parameters as the active one.
CREATE OR REPLACE FUNCTION find_older_ready(p_template_id uuid, p_preset_id uuid, p_preset text, p_brings_values boolean)
RETURNS TABLE (
    workspace_id uuid, claim_build_id uuid, address text, build_number int, preset_id uuid, version_id uuid,
    version int, hands_over boolean
) LANGUAGE sql AS $$
    SELECT w.id, w.claim_build_id, w.address, w.latest_build + 1, p.id, w.template_version_id, v.number, v.hands_over
      FROM rollouts r
      JOIN templates t ON t.id = r.template_id
      JOIN presets active ON active.id = p_preset_id AND active.desired_instances IS NOT NULL
      JOIN presets p ON p.template_id = r.template_id AND p.name = p_preset AND p.id <> p_preset_id
      JOIN template_versions v ON v.id = p.template_version_id
      JOIN workspaces w ON w.claimable_preset_id = p.id
     WHERE r.template_id = p_template_id AND r.state IN ('running', 'paused', 'failed')
       AND coalesce(t.rollout ->> 'strategy', 'surge') = 'surge'
       AND coalesce(CAST(t.rollout ->> 'serve_old' AS boolean), true)
       AND (NOT p_brings_values OR p.claim_parameters = active.claim_parameters)
       AND NOT is_expired(w.created_at, w.expires_at, p.last_invalidated_at)
     ORDER BY p.id = ANY(r.from_presets) DESC, v.number DESC, w.created_at, w.id
     LIMIT 1 FOR NO KEY UPDATE OF w SKIP LOCKED
$$
