"""`apply` of a template whose module is a folder: its files are a part of the version, in the database."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import InvalidInput
from prebuilds.provisioners.base import InvalidSource
from prebuilds.provisioners.kit.trees import KeptFile, unpack_tree
from prebuilds.store.build_begin import begin_build
from prebuilds.store.build_end import end_build
from prebuilds.store.build_record import record_build
from prebuilds.store.inventory_findings import read_removal
from prebuilds.templates import ApplyResult, apply, parse_template_file
from prebuilds.vocabulary import BuildStatus, Transition, build_id_of
from tests.builders import apply_file, find_preset
from tests.postgres.pool_steps import begin_prebuilds
from tests.rows import do, one

FILE = """
organizations:
  - name: acme
    templates:
      - name: vm
        provisioner: terraform
        source: {{directory: "{folder}", variables: {{size: large}}}}
        presets: [{{name: small, instances: 1}}]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREBUILDS_TERRAFORM", "/nowhere/terraform")  # its own checks are another test's
    folder = tmp_path / "module"
    (folder / "bin").mkdir(parents=True)
    (folder / "main.tf").write_text('variable "size" {}\n')
    (folder / "bin" / "setup.sh").write_text("#!/bin/sh\n")
    (folder / "notes").write_text("first")
    return folder


async def apply_folder(engine: AsyncEngine, folder: Path, **how: Any) -> ApplyResult:
    return await apply(engine, parse_template_file(FILE.format(folder=folder)), actor="tester", **how)


def versions_of(result: ApplyResult) -> list[int]:
    return [version.version for version in result.versions]


async def test_an_edited_folder_is_a_new_version_that_names_the_files(engine: AsyncEngine, folder: Path) -> None:
    assert versions_of(await apply_folder(engine, folder)) == [1]
    first = await find_preset(engine, template="vm")
    (folder / "bin" / "setup.sh").chmod(0o755)
    (folder / "notes").unlink()
    (folder / "notes").symlink_to("main.tf")
    (folder / "more.tf").write_text("# more\n")
    tried = await apply_folder(engine, folder, dry_run=True)
    [digest, *files] = [(change.field, change.old, change.new) for change in tried.changes]
    assert digest[0] == "source.directory"
    assert [value.partition(":")[0] for value in digest[1:]] == ["sha256", "sha256"]

    assert files[0][0] == "source.directory/bin/setup.sh"
    assert files[0][2] == f"{files[0][1]}, executable"
    assert [file[0] for file in files[1:]] == ["source.directory/more.tf", "source.directory/notes"]
    assert (files[1][1], files[2][2]) == (None, "link to main.tf")
    assert (await one(engine, "SELECT count(*) FROM template_files"))[0] == 1, "a dry run keeps nothing"

    done = await apply_folder(engine, folder)
    assert (versions_of(done), done.changes) == ([2], tried.changes)
    assert done.updated == ["template acme/vm", "preset acme/vm/small"]
    second = await find_preset(engine, template="vm")
    assert second.id != first.id, "a pool of other files is another pool"
    assert not (await apply_folder(engine, folder)).changed


async def test_the_same_files_in_another_place_are_the_same_version(
    engine: AsyncEngine, folder: Path, tmp_path: Path
) -> None:
    await apply_folder(engine, folder)
    copy = shutil.copytree(folder, tmp_path / "checkout")
    (copy / "main.tf").chmod(0o600)
    (copy / ".terraform").mkdir()
    assert not (await apply_folder(engine, copy)).changed
    (copy / "main.tf").write_text('variable "size" {}\n# other\n')
    assert versions_of(await apply_folder(engine, copy)) == [2]
    again = await apply_folder(engine, folder)
    assert versions_of(again) == [1], "the content of version 1 is version 1 again"
    # A template file built in code, without parsing, keeps its folder, too.
    parsed = await apply_file(
        engine,
        {"name": "small", "instances": 1},
        template="vm",
        members=[],
        provisioner="terraform",
        source={"directory": str(folder), "variables": {"size": "large"}},
    )
    assert not parsed.changed


async def test_builds_get_the_files_of_their_workspace_s_version(engine: AsyncEngine, folder: Path) -> None:
    await apply_folder(engine, folder)
    [workspace_id] = await begin_prebuilds(engine, await find_preset(engine, template="vm"), 1)
    (folder / "main.tf").write_text('variable "size" {}\n# edited, and not applied\n')
    (folder / "more.tf").write_text('module "x" { source = "../x" }\n')
    with pytest.raises(
        InvalidInput, match=r"line \d: .*source\.directory: more\.tf:1: module source \"\.\./x\" is out"
    ):
        await apply_folder(engine, folder)
    (folder / "more.tf").unlink()
    await apply_folder(engine, folder)
    shutil.rmtree(folder)
    with pytest.raises(InvalidInput, match="is no folder here"):
        await apply_folder(engine, folder)

    _, wanted = await begin_build(engine, build_id_of(workspace_id, 1))
    await end_build(engine, build_id_of(workspace_id, 1), BuildStatus.SUCCEEDED)
    async with engine.begin() as connection:
        await record_build(connection, workspace_id, Transition.START)
    _, again = await begin_build(engine, build_id_of(workspace_id, 2))
    await do(engine, "UPDATE workspaces SET deleted_at = now() WHERE id = :id", id=workspace_id)
    removal = await read_removal(engine, workspace_id)
    for provision in (wanted, again, removal):
        assert provision is not None
        assert provision.files is not None
        tree = unpack_tree(provision.files, provision.source["directory"])
        assert tree["main.tf"] == KeptFile(b'variable "size" {}\n')


async def test_a_folder_that_changes_while_it_is_checked_is_refused(
    engine: AsyncEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prebuilds.provisioners.terraform.driver import TerraformProvisioner

    def edit_meanwhile(driver: TerraformProvisioner, source: dict[str, Any]) -> None:
        (folder / "main.tf").write_text('variable "size" {}\n# edited\n')

    monkeypatch.setattr(TerraformProvisioner, "validate", edit_meanwhile)
    with pytest.raises(InvalidInput, match="source: its files changed while they were checked; apply again"):
        await apply_folder(engine, folder)


async def test_a_folder_without_text_is_refused_when_it_was_not_parsed(engine: AsyncEngine, tmp_path: Path) -> None:
    with pytest.raises(InvalidSource, match=r"source\.directory"):
        await apply_file(engine, {"name": "small"}, provisioner="terraform", source={"directory": str(tmp_path / "no")})


async def test_applying_the_same_files_again_mends_a_damaged_archive(engine: AsyncEngine, folder: Path) -> None:
    await apply_folder(engine, folder)
    await do(engine, "UPDATE template_files SET archive = 'damaged'")
    assert not (await apply_folder(engine, folder)).changed
    stored = await one(engine, "SELECT digest, archive FROM template_files")
    assert set(unpack_tree(stored.archive, stored.digest)) == {"main.tf", "bin/setup.sh", "notes"}
