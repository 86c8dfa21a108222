"""`prebuilds doctor` finds nothing wrong on `prebuilds dev`; elsewhere it names what is missing and the remedy."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from prebuilds import doctor
from prebuilds.background.deployment import bind_deployment
from prebuilds.doctor import examine, fairness
from prebuilds.doctor.fairness import WORKFLOW_TYPE, try_fairness
from prebuilds.settings import Settings
from prebuilds.store.engine import create_engine
from prebuilds.store.loop import record_start
from prebuilds.temporal import queues
from prebuilds.temporal.connecting import connect
from prebuilds.temporal.queues import queue_warnings
from tests.e2e.dev_stack import CommandOutput, DevStack, until
from tests.workflow.conftest import binary

PATIENCE_S = 60.0
NAMES = [
    *("settings", "isolation", "disks", "database", "schema_version", "state_key", "temporal", "deployment"),
    *("payload_key", "search_attributes"),
    *(
        "task_queues",
        "clock_skew",
        "loop",
        "history",
        "presets",
        "limits",
        "drills",
        "tokens",
        "notifications",
        "fairness",
    ),
]
QUICK = {"command": ["sleep", "infinity"], "ready": None}
FAIR = ("--dynamic-config-value", "matching.enableFairness=true")


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give checks more time: these tests are about the answers, not about the speed of a busy machine."""
    steps = [replace(step, timeout_s=PATIENCE_S) for step in doctor.STEPS]
    monkeypatch.setattr(doctor, "STEPS", steps)
    monkeypatch.setattr(fairness, "TRY_TIMEOUT_S", PATIENCE_S)
    monkeypatch.setattr(queues, "WARNINGS_TIMEOUT_S", PATIENCE_S)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port on which nobody listens, and that no other process can take."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield int(taken.getsockname()[1])


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port whose listener never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        yield int(silent.getsockname()[1])


def by_name(output: CommandOutput) -> dict[str, dict[str, Any]]:
    """Return the checks of a doctor that has failed, by name."""
    assert (output.code, output.err) == (1, ""), output
    report = output.json
    assert report.keys() == {"ok", "deployment_id", "checks"}
    assert report["ok"] is False
    assert [check["name"] for check in report["checks"]] == NAMES
    for check in report["checks"]:
        assert check["ok"] is (check["remedy"] is None)
    return {check["name"]: check for check in report["checks"]}


def well(checks: dict[str, dict[str, Any]]) -> set[str]:
    """Return the checks that are ok, without fairness, for which a busy machine may be too slow."""
    return {name for name, check in checks.items() if check["ok"]} - {"fairness"}


async def test_doctor_finds_nothing_wrong_on_dev(stack: DevStack) -> None:
    stack.apply("doctor-well", 0, **QUICK)
    report = until_well(partial(stack.cli, "doctor", "--json")).json
    assert report["ok"] is True
    assert [(check["name"], check["ok"], check["remedy"]) for check in report["checks"]] == [
        (name, True, None) for name in NAMES
    ]
    output = until_well(partial(stack.typed, "doctor"))
    assert output.err == ""
    assert [line.split()[:2] for line in output.out.splitlines()[1:]] == [[name, "yes"] for name in NAMES]
    await nothing_left(await connect(stack.facts["temporal_address"]))


def until_well(doctor: Callable[[], CommandOutput]) -> CommandOutput:
    """Repeat the doctor until it finds nothing wrong, since a busy machine may look unfair; return its last output."""
    output: list[CommandOutput] = []

    def is_well() -> bool:
        output.append(doctor())
        return output[-1].code == 0

    until(is_well, "the doctor to find nothing wrong", PATIENCE_S)
    return output[-1]


async def nothing_left(client: Client) -> None:
    """Wait until the trial's workflows are gone, also from the list of ended ones."""
    async with asyncio.timeout(30):
        while (await client.count_workflows(f"WorkflowType = '{WORKFLOW_TYPE}'")).count:
            await asyncio.sleep(0.05)


def test_doctor_reports_a_database_that_is_away(stack: DevStack, closed_port: int) -> None:
    url = f"postgresql://me:secret@127.0.0.1:{closed_port}/prebuilds"
    output = stack.cli("doctor", "--json", PREBUILDS_DATABASE_URL=url)
    checks = by_name(output)
    assert well(checks) == {"settings", "isolation", "disks", "temporal", "search_attributes"}
    assert f"127.0.0.1:{closed_port}" in checks["database"]["detail"]
    assert "secret" not in output.out
    assert "PREBUILDS_DATABASE_URL" in checks["database"]["remedy"]
    assert {checks[name]["remedy"] for name in ("schema_version", "task_queues", "clock_skew", "loop")} == {
        checks["database"]["remedy"]
    }
    text_output = stack.cli("doctor", PREBUILDS_DATABASE_URL=url)
    assert (text_output.code, text_output.out.count(checks["database"]["remedy"])) == (1, 1)


