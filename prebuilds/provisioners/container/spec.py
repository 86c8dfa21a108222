"""A container's specification: the source with this workspace's values, and a fingerprint of each part.

The fingerprints stay on the container as a label. A part whose fingerprint is another one for the new owner has to be
replaced by a claim. Fingerprints are hashes, so that labels and plans show no values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prebuilds.provisioners.base import Provision
from prebuilds.provisioners.container.binds import Bind, base_of, check_text
from prebuilds.provisioners.container.bounds import PIDS_DEFAULT
from prebuilds.provisioners.container.machine import check_filled_host_name
from prebuilds.provisioners.container.parts import Mount, Ready
from prebuilds.provisioners.container.source import OUR_LABELS, ContainerSource
from prebuilds.provisioners.kit.placeholders import fill

WORKSPACE_LABEL = f"{OUR_LABELS}workspace_id"
BUILD_LABEL = f"{OUR_LABELS}build_number"
DEPLOYMENT_LABEL = f"{OUR_LABELS}deployment"
EPOCH_LABEL = f"{OUR_LABELS}epoch"
SPEC_LABEL = f"{OUR_LABELS}spec"
READY_LABEL = f"{OUR_LABELS}ready"
PORT_LABEL = f"{OUR_LABELS}port"
FINGERPRINT_CHARS = 16


@dataclass(frozen=True)
class Spec:
    """One container's specification, with every placeholder filled."""

    image: str
    config: dict[str, Any]
    """The body of the engine's create call."""
    volumes: tuple[str, ...]
    """Names of the workspace's own volumes, which are made before the container."""
    volume_labels: dict[str, str]
    fingerprints: dict[str, str]
    """Field path, such as `env.TOKEN` -> hash of its value."""
    needs_health_check: bool
    runtime: str | None = None
    """None: the engine's default."""
    platform: str | None = None
    """None: the engine's own."""
    needs_gpus: bool = False
    binds: tuple[Bind, ...] = ()
    """Bind mounts whose path has placeholders, filled."""

    def differs_from(self, labels: Mapping[str, str]) -> list[str]:
        """Return the field paths in which a container with these labels differs from this specification, sorted."""
        try:
            theirs = json.loads(labels.get(SPEC_LABEL, "{}"))
        except ValueError:
            theirs = {}
        paths = {*self.fingerprints, *theirs}
        return sorted(path for path in paths if self.fingerprints.get(path) != theirs.get(path))


def container_name(deployment_id: UUID, workspace_id: UUID) -> str:
    """Return the workspace's container name. It has the deployment's id shortened; the label has all of it."""
    return f"prebuilds-{deployment_id.hex[:8]}-{workspace_id}"


def volume_name(deployment_id: UUID, workspace_id: UUID, volume: str) -> str:
    """Return the engine's name for the workspace's volume *volume*."""
    return f"{container_name(deployment_id, workspace_id)}-{volume}"


def values_of(wanted: Provision) -> dict[str, str]:
    """Return the placeholders' values. A claim's parameter takes precedence over the preset's."""
    parameters = {**wanted.parameters, **wanted.claim_parameters}
    return {
        "workspace_id": str(wanted.workspace_id),
        "name": wanted.name,
        "owner": wanted.owner,
        "owner_slug": wanted.owner_slug,
        "organization": wanted.organization,
        "template": wanted.template,
        "preset": wanted.preset or "",
        **{f"param.{name}": value for name, value in parameters.items()},
    }


