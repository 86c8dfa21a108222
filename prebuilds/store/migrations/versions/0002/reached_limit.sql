-- Returns the limit on workspaces that keeps an owner from one more in an organization, with its number and with how many
-- there are; null: none does. Live workspaces count, stopped ones too; those that are being deleted, prebuilds and drills do not.
-- The caller holds the lock of `lock_limits`, or wants no more than a hint.
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
        -- By preset, so that the index of live workspaces serves it, and every claim is spared one more index.
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
