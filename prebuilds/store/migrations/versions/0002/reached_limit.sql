-- Returns the limit that forbids an owner one more workspace in an organization, with its maximum and the number in use. It
-- returns nulls when no limit does. Running and stopped workspaces count. Workspaces that are being deleted, prebuilds and
-- drills do not count. Without the lock of `lock_limits` the answer is only a hint.
CREATE OR REPLACE FUNCTION reached_limit(
    p_organization_id uuid, p_owner_id uuid, p_limits jsonb,
    OUT limit_name text, OUT maximum int, OUT used int
) LANGUAGE plpgsql AS $$
BEGIN
    maximum := p_limits ->> 'workspaces_per_member';
    IF maximum IS NOT NULL THEN
        SELECT count(*) INTO used FROM workspaces w
         WHERE w.owner_id = p_owner_id AND w.organization_id = p_organization_id AND w.deleted_at IS NULL
           AND w.latest_transition IS DISTINCT FROM 'delete';
        IF used >= maximum THEN
            limit_name := 'workspaces_per_member';
            RETURN;
        END IF;
    END IF;
    maximum := p_limits ->> 'workspaces';
    IF maximum IS NOT NULL THEN
        -- The query goes by preset, so that `workspaces_live_idx` serves it. Another index would cost every claim.
        SELECT count(*) INTO used
          FROM templates t JOIN template_versions v ON v.template_id = t.id
          JOIN presets p ON p.template_version_id = v.id
          JOIN workspaces w ON w.preset_id = p.id AND w.deleted_at IS NULL
         WHERE t.organization_id = p_organization_id AND w.latest_transition IS DISTINCT FROM 'delete'
           AND NOT EXISTS (SELECT FROM users u WHERE u.id = w.owner_id AND u.key IN ('prebuilds', 'prebuilds-drill'));
        IF used >= maximum THEN
            limit_name := 'workspaces';
            RETURN;
        END IF;
    END IF;
    maximum := NULL;
    used := NULL;
END
$$
