-- Records the answer of one run whose claim wins nothing: it was refused, timed out or was cancelled. From then on no attempt
-- of that run or of an earlier run takes a workspace (`claim_workspace` checks it). Source: docs/decisions/0015.
--
-- p_owner, p_initiator and p_target belong to the run's request. Null keeps what the claim's row has.
--
-- A null p_answer records no answer: the run only takes the claim over. The function returns the run's answer: what the
-- claim has won, the answer recorded before, or p_answer. When a later run has begun, it writes nothing and returns
-- {"error": "Superseded"}. A waiting claim belongs to the run that waits: the refusal of another run is not recorded, and no
-- other request takes the claim over.
CREATE OR REPLACE FUNCTION answer_claim_run(
    p_claim_id text, p_request_hash bytea, p_run text, p_run_began timestamptz, p_answer jsonb,
    p_owner text, p_initiator text, p_target text
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_claim claims%ROWTYPE;
    -- A wrong clock of Temporal can date a run into the future. This bound lets such a run exclude later runs for a minute only.
    v_began timestamptz := least(p_run_began, now() + interval '1 minute');
BEGIN
    -- The relay may remove an old row between the two statements. The loop then inserts it again.
    LOOP
        INSERT INTO claims (id, request_hash, run, other_runs_after, owner, initiator, target)
        VALUES (p_claim_id, p_request_hash, p_run, v_began, p_owner, p_initiator, p_target)
            ON CONFLICT (id) DO NOTHING;
        SELECT * INTO v_claim FROM claims WHERE id = p_claim_id FOR UPDATE;
        EXIT WHEN FOUND;
    END LOOP;
    IF v_claim.workspace_id IS NOT NULL THEN
        RETURN CASE WHEN v_claim.request_hash = p_request_hash AND v_claim.transferred_at IS NULL THEN v_claim.answer
                    ELSE p_answer END;
    ELSIF v_claim.run = p_run AND v_claim.run_answered THEN
        RETURN v_claim.answer;
    ELSIF v_claim.run <> p_run AND v_claim.other_runs_after > p_run_began THEN
        RETURN jsonb_build_object('error', 'Superseded');
    ELSIF v_claim.run <> p_run AND (
            p_answer ->> 'error' = 'ClaimIdReused'
            OR EXISTS (SELECT FROM claim_queue q
                        WHERE q.claim_id = p_claim_id AND q.decided_at IS NULL AND q.deadline > now()
                          AND (p_answer IS NOT NULL OR q.request_hash <> p_request_hash))) THEN
        -- Another run of the claim waits and continues. Only the refused run must not take the claim later.
        UPDATE claims SET other_runs_after = greatest(other_runs_after, v_began + interval '1 microsecond')
         WHERE id = p_claim_id;
        RETURN coalesce(p_answer, jsonb_build_object('error', 'Superseded'));
    END IF;
    UPDATE claims
       SET request_hash = p_request_hash, owner = coalesce(p_owner, owner), initiator = coalesce(p_initiator, initiator),
           target = coalesce(p_target, target), run = p_run, other_runs_after = greatest(other_runs_after, v_began),
           run_answered = p_answer IS NOT NULL,
           outcome = CASE WHEN p_answer IS NULL THEN outcome ELSE 'refused' END,
           miss_reason = CASE WHEN p_answer IS NULL THEN miss_reason ELSE p_answer #>> '{details,miss_reason}' END,
           answer = coalesce(p_answer, answer),
           completed_at = now()
     WHERE id = p_claim_id;
    RETURN p_answer;
END
$$
