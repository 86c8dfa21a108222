"""The pytest plug-in: one test for each promise, in a driver's own project.

    @pytest.fixture
    def conforming_provisioner():
        return FolderProvisioner  # or a Subject, with a source and limits of its own

    def test_it_conforms(conformance_check):
        conformance_check()

A project without a test that uses `conformance_check` only pays for the import of this file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FIXTURE = "conformance_check"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test for each check."""
    if FIXTURE in metafunc.fixturenames:
        from prebuilds.conformance.examine import CHECKS

        metafunc.parametrize(FIXTURE, list(CHECKS), indirect=True)


@pytest.fixture
def conforming_provisioner() -> Any:
    """The driver's class, or a `Subject`. The project overrides this fixture."""
    raise pytest.UsageError("give a fixture conforming_provisioner that returns the driver's class")


@pytest.fixture(scope="module")
def conformance_state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One state folder for all checks of a module, so that they share the driver's caches."""
    return tmp_path_factory.mktemp("conformance")


@pytest.fixture
def conformance_check(
    request: pytest.FixtureRequest, conforming_provisioner: Any, conformance_state_dir: Path
) -> Callable[[], None]:
    """A function that runs one check: it passes, fails with what was seen, or skips with the reason."""
    import asyncio

    from prebuilds.conformance.examine import Verdict, run_check
    from prebuilds.conformance.subject import Subject

    given = conforming_provisioner
    subject = given if isinstance(given, Subject) else Subject(given)
    subject.working_source()

    def check() -> None:
        outcome = asyncio.run(run_check(request.param, subject, conformance_state_dir))
        if outcome.verdict is Verdict.SKIPPED:
            pytest.skip(outcome.reason or outcome.promise)
        if outcome.verdict is Verdict.FAILED:
            pytest.fail(f"{outcome.promise}: {outcome.reason}", pytrace=False)

    return check
