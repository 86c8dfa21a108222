-- Returns whether a build is unfinished. The claiming statement calls it beside `claim_workspace`. As volatile PL/pgSQL it
-- is not inlined, and sees what that function has written in the same statement.
CREATE FUNCTION build_is_open(p_build_id uuid) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM workspace_builds WHERE id = p_build_id AND completed_at IS NULL);
END
$$