def test_doctor_reports_a_temporal_server_that_is_away(stack: DevStack, closed_port: int) -> None:
    checks = by_name(stack.cli("doctor", "--json", TEMPORAL_ADDRESS=f"127.0.0.1:{closed_port}"))
    assert well(checks) == {
        *("settings", "isolation", "disks", "database", "schema_version", "state_key", "clock_skew", "history"),
        *("presets", "limits", "drills", "tokens", "notifications"),
    }
    assert checks["temporal"]["detail"] == f"cannot reach Temporal at 127.0.0.1:{closed_port} (Connection refused)"
    assert "TEMPORAL_ADDRESS" in checks["temporal"]["remedy"]


def test_doctor_reports_a_namespace_that_does_not_exist(stack: DevStack) -> None:
    checks = by_name(
        stack.cli("doctor", "--json", TEMPORAL_ADDRESS=stack.facts["temporal_address"], TEMPORAL_NAMESPACE="nowhere")
    )
    assert "temporal operator namespace create -n nowhere" in checks["temporal"]["remedy"]


def test_doctor_reports_a_setting_that_cannot_be_read(stack: DevStack) -> None:
    checks = by_name(stack.cli("doctor", "--json", PREBUILDS_RECONCILE_INTERVAL="soon"))
    assert well(checks) == set()
    assert {check["remedy"] for check in checks.values()} == {"correct or unset PREBUILDS_RECONCILE_INTERVAL"}


async def test_doctor_reports_a_database_without_the_schema(stack: DevStack, empty_database_url: str) -> None:
    checks = by_name(stack.cli("doctor", "--json", PREBUILDS_DATABASE_URL=empty_database_url))
    assert {"database", "clock_skew", "temporal"} <= well(checks)
    assert checks["schema_version"]["remedy"] == "run `prebuilds init`"
    assert checks["task_queues"]["remedy"] == checks["loop"]["remedy"] == "run `prebuilds init`"


def test_doctor_reports_a_queue_without_workers(stack: DevStack) -> None:
    queue = f"doctor-{uuid4().hex[:8]}"
    stack.apply("doctor-unserved", 0, queue=queue, **QUICK)
    checks = by_name(stack.cli("doctor", "--json"))
    assert well(checks) == set(NAMES) - {"task_queues", "fairness"}
    assert checks["task_queues"]["detail"] == f"no worker polls {queue}, {queue}-people"
    assert checks["task_queues"]["remedy"] == f"start `prebuilds worker --role provisioner --queue {queue}`"
    stack.ask("templates", "delete", "doctor-unserved/python")
    assert queue not in stack.cli("doctor", "--json").out


async def test_doctor_names_what_a_bare_server_lacks(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = create_engine(database_url)
    await record_start(engine, None)
    async with await WorkflowEnvironment.start_local(dev_server_existing_path=binary("temporal")) as env:
        await bind_deployment(engine, env.client, database_url, actor="ops")
        await engine.dispose()
        monkeypatch.setenv("TEMPORAL_ADDRESS", env.client.service_client.config.target_host)
        report = await examine(Settings(database_url=database_url))
        await nothing_left(env.client)
    remedies = {check.name: check.remedy for check in report.checks if not check.ok}
    assert remedies.keys() == {"search_attributes", "task_queues", "loop", "fairness"}
    assert "prebuilds init" in (remedies["search_attributes"] or "")
    assert remedies["task_queues"] == "start `prebuilds worker --role control` and `prebuilds worker --role claims`"
    assert "prebuilds start" in (remedies["loop"] or "")
    assert "matching.enableFairness" in (remedies["fairness"] or "")


@pytest.mark.parametrize("fair", [True, False])
async def test_doctor_reports_fairness_on_a_queue_of_four_partitions(
    fair: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fair:
        monkeypatch.setattr(fairness, "SETTLE_S", (*fairness.SETTLE_S, 3.0, 6.0))  # late tasks look like unfairness
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=binary("temporal"), dev_server_extra_args=FAIR if fair else ()
    ) as env:
        assert (await try_fairness(env.client)).fair is fair
        await nothing_left(env.client)


async def test_doctor_answers_in_time_when_no_server_does(silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # with the default deadlines
    monkeypatch.setenv("TEMPORAL_ADDRESS", f"127.0.0.1:{silent_port}")
    settings = Settings(database_url=f"postgresql://me@127.0.0.1:{silent_port}/prebuilds")
    report = await asyncio.wait_for(examine(settings), 10)
    assert [check.name for check in report.checks if check.ok] == ["settings", "isolation", "disks"]


async def test_unserved_queues_are_warned_of_and_an_unreachable_server_gives_no_warning(
    stack: DevStack, closed_port: int, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, unserved = "prebuilds-provisioner", f"doctor-{uuid4().hex[:8]}"
    client = await connect(stack.facts["temporal_address"])
    assert await queue_warnings(client, [served, unserved]) == {unserved: f"no_pollers:{unserved}"}
    monkeypatch.undo()
    for port in (closed_port, silent_port):
        away = await connect(f"127.0.0.1:{port}", lazy=True)
        assert await asyncio.wait_for(queue_warnings(away, [served, unserved]), 5) == {}
