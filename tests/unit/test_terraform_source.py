"""A terraform template's source: the refusals by field, and the inputs that reach the module."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from prebuilds.provisioners.base import InvalidSource, Provision
from prebuilds.provisioners.kit.trees import KeptFile, pack_tree
from prebuilds.provisioners.terraform.driver import TerraformProvisioner
from prebuilds.provisioners.terraform.module import Module, RunStage, inputs_of, load_module, read_module
from prebuilds.provisioners.terraform.source import parse_source
from tests.identities import DEPLOYMENT, WHO

MAIN = 'variable "size" {}\noutput "address" { value = "x" }\n'
FILES = {"main.tf": MAIN}


def module_of(files: dict[str, bytes]) -> Module:
    return Module({name: KeptFile(data) for name, data in files.items()})


@pytest.mark.parametrize(
    ("source", "field"),
    [
        ({}, "source"),
        ({"files": FILES, "directory": "/srv/module"}, "source"),
        ({"directory": "not/here"}, "source.directory"),
        ({"files": {}}, "source.files"),
        ({"files": {"sub/main.tf": ""}}, "source.files.sub/main.tf"),
        ({"files": {"main.py": ""}}, "source.files.main.py"),
        ({"files": FILES, "colour": "red"}, "source.colour"),
        ({"files": FILES, "variables": {"size": "{port}"}}, "source.variables.size"),
        ({"files": FILES, "variables": {"size": [{"deep": "{nope}"}]}}, "source.variables.size"),
        ({"files": FILES, "variables": {"prebuilds_owner": "me"}}, "source.variables.prebuilds_owner"),
        ({"files": FILES, "variables": {"sise": 1}}, "source.variables.sise"),
        ({"files": FILES, "binary": "bin/terraform"}, "source.binary"),
        ({"files": FILES, "env": ["AWS_REGION=x"]}, "source.env.0"),
        ({"files": FILES, "env": ["PREBUILDS_DATABASE_URL"]}, "source.env.0"),
        ({"files": FILES, "env": ["PGPASSWORD"]}, "source.env.0"),
        ({"files": FILES, "parallelism": 0}, "source.parallelism"),
        ({"files": FILES, "address": "url"}, "source.address"),
        ({"files": FILES, "outputs": ["url"]}, "source.outputs"),
        ({"files": {"main.tf": 'terraform {\n  backend "s3" {}\n}\n'}}, "source.files"),
        ({"files": {"main.tf": "terraform {\n  cloud {\n  }\n}\n"}}, "source.files"),
        ({"files": {"main.tf.json": '{"terraform": [{"backend": {"s3": {}}}]}'}}, "source.files"),
        ({"files": {"main.tofu": "terraform {\n  cloud {}\n}\n"}}, "source.files"),
        ({"files": {"main.tofu.json": '{"terraform": {"cloud": {}}}'}}, "source.files"),
        ({"directory": "/nowhere/at/all"}, "source.directory"),
        ({"files": {"main.tf": 'module "x" {\n  source = "./x"\n}\n'}}, "source.files"),
    ],
)
def test_a_wrong_source_is_refused_by_its_field(source: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSource) as refused:
        read_module(parse_source(source))
    assert list(refused.value.details) == [field]


def test_declared_variables_and_outputs_are_found() -> None:
    module = module_of(
        {
            "main.tf": b'# variable "no" {}\nvariable "a" {}\n  variable b {\n}\nvariable "c"\n{\n}\noutput "o" {}\n',
            "more.tf.json": b'{"variable": {"d": {}}, "output": [{"p": {}}]}',
            "broken.tf.json": b"{",
            "modules/inner/main.tf": b'variable "inner" {}',
            "other.tofu": b'variable "g" {}',
            "other.tofu.json": b'{"output": {"q": {}}}',
            "marked.tf": b'\xef\xbb\xbfvariable "e" {}\n',
            "marked.tf.json": b'\xef\xbb\xbf{"variable": {"f": {}}}',
        }
    )
    assert module.variables == {"a", "b", "c", "d", "e", "f", "g"}
    assert module.outputs == {"o", "p", "q"}


def test_a_directory_is_read_without_what_runs_there_have_left(tmp_path: Path) -> None:
    (tmp_path / "main.tf").write_text(MAIN)
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "inner.tf").write_text("")
    (tmp_path / ".terraform").mkdir()
    (tmp_path / ".terraform" / "provider").write_text("large")
    left = ["terraform.tfstate", "errored.tfstate", "terraform.tfstate.1699.backup", ".terraform.tfstate.lock.info"]
    for name in [*left, "tfplan", "crash.log", "crash.1.log", ".DS_Store", ".main.tf.swp", "modules/inner.tfstate"]:
        (tmp_path / name).write_text("{}")
    source = {"directory": str(tmp_path)}
    module = read_module(parse_source(source))
    assert set(module.tree) == {"main.tf", "modules/inner.tf"}
    (tmp_path / "modules" / "inner.tf").write_text("# changed")
    assert read_module(parse_source(source)).digest != module.digest


def test_only_declared_inputs_reach_the_module_and_ours_win() -> None:
    names = ("size", "token", "prebuilds_owner", "prebuilds_stage", "prebuilds_prebuild_count", "prebuilds")
    text = "".join(f'variable "{name}" {{}}\n' for name in names)
    source = parse_source(
        {"files": {"main.tf": text}, "variables": {"size": {"cpu": 2, "name": "{param.size}-{name}"}}}
    )
    wanted = Provision(
        **WHO,
        workspace_id=UUID(int=7),
        build_number=1,
        name="prebuild-1",
        owner="prebuilds",
        organization="acme",
        template="vm",
        preset="small",
        source={},
        parameters={"size": "{owner}"},
        claim_parameters={"token": "t", "other": "x", "prebuilds_owner": "mallory"},
    )
    module = load_module(source)
    values = inputs_of(source, module, wanted, RunStage.CREATE)
    assert values["prebuilds"]["workspace_id"] == str(UUID(int=7))
    assert {name: value for name, value in values.items() if name != "prebuilds"} == {
        "size": {"cpu": 2, "name": "{owner}-prebuild-1"},  # a value is never filled a second time
        "token": "t",
        "prebuilds_owner": "prebuilds",
        "prebuilds_stage": "create",
        "prebuilds_prebuild_count": 1,
    }
    claimed = wanted.model_copy(update={"owner": "alice@example.com", "claimed": True})
    inputs = inputs_of(source, module, claimed, RunStage.CLAIM)
    assert inputs["prebuilds_prebuild_count"] == 0
    assert (inputs["prebuilds"]["owner"], inputs["prebuilds"]["owner_slug"]) == (
        "alice@example.com",
        claimed.owner_slug,
    )


@pytest.mark.parametrize(
    ("text", "frees"),
    [
        ('variable "prebuilds_start_count" {}', True),
        ('variable "prebuilds" {}\nlocals { on = var.prebuilds.start_count }', False),
        ('variable "prebuilds" {}', False),
        ("# prebuilds_start_count", False),
    ],
)
def test_a_stop_applies_only_a_module_that_asks_for_it(text: str, frees: bool) -> None:
    assert module_of({"main.tf": text.encode()}).frees_when_stopped is frees


def test_a_placeholder_without_a_value_names_its_variable() -> None:
    source = parse_source({"files": FILES, "variables": {"size": "{param.size}"}})
    wanted = Provision(
        **WHO,
        workspace_id=UUID(int=7),
        build_number=1,
        name="n",
        owner="o",
        organization="a",
        template="t",
        preset=None,
        source={},
    )
    with pytest.raises(InvalidSource) as refused:
        inputs_of(source, load_module(source), wanted, RunStage.CREATE)
    assert list(refused.value.details) == ["source.variables.size"]


def test_a_version_s_module_is_not_checked_again() -> None:
    """A later release may refuse more, but workspaces of an applied version must still be stopped and deleted."""
    text = 'terraform {\n  cloud {}\n}\nmodule "x" {\n  source = "./x"\n}\n'
    files = {"main.tf": text, "prebuilds.tfvars.json": "{}"}
    with pytest.raises(InvalidSource):
        read_module(parse_source({"files": {"main.tf": text}}))
    kept = pack_tree({name: KeptFile(data.encode()) for name, data in files.items()})
    source = parse_source({"directory": kept.digest, "variables": {"gone": 1}, "outputs": ["gone"]})
    assert set(load_module(source, kept.archive).tree) == set(files)
    assert load_module(parse_source({"files": {"main.tf": text}})).variables == frozenset()


def test_files_that_call_a_folder_name_the_way_out(tmp_path: Path) -> None:
    text = 'module "x" {\n  source = "./x"\n}\n'
    driver = TerraformProvisioner(tmp_path, DEPLOYMENT)
    for call in (driver.read_source_files, driver.validate):
        with pytest.raises(InvalidSource) as refused:
            call({"files": {"main.tf": text}})
        assert refused.value.details["source.files"] == (
            'main.tf:2: module source "./x" is a folder, and `files` has none; '
            "keep the module in a folder, as `directory`"
        )
