"""The instructions of docs/kubernetes.md work, and Helm's install notes are true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.chart.helm import CHART, ROOT, of_kind, rendered, run_helm

PAGE = (ROOT / "docs/kubernetes.md").read_text()
[INSTALLED] = re.findall(r"<<'END'\n(.*?)END\n", PAGE, re.DOTALL)
FURTHER = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("number", range(len(FURTHER) + 1))
def test_values_of_the_page_can_be_used(number: int, tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(INSTALLED)
    (tmp_path / "further.yaml").write_text("" if number == 0 else FURTHER[number - 1])
    files = ("-f", str(tmp_path / "values.yaml"), "-f", str(tmp_path / "further.yaml"))
    done = run_helm("template", "prebuilds", str(CHART), *files)
    assert done.returncode == 0, done.stderr
    for name in set(re.findall(r"(?:deploy|cronjob|job)/(prebuilds-[a-z]+)", PAGE)):
        assert f"\n  name: {name}\n" in done.stdout, name


def test_install_notes_name_only_objects_that_exist() -> None:
    words = ("main", str(CHART), "--namespace", "dev", "--dry-run=client", "-f", str(CHART / "ci/minimal.yaml"))
    done = run_helm("install", *words)
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    objects = rendered("minimal.yaml")
    kinds = {"deploy": "Deployment", "svc": "Service", "cronjob": "CronJob"}
    named = re.findall(r"\b(deploy|svc|cronjob)/([a-z-]+)", notes)
    assert len(named) == 4
    for kind, name in named:
        assert name in of_kind(objects, kinds[kind])
    assert "WARNING: stateKeySecret is not set" in notes
