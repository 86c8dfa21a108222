-- Refuses an owner or initiator who was removed or disabled meanwhile. It is called after a workspace was given to its
-- owner: the foreign keys have waited for the people's rows, which a removal locks until its commit. So either this sees
-- the removal, or the removal sees the workspace.
CREATE FUNCTION check_people(p_organization_id uuid, p_owner_id uuid, p_initiator_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF EXISTS (SELECT FROM users WHERE id = p_owner_id AND disabled_at IS NOT NULL) THEN
        RAISE EXCEPTION 'OwnerDisabled' USING ERRCODE = 'PB001';
    ELSIF p_initiator_id <> p_owner_id
          AND EXISTS (SELECT FROM users WHERE id = p_initiator_id AND disabled_at IS NOT NULL) THEN
        RAISE EXCEPTION 'InitiatorDisabled' USING ERRCODE = 'PB001';
    ELSIF NOT EXISTS (SELECT FROM organization_members
                       WHERE organization_id = p_organization_id AND user_id = p_owner_id) THEN
        RAISE EXCEPTION 'NotAMember' USING ERRCODE = 'PB001';
    END IF;
END
$$
