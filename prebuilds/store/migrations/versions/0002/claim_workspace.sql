-- Decides one claim in one round trip. The order of its steps comes from docs/decisions/0004.
--
-- A refusal raises SQLSTATE PB001 with the error's type as its message, so that a refused claim writes nothing.
-- `fresh` is false when an earlier attempt has decided the claim and this is the same answer again. A null p_held decides
-- nothing when the pool is empty: the caller then reads whether creation is held, and calls again with p_held set.
-- p_token is the token of the request, or null.
-- p_owner and p_initiator are keys of names. p_new_owner is the name for a new user when the owner is unknown. If it is null,
-- an unknown owner is refused.
--
-- The claim's row has the run for which it was last decided: one run of the claim's workflow, with all its attempts. A won
-- workspace is the final answer to every run. Any other answer belongs to its own run. So an attempt takes no workspace after
-- its run was answered, or after a later run has begun. Source: docs/decisions/0015.
--
-- p_ends_at is the time at which the attempt ends, by this server's clock; null means never. The statement may arrive later,
-- because this server or the network was frozen. It then takes nothing, since its caller was told that the database is away.
-- Source: docs/decisions/0015.
CREATE OR REPLACE FUNCTION claim_workspace(
    p_claim_id text, p_request_hash bytea,
    p_preset_id uuid, p_organization text, p_template text, p_preset text,
    p_owner text, p_initiator text, p_name text,
    p_autostart text, p_next_start timestamptz, p_ttl interval, p_secrets jsonb,
    p_on_empty text, p_enabled boolean, p_held boolean, p_new_workspace_id uuid, p_new_build_id uuid,
    p_new_owner text, p_run text, p_run_began timestamptz, p_ends_at timestamptz, p_token uuid DEFAULT NULL,
    OUT answer jsonb, OUT fresh boolean, OUT organization text, OUT template text, OUT preset text
) LANGUAGE plpgsql AS $$
DECLARE
    v_claim claims%ROWTYPE;
    -- A wrong clock of Temporal can date a run into the future. This bound lets such a run exclude later runs for a minute only.
    v_began timestamptz := least(p_run_began, now() + interval '1 minute');
    v_owner uuid;
    v_initiator uuid;
    v_owner_name text;
    v_initiator_name text;
    v_disabled timestamptz;
    v_preset record;
    v_workspace record;
    v_older record;
    v_canary uuid;   -- the rollout whose canary serves claims of this pool, or null
    v_turn record;   -- which version serves this claim, from lock_canary
    v_new boolean := true;   -- whether the active version may serve this claim
    v_active uuid;
    v_miss text;
    v_ttl interval;
    v_final boolean;
    v_target text := coalesce(p_preset_id::text, p_organization || '/' || p_template || '/' || p_preset);
