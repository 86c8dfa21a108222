-- Refuses a new claim that an organization's limits do not allow. Counts every other claim in the organization's claims of
-- the minute. A lock keeps both true until the transaction ends. Repeated attempts of one claim within a minute count once.
-- A claim that has waited in the queue is never refused for the claims of the minute.
--
-- A claim that another attempt has won in the meantime passes: the caller repeats its answer.
--
-- p_alone means the same as in `decide_claim`. When it is false and the lock is not free, this raises 'Left': the other
-- claims of the statement must not wait for these limits.
CREATE OR REPLACE FUNCTION admit_claim(
    p_claim_id text, p_organization_id uuid, p_owner_id uuid, p_limits jsonb, p_alone boolean DEFAULT true
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_rate CONSTANT int := p_limits ->> 'claims_per_minute';
    v_reached record;
    v_now timestamptz;
    v_oldest timestamptz;
BEGIN
    IF NOT p_limits ?| ARRAY['workspaces', 'workspaces_per_member', 'claims_per_minute']
       OR EXISTS (SELECT FROM users WHERE id = p_owner_id AND key = 'prebuilds-drill') THEN  -- limits do not count drills
        RETURN;
    END IF;
    IF NOT lock_limits(p_organization_id, p_owner_id, p_limits, p_alone) THEN
        RAISE EXCEPTION 'Left' USING ERRCODE = 'PB001';
    END IF;
    IF EXISTS (SELECT FROM claims WHERE id = p_claim_id AND workspace_id IS NOT NULL) THEN
        RETURN;
    END IF;
    v_reached := reached_limit(p_organization_id, p_owner_id, p_limits);
    IF v_reached.limit_name IS NOT NULL THEN
        RAISE EXCEPTION 'LimitExceeded' USING ERRCODE = 'PB001', DETAIL = jsonb_build_object(
            'organization', (SELECT name FROM organizations WHERE id = p_organization_id), 'limit', v_reached.limit_name, 'maximum', v_reached.maximum, 'used', v_reached.used);
    END IF;
    IF v_rate IS NULL THEN
        RETURN;
    END IF;
    v_now := clock_timestamp();  -- read after the lock wait, so that times increase
    -- A time in the future was written before the clock was set back. It does not count.
    IF EXISTS (SELECT FROM recent_claims
                WHERE organization_id = p_organization_id AND claim_id = p_claim_id
                  AND asked_at > v_now - interval '1 minute' AND asked_at <= v_now) THEN
        RETURN;
    END IF;
    SELECT asked_at INTO v_oldest FROM recent_claims
     WHERE organization_id = p_organization_id AND asked_at > v_now - interval '1 minute' AND asked_at <= v_now
     ORDER BY asked_at DESC OFFSET v_rate - 1 LIMIT 1;
    IF FOUND THEN
        -- A claim that waited and now creates a workspace was counted when it joined the queue.
        IF EXISTS (SELECT FROM events WHERE claim_id = p_claim_id AND workspace_id IS NULL AND kind = 'claim_queued') THEN
            RETURN;
        END IF;
        RAISE EXCEPTION 'LimitExceeded' USING ERRCODE = 'PB001', DETAIL = jsonb_build_object(
            'organization', (SELECT name FROM organizations WHERE id = p_organization_id),
            'limit', 'claims_per_minute', 'maximum', v_rate, 'used', v_rate,
            'retry_after_seconds', ceil(extract(epoch FROM v_oldest + interval '1 minute' - v_now)));
    END IF;
    DELETE FROM recent_claims
     WHERE organization_id = p_organization_id AND (asked_at <= v_now - interval '1 minute' OR asked_at > v_now);
    INSERT INTO recent_claims (organization_id, claim_id, asked_at) VALUES (p_organization_id, p_claim_id, v_now)
        ON CONFLICT (organization_id, claim_id) DO UPDATE SET asked_at = excluded.asked_at;
END
$$
