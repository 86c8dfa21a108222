"""The settings that the chart offers. `python -m tests.unit.chart.settings` writes their names into its schema."""

from __future__ import annotations

import json

from prebuilds.settings import READ_ELSEWHERE, Settings
from tests.unit.chart.helm import CHART

SCHEMA = CHART / "values.schema.json"
SET_BY_THE_CHART = {
    *("DATABASE_URL", "DATABASE_PASSWORD_FILE", "STATE_KEY", "PAYLOAD_KEY", "WEBHOOK_URL", "WEBHOOK_SECRET"),
    *("TEMPORAL_UI", "STATE_DIR", "METRICS_HOST", "METRICS_PORT", "HTTP_HOST", "HTTP_PORT"),
}
"""Each has a value of its own; a secret has the name of a Secret."""
OF_NO_USE = {
    *("HTTP_REUSE_PORT", "PROCESS_UIDS"),  # a Pod has one server, and no user but its own
    *("HOST_ID", "TOKEN", "URL", "TEST_DATABASE_URL", "TEST_ENGINE", "TEST_POSTGRES"),
}


def offered() -> set[str]:
    """Return the variables that `config` has to offer: a new one of the code is one of them until it is named above."""
    known = {name.upper() for name in Settings.model_fields} | READ_ELSEWHERE
    return {f"PREBUILDS_{name}" for name in known - SET_BY_THE_CHART - OF_NO_USE}


def write() -> None:
    """Add to the schema what is missing there, and remove what the code does not read any more."""
    schema = json.loads(SCHEMA.read_text())
    config = schema["definitions"]["config"]
    before = config["properties"]
    names = sorted(offered()) + [name for name in before if not name.startswith("PREBUILDS_")]
    config["properties"] = {name: before.get(name, {"$ref": "#/definitions/setting"}) for name in names}
    SCHEMA.write_text(json.dumps(schema, indent=2) + "\n")


if __name__ == "__main__":
    write()
