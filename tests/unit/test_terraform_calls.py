"""Modules that a module calls: each has to be in the folder that is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from prebuilds.provisioners.base import InvalidSource
from prebuilds.provisioners.kit.trees import KeptFile, KeptLink, Tree
from prebuilds.provisioners.terraform.calls import calls_in, calls_outside
from prebuilds.provisioners.terraform.driver import TerraformProvisioner
from tests.identities import DEPLOYMENT


def tree_of(**files: str) -> Tree:
    return {name.replace("__", "/").replace("_tf", ".tf"): KeptFile(text.encode()) for name, text in files.items()}


def test_calls_are_found_with_their_lines_and_nothing_else_is() -> None:
    text = """
# module "a" { source = "../comment" }
/* module "b" {
  source = "../block"
} */
locals {
  source = "../local"
  text   = <<-END-OF
    module "c" {
      source = "../heredoc"
    }
  END-OF
}
module "one" {
  source = "./one" // source = "../tail"
  nested = { source = "../nested" }
  text   = "${upper("}")} source = \\"../quoted\\""
}
module two { source = "hashicorp/consul/aws" }
module "three" {
  providers = {
    aws = aws.other
  }

  source="../three"
}
resource "x" "module" {
  source = "../resource"
}
module "four" { source = "./${var.name}" }
"""
    assert list(calls_in("main.tf", text)) == [(15, "./one"), (19, "hashicorp/consul/aws"), (25, "../three")]
    in_json = '{"module": {\n "a": {"source": "./a"},\n "b": [{"source": "../b"}]}}'
    assert list(calls_in("main.tf.json", in_json)) == [(2, "./a"), (3, "../b")]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"main_tf": '\nmodule "x" { source = "../x" }'}, 'main.tf:2: module source "../x" is outside the folder'),
        ({"main_tf": 'module "x" { source = "./a/../../x" }'}, "is outside the folder"),
        ({"main_tf": 'module "x" { source = "./gone" }'}, 'main.tf:1: module source "./gone" has no .tf file'),
        ({"main_tf": 'module "x" { source = "./a" }', "a__note": ""}, "has no .tf file"),
        ({"main_tf": 'module "x" { source = "/srv/x" }'}, "is on this host only; copy the module"),
        ({"main_tf": 'module "x" { source = "file:///srv/x" }'}, "is on this host only"),
        (
            {"main_tf": 'module "x" { source = "./a" }', "a__main_tf": '\n\nmodule "y" {\n source = "../../y"\n}'},
            'a/main.tf:4: module source "../../y" is outside the folder',
        ),
    ],
)
def test_a_module_that_is_not_in_the_folder_is_named_with_file_and_line(files: dict[str, str], message: str) -> None:
    [problem] = calls_outside(tree_of(**files))
    assert message in problem


def test_modules_in_the_folder_elsewhere_and_in_examples_are_left_alone() -> None:
    files = tree_of(
        main_tf='module "a" { source = "./a" }\nmodule "b" { source = "git::https://example.com/b.git?ref=v1" }',
        a__main_tf='module "c" { source = "../linked/c" }\nmodule "up" { source = "../b" }',
        b__main_tf='module "a" { source = "../a" }',
        real__c__main_tf="",
        examples__main_tf='module "x" { source = "../../x" }',
    )
    assert calls_outside({**files, "linked": KeptLink("real")}) == []


def test_the_driver_names_the_field_with_file_and_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREBUILDS_TERRAFORM", "/nowhere/terraform")
    driver, folder = TerraformProvisioner(tmp_path / "host", DEPLOYMENT), tmp_path / "module"
    folder.mkdir()
    source = {"directory": str(folder)}
    for text, message in (
        ('\nmodule "x" {\n  source = "../x"\n}\n', 'main.tf:3: module source "../x" is outside the folder'),
        ('terraform {\n  backend "s3" {}\n}\n', "main.tf has a backend or cloud block"),
    ):
        (folder / "main.tf").write_text("\ufeff" + text)
        for call in (driver.read_source_files, driver.validate):
            with pytest.raises(InvalidSource) as refused:
                call(source)
            assert message in refused.value.details["source.directory"]
    (folder / "main.tf").write_text("")
    (folder / "prebuilds.tfvars.json").write_text("{}")
    with pytest.raises(InvalidSource, match=r"prebuilds\.tfvars\.json is a file that Prebuilds writes itself"):
        driver.read_source_files(source)
    (folder / "prebuilds.tfvars.json").unlink()
    kept = driver.read_source_files(source)
    assert kept.files is not None
    assert kept.source == {"directory": kept.files.digest}
    assert set(kept.files.manifest) == {"main.tf"}
