"""The cluster file fits the code: its syntax, its settings, its commands."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import yaml
from compose_spec import PyCompose

from prebuilds.settings import Settings
from prebuilds.stack.temporal_server import SETTINGS
from worker import parse_options

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "docker-compose.yml").read_text()
SERVICES = yaml.safe_load(COMPOSE)["services"]
OURS = {"migrate", "control", "claims", "provisioner", "containers"}


def test_it_is_a_compose_file() -> None:
    plain = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", COMPOSE)
    resolved = yaml.safe_dump(yaml.safe_load(plain))  # the checker knows no merge keys, and not every variable
    assert PyCompose.from_yaml(resolved) is not None


def test_our_services_set_only_what_the_code_reads() -> None:
    known = {f"PREBUILDS_{name.upper()}" for name in Settings.model_fields}
    for name in OURS:
        ours = {key for key in SERVICES[name]["environment"] if key.startswith("PREBUILDS_")}
        assert ours <= known


def test_a_password_of_any_character_reaches_every_service_whole() -> None:
    """It is the whole of each variable that has it, and a part of nothing; but for Temporal's YAML, it is escaped."""
    assert COMPOSE.count("${POSTGRES_PASSWORD") == 4
    for service in SERVICES.values():
        for value in service.get("environment", {}).values():
            assert "POSTGRES_PASSWORD" not in value.removeprefix("${POSTGRES_PASSWORD:-prebuilds}")
    script = SERVICES["temporal"]["command"][0].replace("$$", "$")
    escaping, _, _ = script.partition("exec")
    password = "a\\b\"c'd$e/f@g#h%i j"
    done = subprocess.run(
        ["/bin/sh", "-ec", f"{escaping}printf '%s' \"$POSTGRES_PWD\""],
        env={"POSTGRES_PWD": password, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert yaml.safe_load(f'"{done.stdout}"') == password


def test_every_role_is_served_by_a_command_that_the_worker_understands() -> None:
    roles = set()
    for name in OURS - {"migrate"}:
        program, script, *options = SERVICES[name]["command"]
        assert (program, script) == ("prebuilds", "worker")
        roles.update(parse_options(options).roles)
    assert roles == {"control", "claims", "provisioner"}


def test_the_engines_socket_is_in_a_service_of_its_own() -> None:
    """Who reaches it is root on the machine, and workspaces of `process` templates run beside their worker."""
    with_socket = {name for name, service in SERVICES.items() if "docker.sock" in str(service.get("volumes"))}
    assert with_socket == {"containers"}
    service = SERVICES["containers"]
    assert service["profiles"] == ["containers"]
    _, _, *options = service["command"]
    assert parse_options(options).queues == ("prebuilds-containers",)
    assert yaml.safe_load(COMPOSE)["networks"]["workspaces"]["name"] == "prebuilds-workspaces"
    assert "workspaces" in service["networks"], "else it cannot reach what is in that network"


def test_what_is_waited_for_exists() -> None:
    for service in SERVICES.values():
        assert set(service.get("depends_on", {})) <= set(SERVICES)


def test_the_cluster_has_the_embedded_servers_settings() -> None:
    """All but those that make a dev server of it."""
    embedded = dict(item.split("=") for item in SETTINGS if "." in item)
    deployed = yaml.safe_load((ROOT / "deploy/dynamicconfig/prebuilds.yaml").read_text())
    flat = {key: str(entries[0]["value"]).lower() for key, entries in deployed.items()}
    assert flat == {key: value.strip('"').lower() for key, value in embedded.items()}
