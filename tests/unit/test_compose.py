"""The cluster file fits the code, asks for every secret, and gives each service no more than it needs."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from prebuilds.settings import Settings
from prebuilds.stack.temporal_server import SETTINGS
from prebuilds.store.roles import role_names
from tests.unit.compose_file import ROOT, TEXT, VARIABLE, required, resolved
from worker import parse_options

FILE = resolved({name: f"<{name}>" for name in required()})
SERVICES: dict[str, Any] = FILE["services"]
JOBS = {"databases", "temporal-schema", "temporal-namespace", "migrate"}
WORKERS = {"control", "claims", "provisioner", "containers"}
OURS = {"migrate", "http", *WORKERS}
SECRET = re.compile(r"PASSWORD|_PWD$|_KEY$")


def test_the_file_is_a_valid_compose_file() -> None:
    # The checker knows no merge keys, no tag beside a digest, and no number of restarts. Compose knows all of these.
    plain = re.sub(r":v?[\w.-]+@sha256:", "@sha256:", yaml.safe_dump(FILE, width=1000))
    plain = re.sub(r"on-failure:\d+", "on-failure", plain)
    assert PyCompose.from_yaml(plain) is not None


def test_no_secret_has_a_default_and_none_is_a_part_of_something() -> None:
    """A password may then have any character. Temporal's YAML is the exception: there it is escaped (below)."""
    with pytest.raises(KeyError):
        resolved({})
    for name, kind, default in VARIABLE.findall(TEXT):
        assert kind in ("-", "?"), f"{name} would be empty where it is not set"
        if SECRET.search(name):
            assert (kind, default) == ("?", "run `make env` first") or name == "PREBUILDS_PAYLOAD_KEY"
    for service in SERVICES.values():
        for value in service.get("environment", {}).values():
            assert not any(f"<{name}>" in value != f"<{name}>" for name in required())
        assert "<" not in str([service.get("command"), service.get("entrypoint")]).replace("'<", "")


def test_a_password_of_any_character_reaches_temporals_configuration_whole() -> None:
    script = SERVICES["temporal"]["command"][0]
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


def test_each_service_connects_with_the_role_of_its_purpose() -> None:
    roles = role_names("prebuilds")
    expected = {"migrate": "prebuilds_owner", "http": roles["server"], **dict.fromkeys(WORKERS, roles["worker"])}
    for name in OURS:
        environment = SERVICES[name]["environment"]
        role = expected[name]
        assert environment["PREBUILDS_DATABASE_URL"] == f"postgresql://{role}@postgres:5432/prebuilds"
        assert environment["PGPASSWORD"] == f"<{role.upper()}_PASSWORD>"
    assert {name for name, service in SERVICES.items() if "<POSTGRES_PASSWORD>" in str(service)} == {
        "postgres",
        "databases",
    }, "nobody else is the superuser"
    assert SERVICES["migrate"]["command"] == ["prebuilds", "init", "--roles", "prebuilds"]


def test_our_services_set_only_what_the_code_reads() -> None:
    known = {f"PREBUILDS_{name.upper()}" for name in Settings.model_fields} | {"PREBUILDS_LOG_FORMAT"}
    for name in OURS:
        ours = {key for key in SERVICES[name]["environment"] if key.startswith("PREBUILDS_")}
        assert ours <= known


def test_every_role_is_served_by_a_command_that_the_worker_understands() -> None:
    roles = set()
    for name in OURS - {"migrate"}:
        program, script, *options = SERVICES[name]["command"]
        assert (program, script) == ("prebuilds", "worker")
        roles.update(parse_options(options).roles)
    assert roles == {"control", "claims", "provisioner", "http"}


