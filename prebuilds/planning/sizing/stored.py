"""Rules as JSON values, as they are kept with a pool's size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from prebuilds.planning.sizing.rules import ByHour, Fixed, Larger, Mixed, PeakHold, Rate, Refilled, Rule

KINDS: dict[str, type[Any]] = {
    "fixed": Fixed,
    "mixed": Mixed,
    "rate": Rate,
    "peak_hold": PeakHold,
    "by_hour": ByHour,
    "larger": Larger,
    "refilled": Refilled,
}


def rule_to_json(rule: Rule) -> dict[str, Any]:
    """Return a rule's kind and settings."""
    kind = next(name for name, known in KINDS.items() if isinstance(rule, known))
    values = {field.name: getattr(rule, field.name) for field in fields(KINDS[kind])}
    if isinstance(rule, Larger):
        values = {name: rule_to_json(part) for name, part in values.items()}
    if isinstance(rule, Refilled):
        values["rule"] = rule_to_json(rule.rule)
    return {"kind": kind} | values


def rule_of_json(value: Mapping[str, Any]) -> Rule:
    """Return the rule that `rule_to_json` has described.

    Raises:
        KeyError, TypeError: Another release has described it, and it is not known here.
    """
    settings = {
        name: rule_of_json(setting) if isinstance(setting, Mapping) else setting
        for name, setting in value.items()
        if name != "kind"
    }
    rule: Rule = KINDS[value["kind"]](**settings)
    return rule
