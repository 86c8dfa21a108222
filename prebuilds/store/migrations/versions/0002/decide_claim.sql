-- Decides one claim in one round trip. This function decides a new claim that finds a prebuild ready, in three statements that
-- write the claim's row once. It calls `claim_workspace`, which has the same arguments, for every other claim. So refusals,
-- misses and repeated attempts have one place in the code. Both functions write the same rows. Source: docs/decisions/0031.
--
-- build_open says whether the caller has to start the workspace's build. It is null when there is no workspace.
-- p_alone is false for a claim that shares its statement with others. Such a claim gets a null answer where `claim_workspace`
-- would have to decide it.
CREATE OR REPLACE FUNCTION decide_claim(
    p_claim_id text, p_request_hash bytea,
    p_preset_id uuid, p_organization text, p_template text, p_preset text,
    p_owner text, p_initiator text, p_name text,
    p_autostart text, p_next_start timestamptz, p_ttl interval, p_secrets jsonb,
    p_on_empty text, p_enabled boolean, p_held boolean, p_new_workspace_id uuid, p_new_build_id uuid,
    p_new_owner text, p_run text, p_run_began timestamptz, p_ends_at timestamptz, p_token uuid DEFAULT NULL, p_alone boolean DEFAULT true,
    OUT answer jsonb, OUT fresh boolean, OUT organization text, OUT template text, OUT preset text,
    OUT build_open boolean
) LANGUAGE plpgsql AS $$
DECLARE
    v_found record;
    v_workspace_id uuid;
    v_ttl interval;
