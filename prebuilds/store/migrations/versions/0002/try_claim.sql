-- Decides one of several claims that share a statement, by `decide_claim`, in a subtransaction of its own. It leaves a claim that
-- finds no prebuild at once: the answer is null, nothing is written, and no row stays locked. The caller then decides that claim
-- alone, so refusals and misses have one place in the code. Source: docs/decisions/0048.
--
-- All claims of the statement wait for each other, and hold locks while they do. So lock_timeout bounds each lock wait. A claim
-- is also left when another transaction is using its id or its name.
CREATE OR REPLACE FUNCTION try_claim(
    p_claim_id text, p_request_hash bytea,
    p_preset_id uuid, p_organization text, p_template text, p_preset text,
    p_owner text, p_initiator text, p_name text,
    p_autostart text, p_next_start timestamptz, p_ttl interval, p_secrets jsonb,
    p_on_empty text, p_enabled boolean, p_held boolean, p_new_workspace_id uuid, p_new_build_id uuid,
    p_new_owner text, p_run text, p_run_began timestamptz, p_ends_at timestamptz, p_token uuid, p_traceparent text,
    OUT answer jsonb, OUT fresh boolean, OUT organization text, OUT template text, OUT preset text,
    OUT build_open boolean
) LANGUAGE plpgsql SET lock_timeout = '20ms' AS $$
DECLARE
    v_decided record;
BEGIN
    -- The claim's build stores this trace. The previous claim of the statement may have set another one.
    IF p_traceparent IS DISTINCT FROM nullif(current_setting('prebuilds.traceparent', true), '') THEN
        PERFORM set_config('prebuilds.traceparent', coalesce(p_traceparent, ''), true);
    END IF;
    v_decided := decide_claim(
        p_claim_id, p_request_hash, p_preset_id, p_organization, p_template, p_preset, p_owner, p_initiator, p_name,
        p_autostart, p_next_start, p_ttl, p_secrets, p_on_empty, p_enabled, p_held, p_new_workspace_id, p_new_build_id,
        p_new_owner, p_run, p_run_began, p_ends_at, p_token, false);
    IF v_decided.answer IS NULL THEN
        RAISE EXCEPTION 'Left' USING ERRCODE = 'PB001';  -- the rollback releases a prebuild that decide_claim may have locked
    END IF;
    answer := v_decided.answer;
    fresh := v_decided.fresh;
    organization := v_decided.organization;
    template := v_decided.template;
    preset := v_decided.preset;
    build_open := v_decided.build_open;
EXCEPTION WHEN OTHERS THEN
    answer := NULL;
END
$$
