"""Checks a PromQL expression against metrics that exist: their names, and the labels that it reads of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml

from tests.unit.exported import exported

RULES = Path(__file__).parents[2] / "deploy/prometheus/prebuilds.rules.yml"
SCRAPED = {"job", "instance"}
"""The labels that Prometheus adds to whatever it scrapes."""
OF_TEMPORAL = {
    "temporal_activity_schedule_to_start_latency_seconds_bucket": {"namespace", "service_name", "task_queue", "le"}
}
"""The SDK's metrics that dashboards read. A test with a real worker compares the names."""


@cache
def rules() -> list[dict[str, Any]]:
    """Return all recording and alert rules, as the file has them."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


@cache
def known_metrics() -> dict[str, frozenset[str]]:
    """Return the labels of each metric that our processes export or our rules record, with those of a scrape."""
    known: dict[str, set[str]] = {
        "up": set(SCRAPED),
        "ALERTS": {"alertname", "alertstate", "severity", *SCRAPED},
        **{name: labels | SCRAPED for name, labels in OF_TEMPORAL.items()},
    }
    for line in exported()[0].splitlines():
        found = re.match(r"(\w+)(?:\{(.*)\})? ", line)
        if found and found[1].startswith("prebuilds_"):
            known.setdefault(found[1], set(SCRAPED)).update(re.findall(r'(\w+)="', found[2] or ""))
    for rule in rules():
        if "record" in rule:
            known[rule["record"]] = {"job", *result_labels(rule["expr"])}
    return {name: frozenset(labels) for name, labels in known.items()}


def result_labels(expression: str) -> set[str]:
    """Return the labels that the aggregations of an expression keep."""
    kept: set[str] = set()

    def visit(node: promql.Expr) -> None:
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            kept.update(node.modifier.labels)
        if isinstance(node, promql.VectorSelector) and ":" in str(node.name):
            kept.update(known_labels_of_record(str(node.name)))

    promql.walk(promql.parse(expression), visit)
    return kept - {"le"}


def known_labels_of_record(name: str) -> set[str]:
    """Return the labels of a series that a rule records."""
    (expression,) = (rule["expr"] for rule in rules() if rule.get("record") == name)
    return result_labels(expression)


def faults(expression: str, known: Mapping[str, Set[str]]) -> list[str]:
    """Return what is wrong with an expression; empty where nothing is.

    Args:
        known: Metric -> its labels.
    Raises:
        ValueError: It is no PromQL.
    """
    found: list[str] = []
    labels: set[str] = set()
    wanted: set[str] = set()

    def visit(node: promql.Expr) -> None:
        if isinstance(node, promql.VectorSelector):
            name = str(node.name)
            if name not in known:
                found.append(f"no metric is called {name}")
                return
            labels.update(known[name])
            found.extend(
                f"{name} has no label {matcher.name}"
                for matcher in node.matchers.matchers
                if matcher.name not in known[name]
            )
        elif isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            wanted.update(node.modifier.labels)
        elif isinstance(node, promql.BinaryExpr) and node.modifier is not None and node.modifier.matching is not None:
            wanted.update(node.modifier.matching.labels)

    promql.walk(promql.parse(expression), visit)
    return found + [f"no metric here has the label {label}" for label in sorted(wanted - labels)]