BEGIN
    -- Read everything that a new claim of a prebuild requires. Each table is looked up by a unique key. The membership is a
    -- column and not a condition, so that no plan starts from all members of an organization.
    IF p_preset_id IS NULL THEN
        SELECT p.id, p.name, p.last_invalidated_at, p.template_version_id, v.hands_over, t.name AS template,
               t.default_ttl, o.id AS organization_id, o.name AS organization, u.id AS owner_id, u.name AS owner,
               i.id AS initiator_id, i.name AS initiator, o.limits, p.canary_rollout_id,
               EXISTS (SELECT FROM organization_members m
                        WHERE m.organization_id = o.id AND m.user_id = u.id) AS is_member
          INTO v_found
          FROM organizations o
          JOIN templates t ON t.organization_id = o.id AND t.name = p_template AND t.deleted_at IS NULL
          JOIN presets p ON p.template_version_id = t.active_version_id AND p.name = p_preset
          JOIN template_versions v ON v.id = p.template_version_id
          JOIN users u ON u.key = p_owner AND u.disabled_at IS NULL
          JOIN users i ON i.key = p_initiator AND i.disabled_at IS NULL
         WHERE o.name = p_organization AND o.prebuilds_enabled AND NOT t.deprecated
           AND NOT EXISTS (SELECT FROM claims WHERE id = p_claim_id)
           AND NOT EXISTS (SELECT FROM settings WHERE restore_found_at IS NOT NULL);
    ELSE
        SELECT p.id, p.name, p.last_invalidated_at, p.template_version_id, v.hands_over, t.name AS template,
               t.default_ttl, o.id AS organization_id, o.name AS organization, u.id AS owner_id, u.name AS owner,
               i.id AS initiator_id, i.name AS initiator, o.limits, NULL::uuid AS canary_rollout_id,
               EXISTS (SELECT FROM organization_members m
                        WHERE m.organization_id = o.id AND m.user_id = u.id) AS is_member
          INTO v_found
          FROM presets p
          JOIN templates t ON t.id = p.template_id AND t.active_version_id = p.template_version_id
          JOIN organizations o ON o.id = t.organization_id
          JOIN template_versions v ON v.id = p.template_version_id
          JOIN users u ON u.key = p_owner AND u.disabled_at IS NULL
          JOIN users i ON i.key = p_initiator AND i.disabled_at IS NULL
         WHERE p.id = p_preset_id AND o.prebuilds_enabled AND t.deleted_at IS NULL AND NOT t.deprecated
           AND NOT EXISTS (SELECT FROM claims WHERE id = p_claim_id)
           AND NOT EXISTS (SELECT FROM settings WHERE restore_found_at IS NOT NULL);
    END IF;

    -- While a canary runs, `claim_workspace` decides which version serves a claim by name.
    IF v_found.is_member AND p_enabled AND v_found.canary_rollout_id IS NULL THEN
        IF v_found.limits IS NOT NULL THEN
            PERFORM admit_claim(p_claim_id, v_found.organization_id, v_found.owner_id, v_found.limits, p_alone);
        END IF;
        v_ttl := nullif(coalesce(p_ttl, v_found.default_ttl), interval '0');
        -- This statement writes nothing when no prebuild is ready, or when another attempt of this claim has written the
        -- claim's row: it waits here until that attempt ends. It is one statement, since each costs a claim 3 % of its time.
        WITH ready AS MATERIALIZED (
            SELECT id, claim_build_id, address, template_version_id
              FROM workspaces
             WHERE claimable_preset_id = v_found.id
               AND NOT is_expired(created_at, expires_at, v_found.last_invalidated_at)
             ORDER BY created_at, id
             LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
        ), claimed AS (
            INSERT INTO claims AS c (id, request_hash, run, other_runs_after, owner, initiator, target, token_id, outcome,
                                     answer, workspace_id, completed_at)
            SELECT p_claim_id, p_request_hash, p_run, least(p_run_began, now() + interval '1 minute'), p_owner, p_initiator,
                   coalesce(p_preset_id::text, p_organization || '/' || p_template || '/' || p_preset), p_token, 'prebuilt',
                   jsonb_build_object(
                       'workspace_id', r.id, 'build_id', r.claim_build_id, 'address', r.address, 'claim_id', p_claim_id,
                       'name', p_name, 'owner', v_found.owner, 'initiator', v_found.initiator, 'preset_id', v_found.id,
                       'source', 'prebuilt', 'miss_reason', NULL, 'claimed_at', now()),
                   r.id, now()
              FROM ready r
                ON CONFLICT (id) DO NOTHING
         RETURNING c.answer, c.workspace_id
        ), given AS (
            UPDATE workspaces w
               SET owner_id = v_found.owner_id, name = p_name, autostart_schedule = p_autostart,
                   next_start_at = p_next_start, ttl = v_ttl, last_used_at = now(), claimed_at = now(),
                   claimable_preset_id = NULL, claim_build_id = NULL, expires_at = NULL,
                   latest_build = w.latest_build + 1, latest_transition = 'start',
                   -- The end of a build would set the same time: the end of the ttl, or the schedule's next start.
                   next_action_at = CASE WHEN v_found.hands_over THEN now() + v_ttl
                                         ELSE least(now() + v_ttl, p_next_start) END,
                   latest_status = CASE WHEN v_found.hands_over THEN 'pending' ELSE 'succeeded' END,
                   latest_ended_at = CASE WHEN v_found.hands_over THEN NULL ELSE now() END
              FROM claimed c, ready r
             WHERE w.id = c.workspace_id
         RETURNING w.id, w.latest_build, w.template_version_id, r.claim_build_id
        ), built AS (
            -- The initiator is a person, never the prebuilds user. A constraint of the table checks this as well.
            INSERT INTO workspace_builds (id, workspace_id, number, transition, stage, initiator_id, preset_id,
                                          template_version_id, status, started_at, completed_at, next_dispatch_at)
            SELECT g.claim_build_id, g.id, g.latest_build, 'start', 'claim', v_found.initiator_id, v_found.id,
                   g.template_version_id, CASE WHEN v_found.hands_over THEN 'pending' ELSE 'succeeded' END,
                   CASE WHEN v_found.hands_over THEN NULL ELSE now() END,
                   CASE WHEN v_found.hands_over THEN NULL ELSE now() END,
                   CASE WHEN v_found.hands_over THEN now() + interval '1 second' END
              FROM given g
        )
        SELECT c.answer, c.workspace_id INTO answer, v_workspace_id FROM claimed c;
        IF FOUND THEN
            IF clock_timestamp() > p_ends_at THEN  -- the statement arrived late, or it has waited for a lock
                RAISE EXCEPTION 'Late' USING ERRCODE = 'PB001';
            END IF;
            IF p_secrets IS NOT NULL THEN
                INSERT INTO claim_secrets (workspace_id, sealed) VALUES (v_workspace_id, p_secrets);
            END IF;
            -- Record the event only if these people may still claim. The rule is that of `check_people`: the foreign keys have
            -- waited for the rows of the people.
            INSERT INTO events (kind, actor, preset_id, workspace_id, claim_id, data)
            SELECT 'claim_prebuilt', v_found.initiator, v_found.id, v_workspace_id, p_claim_id,
                   jsonb_strip_nulls(jsonb_build_object('owner', v_found.owner, 'name', p_name, 'token_id', p_token))
              FROM organization_members m JOIN users u ON u.id = m.user_id, users i
             WHERE m.organization_id = v_found.organization_id AND m.user_id = v_found.owner_id
               AND u.disabled_at IS NULL AND i.id = v_found.initiator_id AND i.disabled_at IS NULL;
            IF NOT FOUND THEN
                PERFORM check_people(v_found.organization_id, v_found.owner_id, v_found.initiator_id);
                RAISE EXCEPTION 'NotAMember' USING ERRCODE = 'PB001';  -- check_people passed: they were added again in between
            END IF;
            fresh := true;
            organization := v_found.organization;
            template := v_found.template;
            preset := v_found.name;
            build_open := v_found.hands_over;
            RETURN;
        END IF;
        IF p_alone THEN
            -- Another attempt of this claim may have locked the last prebuild, and inserts the claim's row next. Wait here until
            -- it ends: `claim_workspace` inserts that row first and then waits for the prebuild, which would be a deadlock.
            PERFORM FROM workspaces
              WHERE claimable_preset_id = v_found.id
                AND NOT is_expired(created_at, expires_at, v_found.last_invalidated_at)
              ORDER BY created_at, id
              LIMIT 1 FOR NO KEY UPDATE;
        END IF;
    END IF;

    IF NOT p_alone THEN
        RETURN;
    END IF;
    SELECT c.answer, c.fresh, c.organization, c.template, c.preset
      INTO answer, fresh, organization, template, preset
      FROM claim_workspace(
          p_claim_id, p_request_hash, p_preset_id, p_organization, p_template, p_preset, p_owner, p_initiator, p_name,
          p_autostart, p_next_start, p_ttl, p_secrets, p_on_empty, p_enabled, p_held, p_new_workspace_id, p_new_build_id,
          p_new_owner, p_run, p_run_began, p_ends_at, p_token) c;
    IF fresh AND clock_timestamp() > p_ends_at AND answer ->> 'workspace_id' IS NOT NULL THEN  -- it has waited for a lock
        RAISE EXCEPTION 'Late' USING ERRCODE = 'PB001';
    END IF;
    build_open := build_is_open((answer ->> 'build_id')::uuid);
END
$$
