"""The kit finds the faults of a driver and reports none for a correct one."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import psutil
import pytest

from prebuilds.api import InvalidInput
from prebuilds.conformance import victims
from prebuilds.conformance.cuts import Cut
from prebuilds.conformance.examine import CHECKS, Outcome, Verdict, run_check
from prebuilds.conformance.subject import PROMPT_S, Subject
from prebuilds.conformance.trial import Trial
from tests import broken_drivers as broken
from tests import checking_driver as checking
from tests import host_driver as host
from tests import pausing_driver as pausing

PAUSING = ("pause_keeps_it", "paused_is_claimed", "older_pauses_are_refused", "killed_while_pausing")
CHECKING = ("check_tells_how_it_ended", "check_ends_in_time")
NOT_OF_THE_EXAMPLE = ("failed_start_leaves_nothing", "suspended_comes_back", *PAUSING, *CHECKING)
"""Checks of optional methods that the example lacks, and one of a failure that it never has."""


def outcome_of(check: str, driver: Any, state_dir: Path) -> Outcome:
    # Only slow drivers get the short timeout: a good driver may exceed it on a busy machine.
    hurried = {broken.TakesItsTime: 0.3, checking.WaitsForever: 0.5, checking.LeavesItRunning: 1.0}
    prompt_s = hurried.get(driver, PROMPT_S)
    return asyncio.run(run_check(check, Subject(driver, prompt_s=prompt_s, cuts=3), state_dir))


@pytest.mark.parametrize(
    ("check", "driver", "reason"),
    [
        ("wrong_source_is_named", broken.AcceptsTypingErrors, "accepts the unknown field"),
        ("unknown_is_no_error", broken.IsReadyAlways, "nobody made is ready"),
        ("unknown_is_no_error", broken.StopsOnlyWhatIsThere, "ProvisionFailed: there is nothing to stop"),
        ("apply_makes_it_ready", broken.IsReadyNever, "probe answers False"),
        ("apply_makes_it_ready", broken.InventsOne, "which nobody made"),
        ("twice_makes_one", broken.MakesAnother, "2 things of the workspace"),
        ("at_once_makes_one", broken.LooksBeforeItWaits, "3 things of the workspace"),
        ("lost_replies_do_no_harm", broken.KnowsByTheReplyAlone, "2 things of the workspace"),
        ("plan_is_quiet", broken.PlansForNothing, "still replaces"),
        ("stop_keeps_it", broken.StopRemoves, "after stop, the inventory lacks"),
        ("inventory_is_true", broken.HidesTheStopped, "lacks the workspace"),
        ("inventory_is_true", broken.SaysAllRun, "says running: True"),
        ("inventory_is_true", broken.NamesTheFirstBuild, "gives build 1 instead of 2"),
        ("inventory_is_true", broken.DestroyKeeps, "still has a workspace"),
        ("inventory_is_true", broken.DestroysAll, "after destroy of another one, the inventory lacks"),
        ("older_builds_are_refused", broken.ForgetsBuilds, "after build 3 was here"),
        ("older_builds_are_refused", broken.ForgetsBuildsOfTheGone, "after a later destroy"),
        ("failed_start_leaves_nothing", broken.FailsAndKeeps, "after an apply that failed, the inventory still has"),
        ("another_claim_is_refused", broken.ForgetsClaims, "not refused with OwnedByAnother after alice had claimed"),
        ("another_claim_is_refused", broken.TakesTheNewestClaim, "of build 3 was not refused with OwnedByAnother"),
        ("marks_outlive_the_database", broken.ForgetsClaims, "though the workspace carries a claim's mark"),
        ("inventory_tells_the_mark", broken.HidesTheOwner, "after claim, the inventory has the mark"),
        ("another_deployment_is_apart", broken.KnowsNoDeployment, "another deployment's inventory has"),
        ("suspended_comes_back", host.RestoresNothing, r"restore starts \[\] instead of what ran"),
        ("suspended_comes_back", host.RestoresTheStopped, r"'idle', 'stopped while suspended'\] instead of"),
        ("suspended_comes_back", host.SuspendsNothing, "after suspend, the inventory says running: True"),
        ("suspended_comes_back", host.SuspendsOthers, "another deployment's driver ends this one's"),
        ("pause_keeps_it", pausing.PausesByRemoving, "after pause, the inventory lacks"),
        ("pause_keeps_it", pausing.PausesNothing, "after pause, the inventory says running: True"),
        ("pause_keeps_it", pausing.ResumesElsewhere, "after resume twice, the address went"),
        ("paused_is_claimed", pausing.ClaimsOnlyWhatRuns, "after claim and apply of paused ones, the inventory says"),
        ("older_pauses_are_refused", pausing.PausesWhoever, "resume of build 1 was not refused with StaleBuild"),
        ("killed_while_pausing", pausing.StaysBusyPausing, "another worker is at it"),
        ("check_tells_how_it_ended", checking.SucceedsAlways, "exits with 3 ended with 0"),
        ("check_tells_how_it_ended", checking.ForgetsVariables, "that prints its variable has the output"),
        ("check_tells_how_it_ended", checking.ChecksWhatIsStopped, "in a workspace that is stopped ended with 0"),
        ("check_ends_in_time", checking.WaitsForever, r"with a limit of 1 s it took \d s"),
        ("check_ends_in_time", checking.LeavesItRunning, "after destroy, a check's command still runs"),
        ("cancel_is_prompt", broken.TakesItsTime, r"still runs 0\.3 s later"),
        ("cancel_is_prompt", broken.FailsWhenCancelled, "instead of CancelledError"),
        ("cancelled_half_way", broken.StaysBusy, "another worker is at it"),
        ("killed_half_way", broken.StaysBusy, "another worker is at it"),
        ("killed_while_claiming", broken.StaysBusy, "another worker is at it"),
        ("killed_while_destroying", broken.StaysBusy, "another worker is at it"),
    ],
)
def test_a_broken_promise_is_found(check: str, driver: Any, reason: str, tmp_path: Path) -> None:
    outcome = outcome_of(check, driver, tmp_path)
    assert outcome.verdict is Verdict.FAILED
    assert outcome.reason is not None
    assert re.search(reason, outcome.reason), outcome.reason


@pytest.mark.parametrize("check", CHECKS)
def test_a_driver_that_keeps_its_promises_passes(check: str, tmp_path: Path) -> None:
    outcome = outcome_of(check, broken.FolderProvisioner, tmp_path)
    expected = Verdict.SKIPPED if check in NOT_OF_THE_EXAMPLE else Verdict.PASSED
    assert (outcome.verdict, outcome.check) == (expected, check), outcome.reason


@pytest.mark.parametrize(
    ("check", "driver"),
    [*((one, pausing.PausingFolder) for one in PAUSING), *((one, checking.CheckingFolder) for one in CHECKING)],
)
def test_a_driver_with_optional_methods_passes(check: str, driver: Any, tmp_path: Path) -> None:
    outcome = outcome_of(check, driver, tmp_path)
    assert outcome.verdict is Verdict.PASSED, outcome.reason


def test_a_host_driver_that_suspends_and_restores_passes(tmp_path: Path) -> None:
    outcome = outcome_of("suspended_comes_back", host.HostFolder, tmp_path)
    assert outcome.verdict is Verdict.PASSED, outcome.reason


def test_a_driver_that_cannot_be_imported_elsewhere_skips_the_kill(tmp_path: Path) -> None:
    class Local(broken.FolderProvisioner): ...

    outcome = outcome_of("killed_half_way", Local, tmp_path)
    assert outcome.verdict is Verdict.SKIPPED
    assert "cannot be imported" in (outcome.reason or "")


async def test_a_call_that_hangs_is_ended_with_its_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(victims, "END_S", 0.1)
    trial = Trial(Subject(broken.Hangs), tmp_path)
    workers = victims.Victims(trial)
    await workers.start()
    call = asyncio.create_task(workers.killed("apply", trial.build(), Cut(step=1000)))
    try:
        async with asyncio.timeout(20):
            while not (tmp_path / "hangs").exists():
                await asyncio.sleep(0.01)
        hanging = psutil.Process(int((tmp_path / "hangs").read_text()))
    finally:
        call.cancel()
        await workers.end()
    try:
        async with asyncio.timeout(5):
            while hanging.status() != psutil.STATUS_ZOMBIE:  # until its new parent has reaped it
                await asyncio.sleep(0.01)
    except psutil.NoSuchProcess:
        pass
    except TimeoutError:
        hanging.kill()
        raise


def test_without_a_source_there_is_nothing_to_check(tmp_path: Path) -> None:
    class Sourceless(broken.FolderProvisioner):
        conformance_source = None

    with pytest.raises(InvalidInput, match="conformance_source"):
        Subject(Sourceless).working_source()