def resolve(source: ContainerSource, wanted: Provision) -> Spec:
    """Return the container's specification for this build.

    Raises:
        InvalidSource: A placeholder has no value, or a value leads out of a mount's folder.
    """
    values = values_of(wanted)
    filled = {path: fill(text, values, f"source.{path}") for path, text in source.texts()}
    check_filled_host_name(filled.get("hostname"))
    command, entrypoint = (
        [filled[f"{field}.{n}"] for n in range(len(words))] if (words := getattr(source, field)) is not None else None
        for field in ("command", "entrypoint")
    )
    env = {name: filled[f"env.{name}"] for name in source.env}
    fingerprinted: dict[str, Any] = {
        "image": filled["image"],
        "command": command,
        "entrypoint": entrypoint,
        **{path: filled.get(path) for path in ("workdir", "user", "network", "hostname")},
        **{f"env.{name}": value for name, value in env.items()},
        **{f"labels.{name}": filled[f"labels.{name}"] for name in source.labels},
        **{f"mounts.{m.target}": _mount(m, n, filled, wanted) for n, m in enumerate(source.mounts)},
        # A field added here later must be left out while a template does not set it: else all containers would differ.
        **source.model_dump(mode="json", include={"memory", "cpus", "pids", "ports", "publish_on"}),
        **source.set_bounds(),
        **source.set_machine(),
    }
    fingerprints = {
        path: _fingerprint(wanted.workspace_id, value) for path, value in fingerprinted.items() if value is not None
    }
    tags = {
        WORKSPACE_LABEL: str(wanted.workspace_id),
        BUILD_LABEL: str(wanted.build_number),
        DEPLOYMENT_LABEL: str(wanted.deployment_id),
        EPOCH_LABEL: str(wanted.epoch),
    }
    labels = {
        **{name: filled[f"labels.{name}"] for name in source.labels},
        **tags,
        SPEC_LABEL: json.dumps(fingerprints, sort_keys=True),
        PORT_LABEL: f"{source.ports[0]}/tcp" if source.ports else "",
        READY_LABEL: _ready(source.readiness, values),
    }
    ours = {"PREBUILDS_WORKSPACE_ID": str(wanted.workspace_id)}
    if source.claim is not None:
        ours["PREBUILDS_CLAIM_FILE"] = source.claim.file
    config: dict[str, Any] = {
        "Image": filled["image"],
        "Cmd": command,
        "Entrypoint": entrypoint,
        "Env": [f"{name}={value}" for name, value in {**env, **ours}.items()],
        "WorkingDir": filled.get("workdir"),
        "User": filled.get("user"),
        "Hostname": filled.get("hostname"),
        "Labels": labels,
        "StopTimeout": round(source.stop_timeout.total_seconds()),
        "ExposedPorts": {f"{port}/tcp": {} for port in source.ports},
        "HostConfig": {
            "Memory": source.memory,
            "NanoCpus": round(source.cpus * 1e9) if source.cpus is not None else None,
            "PidsLimit": source.pids or PIDS_DEFAULT,
            **source.bounds(),
            **source.machine(),
            "NetworkMode": filled.get("network"),
            # An empty host port lets the engine choose a free one.
            "PortBindings": {
                f"{port}/tcp": [{"HostIp": source.publish_on, "HostPort": ""}] for port in source.published_ports
            },
            "Mounts": [fingerprinted[f"mounts.{mount.target}"] for mount in source.mounts],
        },
    }
    return Spec(
        image=filled["image"],
        config=_without_none(config),
        volumes=tuple(
            volume_name(wanted.deployment_id, wanted.workspace_id, m.volume)
            for m in source.mounts
            if m.volume is not None
        ),
        volume_labels=tags,
        fingerprints=fingerprints,
        needs_health_check=source.ready is not None and source.ready.healthcheck is not None,
        runtime=source.runtime,
        platform=source.platform,
        needs_gpus=source.gpus is not None,
        binds=_binds(source, filled),
    )


def _binds(source: ContainerSource, filled: Mapping[str, str]) -> tuple[Bind, ...]:
    """Return the bind mounts that have placeholders, checked.

    Raises:
        InvalidSource: A value leads out of the template's own folder.
    """
    binds = []
    for n, mount in enumerate(source.mounts):
        if mount.bind is not None and (base := base_of(mount.bind)) is not None:
            binds.append(Bind(f"source.mounts.{n}.bind", base, filled[f"mounts.{n}.bind"]))
            check_text(binds[-1])
    return tuple(binds)


def _mount(mount: Mount, index: int, filled: Mapping[str, str], wanted: Provision) -> dict[str, Any]:
    kind, origin = "volume", ""
    if mount.volume is not None:
        origin = volume_name(wanted.deployment_id, wanted.workspace_id, mount.volume)
    else:
        kind, origin = "bind", filled[f"mounts.{index}.bind"]
    return {"Type": kind, "Source": origin, "Target": mount.target, "ReadOnly": mount.read_only}


def _ready(ready: Ready | None, values: Mapping[str, str]) -> str:
    """Return the readiness check as a label's text, for probes, which know no template; empty when there is none."""
    if ready is None:
        return ""
    update: dict[str, Any] = {}
    if ready.http is not None:
        update["http"] = fill(ready.http, values, "source.ready.http")
    if ready.exec is not None:
        update["exec"] = [fill(word, values, f"source.ready.exec.{n}") for n, word in enumerate(ready.exec)]
    return ready.model_copy(update=update).model_dump_json(exclude_none=True)


def _fingerprint(workspace_id: UUID, value: Any) -> str:
    # The workspace's id is a part of it, so that labels do not show that two workspaces have the same value.
    text = json.dumps([str(workspace_id), value], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_CHARS]


def _without_none(config: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if value is not None
    }
