-- Gives a claim by name the oldest paused prebuild of an older version, as `find_older_ready` finds the oldest ready one:
-- only while the template's rollout is open and lets older versions serve. It is the last choice before a miss.
-- It returns null when there is no such prebuild.
CREATE OR REPLACE FUNCTION claim_older_paused(
    p_claim_id text, p_request_hash bytea, p_template_id uuid, p_preset_id uuid, p_preset text, p_owner_id uuid,
    p_owner text, p_initiator_id uuid, p_initiator text, p_name text, p_autostart text, p_next_start timestamptz,
    p_ttl interval, p_secrets jsonb, p_ends_at timestamptz
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_older record;
BEGIN
    FOR v_older IN
        SELECT p.id, v.number
          FROM rollouts r
          JOIN templates t ON t.id = r.template_id
          JOIN presets active ON active.id = p_preset_id AND active.desired_instances IS NOT NULL
          JOIN presets p ON p.template_id = r.template_id AND p.name = p_preset AND p.id <> p_preset_id
          JOIN template_versions v ON v.id = p.template_version_id
         WHERE r.template_id = p_template_id AND r.state IN ('running', 'paused', 'failed')
           AND coalesce(t.rollout ->> 'strategy', 'surge') = 'surge'
           AND coalesce(CAST(t.rollout ->> 'serve_old' AS boolean), true)
           AND (p_secrets IS NULL OR p.claim_parameters = active.claim_parameters)
           AND EXISTS (SELECT FROM workspaces w WHERE w.preset_id = p.id AND w.resume_build_id IS NOT NULL)
         ORDER BY p.id = ANY(r.from_presets) DESC, v.number DESC
    LOOP
        IF claim_paused(
            p_claim_id, p_request_hash, v_older.id, p_owner_id, p_owner, p_initiator_id, p_initiator, p_name,
            p_autostart, p_next_start, p_ttl, p_secrets, p_ends_at) IS NOT NULL
        THEN
            RETURN tell_version(p_claim_id, v_older.number);
        END IF;
    END LOOP;
    RETURN NULL;
END
$$
