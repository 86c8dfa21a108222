-- Whether a build is still to be done, asked within the statement that claims. PL/pgSQL and volatile, so that it is not
-- inlined and sees what the function beside it in the same statement has written.
CREATE FUNCTION build_is_open(p_build_id uuid) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM workspace_builds WHERE id = p_build_id AND completed_at IS NULL);
END
$$
