"""Hostile, large and multiple template files: parsing is bounded and linear, and each fault has its place."""

from __future__ import annotations

import pytest

from prebuilds.api import InvalidInput
from prebuilds.templates import join_files, parse_template_file

HEAD = """\
organizations:
- name: {organization}
  members: [alice, {member}]
  templates:
  - name: {template}
    provisioner: process
    source: {{command: [sleep]}}
    presets:
    - {{name: small, instances: 1}}
"""


def file(organization: str = "acme", member: str = "bob", template: str = "python") -> str:
    return HEAD.format(organization=organization, member=member, template=template)


@pytest.mark.parametrize("merge", ["<<: [{}]", "x: [{}]"], ids=["merge_keys", "aliases"])
def test_aliases_that_expand_to_too_many_values_are_refused(merge: str) -> None:
    lines = ["a0: &a0 {x: 1, y: 2}"]
    for n in range(1, 12):
        lines.append(f"a{n}: &a{n}\n  {merge.format(', '.join([f'*a{n - 1}'] * 9))}")
    text = "\n".join(lines)
    assert len(text) < 700
    with pytest.raises(InvalidInput, match="stand for more than 500000 values, at line"):
        parse_template_file(text)


def test_thousands_of_faults_are_found_in_linear_time_and_listed_one_a_line() -> None:
    presets = "".join(f"    - {{name: p{n}, instances: x}}\n" for n in range(2000))
    with pytest.raises(InvalidInput) as refused:
        parse_template_file(file() + presets, "big.yaml")
    first, *lines, last = str(refused.value).splitlines()
    path = "organizations[acme].templates[python].presets[p0].instances"
    assert first == "the template file is not valid:"
    assert lines[0] == f"big.yaml:10: {path}: must be a whole number"
    assert (len(lines), last, len(refused.value.details)) == (50, "and 1950 more", 2000)


def test_files_are_put_together() -> None:
    both = [("a.yaml", file()), ("b.yaml", file(member="BOB", template="go")), ("c.yaml", file("other"))]
    joined = join_files([(name, parse_template_file(text)) for name, text in both])
    acme, other = joined.organizations
    assert [template.name for template in acme.templates] == ["python", "go"]
    assert (acme.members, other.name) == (["alice", "bob"], "other")


def test_files_that_contradict_each_other_are_refused() -> None:
    on, off = (file().replace("  members:", f"  prebuilds: {value}\n  members:") for value in ("true", "false"))
    with pytest.raises(InvalidInput) as refused:
        join_files([("a.yaml", parse_template_file(on)), ("b.yaml", parse_template_file(off))])
    assert refused.value.details == {
        "b.yaml: organizations[acme].templates[python]": "is in a.yaml, too; keep one",
        "b.yaml: organizations[acme].prebuilds": "is another in a.yaml; keep one",
    }