BEGIN
    IF clock_timestamp() > p_ends_at THEN
        RAISE EXCEPTION 'Late' USING ERRCODE = 'PB001';
    END IF;

    -- Lock the claim's own row first, so that attempts of one claim queue here. Otherwise a later attempt could skip the last
    -- prebuild, because an earlier attempt has locked it, and report an empty pool.
    -- The relay removes old rows of claims that won nothing. If it removes this row between the two statements, the loop
    -- inserts it again.
    LOOP
        INSERT INTO claims (id, request_hash, run, other_runs_after, owner, initiator, target, token_id)
        VALUES (p_claim_id, p_request_hash, p_run, v_began, p_owner, p_initiator, v_target, p_token)
            ON CONFLICT (id) DO NOTHING;
        fresh := FOUND;
        EXIT WHEN fresh;
        SELECT * INTO v_claim FROM claims WHERE id = p_claim_id FOR UPDATE;
        EXIT WHEN FOUND;
    END LOOP;
    IF NOT fresh THEN
        IF v_claim.workspace_id IS NOT NULL THEN
            IF v_claim.request_hash <> p_request_hash THEN
                RAISE EXCEPTION 'ClaimIdReused' USING ERRCODE = 'PB001';
            END IF;
            IF v_claim.transferred_at IS NOT NULL THEN
                RAISE EXCEPTION 'Transferred' USING ERRCODE = 'PB001';
            END IF;
            answer := v_claim.answer;
            RETURN;
        ELSIF v_claim.run = p_run AND v_claim.run_answered THEN
            answer := v_claim.answer;
            RETURN;
        ELSIF v_claim.run <> p_run AND v_claim.other_runs_after > p_run_began THEN
            RAISE EXCEPTION 'Superseded' USING ERRCODE = 'PB001';
        ELSIF EXISTS (SELECT FROM claim_queue q WHERE q.claim_id = p_claim_id AND q.decided_at IS NULL
                         AND q.deadline > now() AND q.request_hash <> p_request_hash) THEN
            RAISE EXCEPTION 'ClaimIdReused' USING ERRCODE = 'PB001';
        END IF;
        fresh := true;
        -- A workflow that continues a request has no token. The row keeps the request's token.
        IF v_claim.request_hash = p_request_hash THEN
            p_token := coalesce(p_token, v_claim.token_id);
        END IF;
        IF p_token IS DISTINCT FROM v_claim.token_id THEN
            UPDATE claims SET token_id = p_token WHERE id = p_claim_id;
        END IF;
    END IF;

    -- Claims that have won are answered above. After a restore the database may not know the owners of all workspaces, so no
    -- claim wins anything new.
    IF EXISTS (SELECT FROM settings WHERE restore_found_at IS NOT NULL) THEN
        RAISE EXCEPTION 'DatabaseRestored' USING ERRCODE = 'PB001';
    END IF;

    SELECT id, name, disabled_at INTO v_owner, v_owner_name, v_disabled FROM users WHERE key = p_owner;
    IF v_owner IS NULL AND p_new_owner IS NOT NULL THEN
        INSERT INTO users (id, name, key) VALUES (gen_random_uuid(), p_new_owner, p_owner) ON CONFLICT (key) DO NOTHING;
        SELECT id, name, disabled_at INTO v_owner, v_owner_name, v_disabled FROM users WHERE key = p_owner;
    END IF;
    IF v_owner IS NULL THEN
        RAISE EXCEPTION 'OwnerNotFound' USING ERRCODE = 'PB001';
    ELSIF v_disabled IS NOT NULL THEN
        RAISE EXCEPTION 'OwnerDisabled' USING ERRCODE = 'PB001';
    END IF;
    v_initiator := v_owner;
    v_initiator_name := v_owner_name;
    IF p_initiator <> p_owner THEN
        SELECT id, name, disabled_at INTO v_initiator, v_initiator_name, v_disabled FROM users WHERE key = p_initiator;
        IF v_initiator IS NULL THEN
            RAISE EXCEPTION 'InitiatorNotFound' USING ERRCODE = 'PB001';
        ELSIF v_disabled IS NOT NULL THEN
            RAISE EXCEPTION 'InitiatorDisabled' USING ERRCODE = 'PB001';
        END IF;
    END IF;

    IF p_preset_id IS NOT NULL THEN
        SELECT p.id, p.name, p.desired_instances, p.last_invalidated_at, p.template_version_id, v.hands_over,
               t.id AS template_id, t.name AS template_name, t.active_version_id, t.deprecated, t.deleted_at,
               t.default_ttl, o.id AS organization_id, o.name AS organization_name, o.prebuilds_enabled,
               o.limits, p.canary_rollout_id
          INTO v_preset
          FROM presets p JOIN templates t ON t.id = p.template_id JOIN organizations o ON o.id = t.organization_id
          JOIN template_versions v ON v.id = p.template_version_id
         WHERE p.id = p_preset_id;
    ELSE
        SELECT p.id, p.name, p.desired_instances, p.last_invalidated_at, p.template_version_id, v.hands_over,
               t.id AS template_id, t.name AS template_name, t.active_version_id, t.deprecated, t.deleted_at,
               t.default_ttl, o.id AS organization_id, o.name AS organization_name, o.prebuilds_enabled,
               o.limits, p.canary_rollout_id
          INTO v_preset
          FROM organizations o
          JOIN templates t ON t.organization_id = o.id AND t.name = p_template AND t.deleted_at IS NULL
          JOIN presets p ON p.template_version_id = t.active_version_id AND p.name = p_preset
          JOIN template_versions v ON v.id = p.template_version_id
         WHERE o.name = p_organization;
    END IF;
    IF NOT FOUND THEN
        IF (SELECT bool_and(t.deleted_at IS NOT NULL) FROM templates t JOIN organizations o ON o.id = t.organization_id
             WHERE o.name = p_organization AND t.name = p_template) THEN
            RAISE EXCEPTION 'TemplateNotFound' USING ERRCODE = 'PB001';
        END IF;
        RAISE EXCEPTION 'PresetNotFound' USING ERRCODE = 'PB001';
    ELSIF v_preset.deleted_at IS NOT NULL THEN
        RAISE EXCEPTION 'TemplateNotFound' USING ERRCODE = 'PB001';
    ELSIF v_preset.deprecated THEN
        RAISE EXCEPTION 'TemplateUnavailable' USING ERRCODE = 'PB001';
    ELSIF NOT EXISTS (SELECT FROM organization_members m
                       WHERE m.organization_id = v_preset.organization_id AND m.user_id = v_owner) THEN
        -- A claim does not add a member again who was removed, and adds nobody where a template file lists the exact members.
        IF p_new_owner IS NULL
           OR EXISTS (SELECT FROM organizations o WHERE o.id = v_preset.organization_id AND o.members_exact)
           OR EXISTS (SELECT FROM former_members f
                       WHERE f.organization_id = v_preset.organization_id AND f.user_id = v_owner) THEN
            RAISE EXCEPTION 'NotAMember' USING ERRCODE = 'PB001';
        END IF;
        INSERT INTO organization_members (organization_id, user_id) VALUES (v_preset.organization_id, v_owner)
            ON CONFLICT DO NOTHING;
        INSERT INTO events (kind, actor, claim_id, data)
        VALUES ('member_added', v_initiator_name, p_claim_id,
                jsonb_build_object('organization', v_preset.organization_name, 'user', v_owner_name));
    END IF;
    organization := v_preset.organization_name;
    template := v_preset.template_name;
    preset := v_preset.name;
    v_ttl := nullif(coalesce(p_ttl, v_preset.default_ttl), interval '0');
    IF v_preset.limits IS NOT NULL THEN
        PERFORM admit_claim(p_claim_id, v_preset.organization_id, v_owner, v_preset.limits);
    END IF;

    IF NOT (p_enabled AND v_preset.prebuilds_enabled) THEN
        v_miss := 'disabled';
        IF p_on_empty <> 'create' THEN
            RAISE EXCEPTION 'PrebuiltWorkspacesNotSupported' USING ERRCODE = 'PB001';
        END IF;
    ELSIF v_preset.template_version_id IS DISTINCT FROM v_preset.active_version_id THEN
        v_miss := 'inactive_version';
        IF p_on_empty <> 'create' THEN
            RAISE EXCEPTION 'TemplateUnavailable' USING ERRCODE = 'PB001';
        END IF;
    ELSE
        v_active := v_preset.id;
        IF p_preset_id IS NULL AND v_preset.canary_rollout_id IS NOT NULL THEN
            SELECT * INTO v_turn FROM lock_canary(v_preset.canary_rollout_id, v_active, p_secrets IS NOT NULL);
            IF FOUND THEN
                v_canary := v_preset.canary_rollout_id;
                v_new := v_turn.is_new;
            END IF;
        END IF;
        SELECT w.id, w.claim_build_id, w.address, w.latest_build + 1 AS build_number, w.template_version_id
          INTO v_workspace
          FROM workspaces w
         WHERE v_new AND w.claimable_preset_id = v_preset.id
           AND NOT is_expired(w.created_at, w.expires_at, v_preset.last_invalidated_at)
         ORDER BY w.created_at, w.id
         LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED;
        IF NOT FOUND THEN
            -- Try again and wait for locks: the transaction that has locked the last prebuild may roll back.
            SELECT w.id, w.claim_build_id, w.address, w.latest_build + 1 AS build_number, w.template_version_id
              INTO v_workspace
              FROM workspaces w
             WHERE v_new AND w.claimable_preset_id = v_preset.id
               AND NOT is_expired(w.created_at, w.expires_at, v_preset.last_invalidated_at)
             ORDER BY w.created_at, w.id
             LIMIT 1 FOR NO KEY UPDATE;
        END IF;
        IF clock_timestamp() > p_ends_at THEN  -- this statement has waited for a lock
            RAISE EXCEPTION 'Late' USING ERRCODE = 'PB001';
        END IF;
        IF FOUND THEN
            answer := hand_over(
                p_claim_id, p_request_hash, v_workspace.id, v_workspace.claim_build_id, v_workspace.build_number,
                v_workspace.address, v_preset.id, v_workspace.template_version_id, v_preset.hands_over, v_owner,
                v_owner_name, v_initiator, v_initiator_name, p_name, p_autostart, p_next_start, v_ttl, p_secrets);
            PERFORM count_canary_claim(v_canary, v_active, true) WHERE v_canary IS NOT NULL;
            RETURN;
        END IF;
        IF p_preset_id IS NULL THEN
            SELECT * INTO v_older
              FROM find_older_ready(v_preset.template_id, v_preset.id, v_preset.name, p_secrets IS NOT NULL);
            IF FOUND THEN
                answer := hand_over(
                    p_claim_id, p_request_hash, v_older.workspace_id, v_older.claim_build_id, v_older.build_number,
                    v_older.address, v_older.preset_id, v_older.version_id, v_older.hands_over, v_owner, v_owner_name,
                    v_initiator, v_initiator_name, p_name, p_autostart, p_next_start, v_ttl, p_secrets);
                answer := tell_version(p_claim_id, v_older.version);
                PERFORM count_canary_claim(v_canary, v_active, false) WHERE v_canary IS NOT NULL;
                RETURN;
            END IF;
        END IF;
        IF NOT v_new THEN  -- from here on, the version from which the rollout began serves the claim
            v_preset.id := v_turn.preset_id;
            v_preset.template_version_id := v_turn.version_id;
        END IF;
        answer := claim_paused(
            p_claim_id, p_request_hash, v_preset.id, v_owner, v_owner_name, v_initiator, v_initiator_name, p_name,
            p_autostart, p_next_start, v_ttl, p_secrets, p_ends_at);
        IF answer IS NOT NULL THEN
            IF NOT v_new THEN
                answer := tell_version(p_claim_id, v_turn.version);
            END IF;
            PERFORM count_canary_claim(v_canary, v_active, v_new) WHERE v_canary IS NOT NULL;
            RETURN;
        END IF;
        IF p_preset_id IS NULL THEN
            answer := claim_older_paused(
                p_claim_id, p_request_hash, v_preset.template_id, v_active, v_preset.name, v_owner, v_owner_name,
                v_initiator, v_initiator_name, p_name, p_autostart, p_next_start, v_ttl, p_secrets, p_ends_at);
            IF answer IS NOT NULL THEN
                PERFORM count_canary_claim(v_canary, v_active, false) WHERE v_canary IS NOT NULL;
                RETURN;
            END IF;
        END IF;
        -- Check the name here: a miss or a wait writes no workspace, so no constraint checks it.
        IF EXISTS (SELECT FROM workspaces w
                    WHERE w.owner_id = v_owner AND w.name = p_name AND w.deleted_at IS NULL) THEN
            RAISE EXCEPTION 'NameTaken' USING ERRCODE = 'PB001';
        END IF;
        SELECT CASE WHEN v_preset.desired_instances IS NULL THEN 'no_pool'
                    WHEN EXISTS (SELECT FROM workspaces w
                                  WHERE w.preset_id = v_preset.id AND w.deleted_at IS NULL
                                    AND w.owner_id = (SELECT id FROM users WHERE key = 'prebuilds')
                                    AND w.latest_transition = 'start'
                                    AND w.latest_status IN ('pending', 'running')) THEN 'starting'
                    WHEN s.paused THEN 'paused'
                    WHEN p_held THEN 'held'
                    ELSE 'empty' END
          INTO v_miss FROM settings s;
    END IF;

    v_final := p_held IS NOT NULL OR v_miss <> 'empty';
    IF p_on_empty = 'create' AND v_final THEN
        answer := jsonb_build_object(
            'workspace_id', p_new_workspace_id, 'build_id', p_new_build_id, 'address', NULL, 'claim_id', p_claim_id,
            'name', p_name, 'owner', v_owner_name, 'initiator', v_initiator_name, 'preset_id', v_preset.id,
            'source', 'created', 'miss_reason', v_miss, 'claimed_at', now());
        IF NOT v_new THEN
            answer := answer || jsonb_build_object('version', v_turn.version);
        END IF;
        PERFORM count_canary_claim(v_canary, v_active, v_new) WHERE v_canary IS NOT NULL;
        INSERT INTO workspaces (id, organization_id, owner_id, name, template_id, template_version_id, preset_id,
                                autostart_schedule, next_start_at, ttl, last_used_at, claimed_at, next_action_at,
                                latest_build, latest_transition, latest_status)
        VALUES (p_new_workspace_id, v_preset.organization_id, v_owner, p_name, v_preset.template_id,
                v_preset.template_version_id, v_preset.id, p_autostart, p_next_start, v_ttl, now(), now(),
                now() + v_ttl, 1, 'start', 'pending');
        INSERT INTO workspace_builds (id, workspace_id, number, transition, stage, initiator_id, preset_id,
                                      template_version_id, next_dispatch_at)
        VALUES (p_new_build_id, p_new_workspace_id, 1, 'start', 'none', v_initiator, v_preset.id,
                v_preset.template_version_id, now() + interval '1 second');
        IF p_secrets IS NOT NULL THEN
            INSERT INTO claim_secrets (workspace_id, sealed) VALUES (p_new_workspace_id, p_secrets);
        END IF;
        PERFORM check_people(v_preset.organization_id, v_owner, v_initiator);
        UPDATE claims
           SET request_hash = p_request_hash, outcome = 'created', miss_reason = v_miss,
               answer = claim_workspace.answer, workspace_id = p_new_workspace_id, completed_at = now()
         WHERE id = p_claim_id;
    ELSE
        -- A miss counts for the active version, even when the older version was to serve the claim.
        answer := jsonb_build_object('preset_id', coalesce(v_active, v_preset.id), 'source', NULL, 'miss_reason', v_miss);
        UPDATE claims
           SET request_hash = p_request_hash, owner = p_owner, initiator = p_initiator, target = v_target,
               outcome = 'missed', miss_reason = v_miss,
               answer = claim_workspace.answer, completed_at = now(), run = p_run,
               other_runs_after = greatest(other_runs_after, v_began),
               run_answered = v_final AND p_on_empty = 'fail'
         WHERE id = p_claim_id;
    END IF;
    IF v_final AND (p_on_empty <> 'wait' OR v_miss = 'no_pool') THEN  -- a claim that waits records no miss, and joins the queue next
        INSERT INTO events (kind, actor, preset_id, workspace_id, claim_id, data)
        VALUES ('claim_' || coalesce(answer ->> 'source', 'missed'), v_initiator_name, (answer ->> 'preset_id')::uuid,
                (answer ->> 'workspace_id')::uuid, p_claim_id,
                jsonb_build_object('owner', v_owner_name, 'name', p_name, 'miss_reason', v_miss)
                || jsonb_strip_nulls(jsonb_build_object('token_id', p_token)));
    END IF;
END
$$
