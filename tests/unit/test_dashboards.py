"""The dashboards are whole, and ask for metrics that are exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.queries import faults, known_metrics

FILES = sorted((Path(__file__).parents[2] / "deploy/grafana").glob("*.json"))
DASHBOARDS = {file.stem: json.loads(file.read_text()) for file in FILES}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24


def panels(name: str) -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARDS[name]["panels"] if panel["type"] != "row"]


def as_promql(query: str) -> str:
    """Return a query of Grafana with its variables of time replaced; the others stand within label values."""
    return query.replace("$__rate_interval", "5m").replace("$__range", "1h")


def variables(name: str) -> dict[str, dict[str, Any]]:
    return {variable["name"]: variable for variable in DASHBOARDS[name]["templating"]["list"]}


def test_the_operator_and_a_preset_each_have_a_dashboard() -> None:
    assert set(DASHBOARDS) == {"deployment", "preset"}
    assert len({dashboard["uid"] for dashboard in DASHBOARDS.values()}) == 2


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_query_reads_metrics_and_labels_that_are_exported(name: str) -> None:
    found = {
        (panel["title"], fault)
        for panel in panels(name)
        for target in panel["targets"]
        for fault in faults(as_promql(target["expr"]), known_metrics())
    }
    assert found == set()


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_variable_offers_values_of_a_label_that_is_exported(name: str) -> None:
    for variable in variables(name).values():
        if variable["type"] == "query":
            selector, _, label = (
                variable["query"]["query"].removeprefix("label_values(").removesuffix(")").rpartition(", ")
            )
            assert faults(f"count by ({label}) ({selector})", known_metrics()) == []


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_variable_that_is_read_exists(name: str) -> None:
    text = json.dumps(DASHBOARDS[name])
    for variable in ("job", "organization", "template", "preset"):
        assert (f"${variable}" in text) == (variable in variables(name))


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_panel_has_a_unit_legends_and_the_readers_data_source(name: str) -> None:
    assert variables(name)["datasource"]["type"] == "datasource"
    for panel in panels(name):
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"] == SOURCE
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        for target in panel["targets"]:
            assert target["legendFormat"]
            assert target["datasource"] == SOURCE


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_lie_side_by_side(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    ids = set()
    for panel in DASHBOARDS[name]["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= COLUMNS
        assert not cells & taken
        taken |= cells
        ids.add(panel["id"])
    assert len(ids) == len(DASHBOARDS[name]["panels"])
