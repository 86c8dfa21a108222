-- Gives a prebuild to a person: it writes the row's new owner, the claim's build and the claim's answer. The caller's
-- transaction has locked the workspace's row. Claims that find a prebuild and claims that waited for one both end here.
--
-- If the driver has nothing to do at a hand-over (p_hands_over false), the build is recorded as succeeded.
CREATE FUNCTION hand_over(
    p_claim_id text, p_request_hash bytea, p_workspace_id uuid, p_build_id uuid, p_number int, p_address text,
    p_preset_id uuid, p_version_id uuid, p_hands_over boolean, p_owner_id uuid, p_owner text, p_initiator_id uuid,
    p_initiator text, p_name text, p_autostart text, p_next_start timestamptz, p_ttl interval, p_secrets jsonb
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_answer jsonb := jsonb_build_object(
        'workspace_id', p_workspace_id, 'build_id', p_build_id, 'address', p_address, 'claim_id', p_claim_id,
        'name', p_name, 'owner', p_owner, 'initiator', p_initiator, 'preset_id', p_preset_id,
        'source', 'prebuilt', 'miss_reason', NULL, 'claimed_at', now());
    v_token uuid;
BEGIN
    UPDATE workspaces
       SET owner_id = p_owner_id, name = p_name, autostart_schedule = p_autostart, next_start_at = p_next_start,
           ttl = p_ttl, last_used_at = now(), claimed_at = now(), claimable_preset_id = NULL, claim_build_id = NULL,
           expires_at = NULL, latest_build = p_number, latest_transition = 'start',
           -- The time that the build's end would set: the end of the ttl, or the schedule's next start.
           next_action_at = CASE WHEN p_hands_over THEN now() + p_ttl ELSE least(now() + p_ttl, p_next_start) END,
           latest_status = CASE WHEN p_hands_over THEN 'pending' ELSE 'succeeded' END,
           latest_ended_at = CASE WHEN p_hands_over THEN NULL ELSE now() END
     WHERE id = p_workspace_id;
    -- The initiator is a person, never the prebuilds user; a constraint of the table checks this, too.
    INSERT INTO workspace_builds (id, workspace_id, number, transition, stage, initiator_id, preset_id,
                                  template_version_id, status, started_at, completed_at, next_dispatch_at)
    VALUES (p_build_id, p_workspace_id, p_number, 'start', 'claim', p_initiator_id, p_preset_id, p_version_id,
            CASE WHEN p_hands_over THEN 'pending' ELSE 'succeeded' END,
            CASE WHEN p_hands_over THEN NULL ELSE now() END, CASE WHEN p_hands_over THEN NULL ELSE now() END,
            CASE WHEN p_hands_over THEN now() + interval '1 second' END);
    IF p_secrets IS NOT NULL THEN
        INSERT INTO claim_secrets (workspace_id, sealed) VALUES (p_workspace_id, p_secrets);
    END IF;
    PERFORM check_people((SELECT organization_id FROM workspaces WHERE id = p_workspace_id), p_owner_id, p_initiator_id);
    UPDATE claims
       SET request_hash = p_request_hash, outcome = 'prebuilt', miss_reason = NULL, answer = v_answer,
           workspace_id = p_workspace_id, completed_at = now()
     WHERE id = p_claim_id RETURNING token_id INTO v_token;
    INSERT INTO events (kind, actor, preset_id, workspace_id, claim_id, data)
    VALUES ('claim_prebuilt', p_initiator, p_preset_id, p_workspace_id, p_claim_id,
            jsonb_strip_nulls(jsonb_build_object('owner', p_owner, 'name', p_name, 'token_id', v_token)));
    RETURN v_answer;
END
$$
