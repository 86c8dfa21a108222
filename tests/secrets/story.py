"""A claim with a secret, its workspace's life and end, and the places of the secret during and after it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from cryptography.fernet import Fernet

from tests.collector import Collector, collector
from tests.e2e.dev_stack import BIN, DevStack, TypedStack, until
from tests.e2e.podman import IMAGE, Podman
from tests.real_terraform import write_terraform
from tests.receiver import Receiver
from tests.secrets.search import has, in_files, places, watched_processes

MODULE = """
variable "prebuilds_owner" {}
variable "token" {
  default   = ""
  sensitive = true
}
resource "terraform_data" "vm" {
  input            = "${var.prebuilds_owner} ${var.token}"
  triggers_replace = var.token # so that the claim replaces it, and a webhook is told
  provisioner "local-exec" { command = "sleep 0.3" }
}
"""
SOURCES: dict[str, dict[str, Any]] = {
    "process": {"command": ["sleep", "infinity"], "ready": None, "isolation": "none"},
    "container": {
        "image": IMAGE,
        "command": ["sleep", "1000"],
        "pull": "never",
        "stop_timeout": "0s",
        "claim": {"exec": ["sleep", "1"]},
    },
    "terraform": {"files": {"main.tf": MODULE}},
}


@dataclass
class Kept:
    """The data that a stack has sent out."""

    collector: Collector
    webhooks: Receiver
    encrypts: bool
    """Whether histories are encrypted."""


@dataclass
class Found:
    """Places by name, as the documentation's table calls them."""

    alive: set[str]
    deleted: set[str]


@contextmanager
def stack_with(folder: Path, *, keys: bool, **env: str) -> Iterator[tuple[DevStack, Kept]]:
    """A `prebuilds dev` that exports spans and sends webhooks, with or without both keys."""
    if keys:
        env["PREBUILDS_STATE_KEY"] = Fernet.generate_key().decode()
        env["PREBUILDS_PAYLOAD_KEY"] = base64.b64encode(os.urandom(32)).decode()
    with collector() as told, Receiver() as webhooks:
        stack = TypedStack(folder, **env, **told.environment, PREBUILDS_WEBHOOK_URL=webhooks.url)
        stack.start()
        try:
            yield stack, Kept(told, webhooks, keys)
        finally:
            assert stack.stop() == 0


def apply(stack: DevStack, driver: str) -> None:
    """One template of the driver's, named by it, with a pool of one."""
    template = {
        "name": "desk",
        "provisioner": driver,
        "source": SOURCES[driver],
        "presets": [{"name": "one", "instances": 1, "claim_parameters": ["token"]}],
    }
    organization = {"name": driver, "members": ["alice"], "templates": [template]}
    path = stack.files / f"{driver}.yaml"
    path.write_text(json.dumps({"organizations": [organization]}))
    result = stack.cli("apply", "-f", str(path))
    assert result.code == 0, result


def tell(stack: DevStack, kept: Kept, driver: str, podman: Podman | None = None) -> Found:
    """Claim, stop, start, and delete; search after each half."""
    secret = f"hunter2-{uuid4().hex}"
    workspace = f"alice/{driver}-dev"
    output: list[str] = []
    stack.wait_whole(driver, 120)

    def do(*words: str) -> None:
        done = stack.cli(*words)
        assert done.code == 0, done
        output.extend((done.out, done.err))

    def settled(status: str) -> None:
        def is_so() -> bool:
            shown = stack.ask("workspaces", "show", workspace)
            assert "failed" not in shown["status"], shown
            return bool(shown["status"] == status)

        until(is_so, f"{workspace} to be {status}", 60, stack.log)

    with watched_processes(secret) as seen:
        words = [f"--preset={driver}/desk/one", "--owner=alice", f"--name={driver}-dev", "--claim-param=token=@-"]
        claimed = subprocess.run(
            [BIN / "prebuilds", "claim", *words, "--wait-ready", "--json"],
            env=stack.env,
            input=f"{secret}\n",
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert claimed.returncode == 0, claimed
        output += [claimed.stdout, claimed.stderr]
        do("workspaces", "stop", workspace)
        settled("stopped")
        do("workspaces", "start", workspace)
        settled("running")
    for words in (("workspaces", "show", workspace), ("workspaces", "list"), ("logs", workspace), ("status",)):
        do(*words)
        do(*words, "--json")
    seen |= _in_answers(stack, kept, driver, secret, json.loads(claimed.stdout)["claim_id"])
    spans = kept.collector.spans
    spans_before = len(spans)
    until(lambda: len(spans) > spans_before, "more spans, and so all of before", 30)
    traced = {span.name for span in kept.collector.read()}
    assert {"SELECT decide_claim", "RunActivity:claim", f"{driver} claim"} <= traced, "the claim was traced"
    alive = places(stack, secret, output, lambda: kept.collector.received) | seen | _in_engine(podman, secret)
    do("release", workspace, "--wait")
    deleted = places(stack, secret, output, lambda: kept.collector.received) | _in_engine(podman, secret)
    if driver == "terraform":
        until(lambda: bool(kept.webhooks.raw), "the webhook to be told of what the claim has replaced", 30)
    if has(b"\n".join(kept.webhooks.raw), secret):
        alive.add("webhooks")
    return Found(alive, deleted)


def _in_answers(stack: DevStack, kept: Kept, driver: str, secret: str, claim_id: str) -> set[str]:
    """Return whether the HTTP server reveals the secret, also in a refusal of a claim, or as Temporal's codec."""
    token, address = (stack.state_dir / "token").read_text().strip(), stack.facts["http"]
    request = {"preset": f"{driver}/desk/one", "owner": "alice", "name": f"{driver}-dev"}
    answers = []
    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=30) as http:
        for n, parameters in enumerate(({"token": secret}, {"tokem": secret}, [secret])):
            answer = http.put(f"/v1/claims/{claim_id}-{n}", json=request | {"claim_parameters": parameters})
            assert 400 <= answer.status_code < 500, answer.text
            answers.append(answer.text)
        answers += [http.get(f"/v1/claims/{claim_id}{path}").text for path in ("", "/explain")]
        answers += [http.get(f"/v1/{path}").text for path in ("workspaces", "jobs", "snapshot")]
    found = {"HTTP answers"} if has("\n".join(answers).encode(), secret) else set()
    if kept.encrypts:
        shown = stack._process(
            "temporal",
            *("workflow", "show", "--workflow-id", f"claim-workspace/{claim_id}", "--output", "json"),
            *("--address", stack.facts["temporal_address"]),
            *("--codec-endpoint", f"{address}/codec", "--codec-auth", f"Bearer {token}"),
        )
        assert shown.code == 0, shown
        assert has(shown.out.encode(), "claim_parameters"), "the claim's input is decoded"
        if has(shown.out.encode(), secret):
            found.add("codec answers")
    return found


def _in_engine(podman: Podman | None, secret: str) -> set[str]:
    if podman is None:
        return set()
    found = set()
    for container in podman("ps", "--all", "--quiet").split():
        if has(podman("inspect", container).encode(), secret):
            found.add("container inspect")
        if has(podman("logs", container).encode(), secret):
            found.add("container logs")
    if in_files(podman.folder, secret):
        found.add("container engine's storage")
    return found


def terraform_on_path(folder: Path) -> dict[str, str]:
    """Return an environment that finds the tests' own `terraform`."""
    folder.mkdir(exist_ok=True)
    path = write_terraform(folder / "terraform")
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PREBUILDS_TERRAFORM": str(path)}
