"""Writes `.env` for docker-compose.yml: a random password for each purpose. It never changes a file that exists."""

import base64
import os
import secrets
import sys
from pathlib import Path

PASSWORDS = {
    "POSTGRES_PASSWORD": "PostgreSQL's superuser: makes the databases and roles, and nothing else",
    "TEMPORAL_PASSWORD": "Temporal's role, which owns its two databases",
    "PREBUILDS_OWNER_PASSWORD": "owns our tables: `prebuilds init`",
    "PREBUILDS_WORKER_PASSWORD": "control, claims and provisioner workers",
    "PREBUILDS_SERVER_PASSWORD": "the HTTP server, and commands in its container",
    "PREBUILDS_READER_PASSWORD": "reports and dashboards: reads what is no secret",
    "GRAFANA_PASSWORD": "Grafana's user `admin`",
}
STATE_KEY = "PREBUILDS_STATE_KEY"
HEAD = """\
# Made by `make env`. Back this file up apart from the database: what PREBUILDS_STATE_KEY has encrypted is lost without
# it. After a change of a password, `docker compose up --detach` puts it into effect, but for those of PostgreSQL's
# superuser and of Grafana, which count only when their volumes are empty. In single quotes, a value may have any other
# character.
"""


def text() -> str:
    """Return a file with new random values."""
    lines = [f"# {use}\n{name}='{secrets.token_urlsafe(32)}'" for name, use in PASSWORDS.items()]
    key = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    lines.append(f"# encrypts claims' secrets and Terraform's states in our database\n{STATE_KEY}='{key}'")
    return HEAD + "\n".join(lines) + "\n"


def main() -> None:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else ".env")
    try:
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        sys.exit(f"{path} exists and is left as it is; its passwords are those that the volumes were made with")
    with os.fdopen(made, "w") as file:
        file.write(text())
    print(f"{path}: written; only its owner can read it")


if __name__ == "__main__":
    main()
