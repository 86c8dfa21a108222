"""Template files of any kind: each is taken, or refused with the place of each fault, and then nothing is written."""

from __future__ import annotations

import copy
import json
from typing import Any

import yaml
from hypothesis import strategies as st

from prebuilds.api import InvalidInput, PrebuildsError
from prebuilds.templates import apply, parse_template_file
from tests.inputs.values import Trial, check_refusal, dump, json_values, scalars, texts

VALID: dict[str, Any] = {
    "organizations": [
        {
            "name": "acme",
            "members": ["alice", "bob@example.com"],
            "prebuilds": True,
            "members_exact": False,
            "templates": [
                {
                    "name": "python",
                    "provisioner": "process",
                    "source": {"command": ["sleep", "60"], "env": {"A": "{name}"}},
                    "default_ttl": "8h",
                    "build_timeout": "10m",
                    "presets": [
                        {
                            "name": "small",
                            "parameters": {"size": 1, "disk": "10g"},
                            "instances": 2,
                            "expire_after": "1d",
                            "claim_parameters": ["key"],
                            "timezone": "Europe/Berlin",
                            "schedule": [{"cron": "* 9-17 * * 1-5", "instances": 5}],
                            "ready_by": True,
                            "target": {"hit_rate": 0.9, "max": 4},
                            "cost_per_hour": 0.5,
                            "max_concurrent": 2,
                        }
                    ],
                },
                {"name": "image", "provisioner": "container", "source": {"image": "busybox"}},
            ],
        }
    ]
}
KEYS = (
    *("name", "members", "templates", "presets", "source", "provisioner", "schedule", "cron", "ready_by", "<<", "x"),
    *("queue", "ready_timeout", "hit_rate", "wait_p95", "command", "image", "module", "parameters", "default"),
)
# Syntax that only YAML has, as raw text in the place of a value.
RAW = (
    *("&a [*a]", "&a {x: *a}", "{<<: *b}", "!!python/object:os.system x", "!!binary aGk=", "!!set {a, b}", "!!bool x"),
    *("!!timestamp x", "HEX", "NINES", "1_0", "0o17", "0b1", "12:30:45", "2026-02-30", ".nan", "-.inf"),
    *("? [a, b]\n: c", "{[a]: b}", "{? : }", "- - -", "|\n  a\n b", "'", '"\\ud800"', '"\\0"', '"\\x1b[2J"', "*nobody"),
    *(
        "[" * 400,
        "[" * 40 + "]" * 40,
        "{a: " * 60,
        "\t",
        "%YAML 3.0\n---",
        "---\n---",
        "...",
        "\ufeff",
        "\u2028",
        "\x85",
    ),
)
LONG = {
    "HEX": "0x" + "f" * 5000,
    "NINES": "9" * 5000,
    "OPEN_MAP": "{a: " * 300,
    "OPEN": "[" * 2000,
    "DEEP": "[" * 200 + "]" * 200,
}
"""What the words of `RAW` stand for, so that examples can be read."""


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in _places(item, (*path, key)))]


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """The valid file with a few values moved, removed or changed, also to syntax that only YAML has."""
    file, raw = copy.deepcopy(VALID), {}
    for n in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from([place for place in _places(file) if place] or [("organizations",)]))
        parent: Any = file if file else {"organizations": None}
        for part in place[:-1]:
            parent = parent[part]
        match draw(st.sampled_from(("value", "raw", "drop", "key", "double", "grow"))):
            case "value":
                parent[place[-1]] = draw(json_values | scalars)
            case "raw":
                parent[place[-1]] = f"RAW{n}RAW"
                raw[f"RAW{n}RAW"] = draw(st.sampled_from(RAW) | texts)
            case "drop":
                del parent[place[-1]]
            case "key" if isinstance(parent, dict):
                parent[draw(st.sampled_from(KEYS) | texts | scalars)] = parent.pop(place[-1])
            case "double" if isinstance(parent, list):
                parent.append(copy.deepcopy(parent[place[-1]]))
            case _:
                parent[place[-1]] = [copy.deepcopy(parent[place[-1]])] * draw(st.sampled_from((0, 2, 60)))
    text = draw(st.sampled_from((_as_yaml, json.dumps)))(file)
    for mark, value in raw.items():
        text = text.replace(f'"{mark}"', value).replace(mark, value)
    return text


def _as_yaml(value: Any) -> str:
    try:
        return yaml.dump(value, allow_unicode=True)
    except (yaml.YAMLError, UnicodeError):
        return json.dumps(value)


files = st.one_of(
    mutated(),
    mutated(),
    st.text(max_size=60) | st.sampled_from(RAW),
    st.builds("{}{}".format, st.sampled_from(RAW), mutated()),
)


async def check_file(trial: Trial, text: str) -> str:
    """Apply a file and return the outcome."""
    for word, meant in LONG.items():
        text = text.replace(word, meant)
    try:
        file = parse_template_file(text, "file.yaml")
    except InvalidInput as refused:
        check_refusal(refused)
        return "refused"
    before = await dump(trial.engine)
    try:
        await apply(trial.engine, file, actor="ops")
    except PrebuildsError as refused:
        check_refusal(refused)
        assert await dump(trial.engine) == before, "half of it is written"
        return "refused by the store"
    planned = await apply(trial.engine, file, actor="ops", dry_run=True)
    assert not planned.changed, "the same file again changes something"
    return "applied"
