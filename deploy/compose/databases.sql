-- The databases and roles of docker-compose.yml, for psql. It runs at each `up` and bears repeating: whoever changes a
-- password in .env has it in effect with the next `up`.
\set ON_ERROR_STOP on
\getenv owner_password PREBUILDS_OWNER_PASSWORD
\getenv worker_password PREBUILDS_WORKER_PASSWORD
\getenv server_password PREBUILDS_SERVER_PASSWORD
\getenv reader_password PREBUILDS_READER_PASSWORD
\getenv temporal_password TEMPORAL_PASSWORD

-- The server's log is to hold no statement with a password, also when it fails.
SET log_statement = 'none';
SET log_min_error_statement = 'panic';
SET log_min_duration_statement = -1;
SET password_encryption = 'scram-sha-256';

SELECT format('CREATE ROLE %I LOGIN', name)
  FROM unnest(ARRAY['prebuilds_owner', 'prebuilds_worker', 'prebuilds_server', 'prebuilds_reader', 'temporal']) AS name
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec
ALTER ROLE prebuilds_owner PASSWORD :'owner_password';
ALTER ROLE prebuilds_worker PASSWORD :'worker_password';
ALTER ROLE prebuilds_server PASSWORD :'server_password';
ALTER ROLE prebuilds_reader PASSWORD :'reader_password';
ALTER ROLE temporal PASSWORD :'temporal_password';

-- A long snapshot of a report would slow claims down.
ALTER ROLE prebuilds_reader SET default_transaction_read_only = on;
ALTER ROLE prebuilds_reader SET statement_timeout = '30s';
ALTER ROLE prebuilds_reader SET idle_in_transaction_session_timeout = '10s';

SELECT format('CREATE DATABASE %I OWNER %I ENCODING ''UTF8'' TEMPLATE template0', name, owner)
  FROM (VALUES ('prebuilds', 'prebuilds_owner'), ('temporal', 'temporal'), ('temporal_visibility', 'temporal'))
       AS wanted (name, owner)
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name)
\gexec
REVOKE ALL ON DATABASE prebuilds, temporal, temporal_visibility FROM PUBLIC;
GRANT CONNECT ON DATABASE prebuilds TO prebuilds_worker, prebuilds_server, prebuilds_reader;
