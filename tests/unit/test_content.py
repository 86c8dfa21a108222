"""Ids follow the content: a version's whole content, and for a preset the part that its provisioner calls see."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from prebuilds.planning.content import VersionContent, content_changes

TEMPLATE = UUID(int=1)
NAMES = st.sampled_from(["a", "b", "small"])
VALUES = st.sampled_from(["", "1", "2", "a"])
SOURCES: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    NAMES, st.recursive(VALUES | st.integers(0, 2) | st.none(), lambda inner: st.lists(inner, max_size=2)), max_size=2
)
CONTENTS = st.builds(
    VersionContent,
    provisioner=st.sampled_from(["process", "container"]),
    queue=st.sampled_from(["default", "gpu"]),
    source=SOURCES,
    parameters=st.dictionaries(NAMES, st.dictionaries(NAMES, VALUES, max_size=2), max_size=3),
)


def reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reordered(item) for key, item in reversed(value.items())}
    return value


@given(one=CONTENTS, other=CONTENTS)
def test_ids_are_equal_exactly_when_the_content_is(one: VersionContent, other: VersionContent) -> None:
    assert (one.ids(TEMPLATE).version == other.ids(TEMPLATE).version) == (one == other)
    shared = (one.provisioner, one.queue, one.source) == (other.provisioner, other.queue, other.source)
    for name, preset in one.ids(TEMPLATE).presets.items():
        for other_name, other_preset in other.ids(TEMPLATE).presets.items():
            same = shared and name == other_name and one.parameters[name] == other.parameters[other_name]
            assert (preset == other_preset) == same


@given(content=CONTENTS, added=st.dictionaries(st.sampled_from(["x", "y"]), st.just({"k": "v"}), min_size=1))
def test_other_presets_change_the_version_and_no_id_of_a_preset(
    content: VersionContent, added: dict[str, dict[str, str]]
) -> None:
    more = replace(content, parameters={**added, **content.parameters})
    assert more.ids(TEMPLATE).version != content.ids(TEMPLATE).version
    assert {name: more.ids(TEMPLATE).presets[name] for name in content.parameters} == content.ids(TEMPLATE).presets
    assert content_changes(content, more) == [], "it is created, not changed"


@given(content=CONTENTS)
def test_ids_ignore_the_order_of_keys_and_differ_by_template(content: VersionContent) -> None:
    other = replace(content, source=reordered(content.source), parameters=reordered(content.parameters))
    assert other.ids(TEMPLATE) == content.ids(TEMPLATE)
    elsewhere = content.ids(uuid4())
    ids = [elsewhere.version, *elsewhere.presets.values(), content.ids(TEMPLATE).version]
    assert len({*ids, *content.ids(TEMPLATE).presets.values()}) == len(ids) + len(content.parameters)