def test_ports_are_open_on_this_machine_alone_and_metrics_on_none() -> None:
    for name, service in SERVICES.items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name
            assert not port.endswith(":9464")
    for name in OURS:
        assert SERVICES[name]["environment"]["PREBUILDS_METRICS_HOST"] == "0.0.0.0"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_bounded_and_comes_back(name: str) -> None:
    service = SERVICES[name]
    if name in OURS:
        assert (service["image"], service["build"]) == ("prebuilds:local", ".")
        assert (service["cap_drop"], service["read_only"]) == (["ALL"], True)
    else:
        assert re.fullmatch(r"[a-z/-]+:v?\d[\w.-]+@sha256:[0-9a-f]{64}", service["image"])
    assert service["mem_limit"]
    assert service["logging"]["options"]["max-size"]
    if name in JOBS:
        assert service["restart"].startswith("on-failure:"), "a job that cannot succeed ends"
        return
    assert service["restart"] == "unless-stopped"
    checked = name in OURS or "test" in service["healthcheck"]
    assert checked, "the image of ours has a check of its own"
    if name in OURS:
        assert int(service["stop_grace_period"].removesuffix("s")) > 10, "a worker drains for 10 s"


def test_the_engines_socket_is_in_a_service_of_its_own() -> None:
    """A process that reaches the socket is root on the machine, and `process` workspaces run beside their worker."""
    with_socket = {name for name, service in SERVICES.items() if "docker.sock" in str(service.get("volumes"))}
    assert with_socket == {"containers"}
    service = SERVICES["containers"]
    assert service["profiles"] == ["containers"]
    _, _, *options = service["command"]
    assert parse_options(options).queues == ("prebuilds-containers",)
    assert FILE["networks"]["workspaces"]["name"] == "prebuilds-workspaces"
    assert "workspaces" in service["networks"], "else it cannot reach what is in that network"


def test_no_two_services_share_a_state_folder() -> None:
    volumes = [v for service in SERVICES.values() for v in service.get("volumes", ()) if not v.startswith(("/", "."))]
    assert len(volumes) == len({volume.split(":")[0] for volume in volumes})
    assert {volume.split(":")[0] for volume in volumes} == set(FILE["volumes"])


def test_dependencies_and_mounted_files_exist() -> None:
    for service in SERVICES.values():
        assert set(service.get("depends_on", {})) <= set(SERVICES)
        for volume in service.get("volumes", ()):
            source, _, mode = volume.partition(":")
            if source.startswith("."):
                assert (ROOT / source).exists(), source
                assert mode.endswith(":ro")


def test_the_cluster_has_the_embedded_servers_settings() -> None:
    """Compose has all of these settings except those of a dev server."""
    embedded = dict(item.split("=") for item in SETTINGS if "." in item)
    deployed = yaml.safe_load((ROOT / "deploy/dynamicconfig/prebuilds.yaml").read_text())
    flat = {key: str(entries[0]["value"]).lower() for key, entries in deployed.items()}
    assert flat == {key: value.strip('"').lower() for key, value in embedded.items()}


TOOL = """#!/bin/sh
made="$DATABASES/${10}"
printf '%s %s\\n' "${10}" "${11}" >>"$CALLS"
case "${11}" in
update-schema) [ -e "$made" ] ;;
setup-schema) [ ! -e "$made" ] && touch "$made" ;;
esac
"""
"""A stand-in for Temporal's tool, which upgrades nothing in an empty database and sets up nothing twice."""


def test_temporals_schema_is_set_up_once_and_then_only_upgraded(tmp_path: Path) -> None:
    tool, calls = tmp_path / "temporal-sql-tool", tmp_path / "calls"
    tool.write_text(TOOL)
    tool.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(calls), "DATABASES": str(tmp_path)}
    for expected in (["update-schema", "setup-schema", "update-schema"], ["update-schema"]):
        calls.write_text("")
        script = ["/bin/sh", ROOT / "deploy/compose/temporal-schema.sh"]
        subprocess.run(script, env=environment, check=True, timeout=20)
        assert calls.read_text().splitlines() == [
            f"{database} {step}" for database in ("temporal", "temporal_visibility") for step in expected
        ]
