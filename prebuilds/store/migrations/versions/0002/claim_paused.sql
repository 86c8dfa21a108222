-- Gives a claim the preset's oldest paused prebuild, when none is ready. The claim's build resumes the prebuild and hands it
-- over, so it calls the driver even where a hand-over needs no work. The function returns null when no prebuild is paused.
--
-- The answer has no address until the build ends. Its deadline is the latest time at which the workspace is usable: the
-- build fails if the workspace is not ready within the template's ready_timeout.
CREATE OR REPLACE FUNCTION claim_paused(
    p_claim_id text, p_request_hash bytea, p_preset_id uuid, p_owner_id uuid, p_owner text,
    p_initiator_id uuid, p_initiator text, p_name text, p_autostart text, p_next_start timestamptz, p_ttl interval,
    p_secrets jsonb, p_ends_at timestamptz
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_preset record;
    v_workspace record;
    v_answer jsonb;
BEGIN
    -- A preset without paused prebuilds costs a miss only this lookup in a partial index.
    PERFORM FROM workspaces w WHERE w.preset_id = p_preset_id AND w.resume_build_id IS NOT NULL LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT p.expire_after, p.last_invalidated_at, now() + t.ready_timeout AS deadline INTO v_preset
      FROM presets p JOIN templates t ON t.id = p.template_id WHERE p.id = p_preset_id;
    SELECT w.id, w.resume_build_id, w.latest_build + 1 AS build_number, w.template_version_id INTO v_workspace
      FROM workspaces w
     WHERE w.preset_id = p_preset_id AND w.resume_build_id IS NOT NULL AND w.quarantined_at IS NULL
       AND w.latest_transition = 'pause' AND w.latest_status = 'succeeded' AND w.deleted_at IS NULL AND w.claimed_at IS NULL
       AND NOT is_expired(w.created_at, expiry_of(w.created_at, v_preset.expire_after), v_preset.last_invalidated_at)
     ORDER BY w.created_at, w.id
     LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        -- Try again and wait for locks: the transaction that has locked the last paused prebuild may roll back.
        SELECT w.id, w.resume_build_id, w.latest_build + 1 AS build_number, w.template_version_id INTO v_workspace
          FROM workspaces w
         WHERE w.preset_id = p_preset_id AND w.resume_build_id IS NOT NULL AND w.quarantined_at IS NULL
           AND w.latest_transition = 'pause' AND w.latest_status = 'succeeded' AND w.deleted_at IS NULL
           AND w.claimed_at IS NULL
           AND NOT is_expired(w.created_at, expiry_of(w.created_at, v_preset.expire_after), v_preset.last_invalidated_at)
         ORDER BY w.created_at, w.id
         LIMIT 1 FOR NO KEY UPDATE;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
        IF clock_timestamp() > p_ends_at THEN  -- this statement has waited for a lock
            RAISE EXCEPTION 'Late' USING ERRCODE = 'PB001';
        END IF;
    END IF;
    PERFORM hand_over(
        p_claim_id, p_request_hash, v_workspace.id, v_workspace.resume_build_id, v_workspace.build_number, NULL,
        p_preset_id, v_workspace.template_version_id, true, p_owner_id, p_owner, p_initiator_id, p_initiator, p_name,
        p_autostart, p_next_start, p_ttl, p_secrets);
    UPDATE workspaces SET resume_build_id = NULL WHERE id = v_workspace.id;
    UPDATE claims c
       SET answer = c.answer || jsonb_build_object('source', 'paused', 'deadline', v_preset.deadline)
     WHERE c.id = p_claim_id RETURNING c.answer INTO v_answer;
    INSERT INTO events (kind, actor, preset_id, workspace_id, claim_id, data)
    VALUES ('claim_resumes', p_initiator, p_preset_id, v_workspace.id, p_claim_id,
            jsonb_build_object('deadline', v_preset.deadline));
    RETURN v_answer;
END
$$
