"""The options of `worker.py`: options that it cannot serve are refused before anything starts."""

from __future__ import annotations

import pytest

from prebuilds.settings.worker_options import ROLES, WorkerOptions
from worker import parse_options


def test_a_worker_has_all_roles_and_the_usual_queue_by_default() -> None:
    assert parse_options([]) == WorkerOptions(ROLES, ("prebuilds-provisioner",))
    assert parse_options(["--role", "claims"]).roles == ("claims",)
    assert parse_options(["--role", "provisioner", "--queue", "gpu", "--queue", "a/b"]).queues == ("gpu", "a/b")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--role", "claim"], "invalid choice"),
        (["--role", "control", "--queue", "gpu"], "--queue is for --role provisioner or all"),
        (["--queue", "gpu-people"], "--queue gpu-people: must not end in -people"),
        (["--queue", "gpu", "--queue", "prebuilds-claims"], "prebuilds-claims is not a provisioner queue"),
        (["--queue", "g p u"], "must be 1 to 200 letters"),
        (["--queue", "gpu@host-a"], "must be 1 to 200 letters"),
    ],
)
def test_options_that_cannot_be_served_are_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_options(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
