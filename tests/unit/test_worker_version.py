"""A worker has a version only if the environment names it completely."""

from __future__ import annotations

import pytest
from temporalio.common import VersioningBehavior

from prebuilds.api import InvalidInput
from prebuilds.temporal.workers import BUILD_ID, DEPLOYMENT_NAME, read_worker_version


def test_without_variables_a_worker_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DEPLOYMENT_NAME, raising=False)
    monkeypatch.setenv(BUILD_ID, "")
    assert read_worker_version() is None


@pytest.mark.parametrize(("given", "missing"), [(DEPLOYMENT_NAME, BUILD_ID), (BUILD_ID, DEPLOYMENT_NAME)])
def test_half_a_version_is_refused_by_the_name_of_the_other_half(
    monkeypatch: pytest.MonkeyPatch, given: str, missing: str
) -> None:
    monkeypatch.setenv(given, "1")
    monkeypatch.delenv(missing, raising=False)
    with pytest.raises(InvalidInput) as refused:
        read_worker_version()
    assert missing in refused.value.details


def test_runs_of_a_worker_with_a_version_move_to_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEPLOYMENT_NAME, "dev/prebuilds-control")
    monkeypatch.setenv(BUILD_ID, "1-abcd")
    version = read_worker_version()
    assert version is not None
    assert (version.version.deployment_name, version.version.build_id) == ("dev/prebuilds-control", "1-abcd")
    assert version.use_worker_versioning
    assert version.default_versioning_behavior is VersioningBehavior.AUTO_UPGRADE
