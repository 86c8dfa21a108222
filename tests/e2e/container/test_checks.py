"""A drill's check in a container: its output and its time are bounded, and it ends when its command does."""

from __future__ import annotations

import time

from prebuilds.provisioners.container.driver import ContainerProvisioner
from prebuilds.provisioners.optional import CheckEnded
from tests.e2e.container.builds import SLEEP, log
from tests.e2e.provisions import wanted


async def test_a_check_has_the_end_of_its_output_and_waits_for_no_child(driver: ContainerProvisioner) -> None:
    build = wanted(SLEEP)
    await driver.apply(build, log)

    async def check(script: str, timeout_s: float = 60.0) -> CheckEnded:
        return await driver.run_check(build.workspace_id, ["sh", "-c", script], {"NAME": "x"}, timeout_s)

    assert await check("echo $NAME; exit 3") == CheckEnded(3, "x\n")
    long_output = await check("i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i + 1)); done; exit 4")
    assert (long_output.code, long_output.output.splitlines()[-1]) == (4, "19999")
    begun = time.monotonic()
    assert await check("sleep 900 & echo begun; exit 5", 30.0) == CheckEnded(5, "begun\n")
    assert time.monotonic() - begun < 20, "its child holds its output, and is not waited for"
    assert await check("echo begun; sleep 900", 1.0) == CheckEnded(None, "begun\n")
