"""The `source` of a template whose provisioner is `terraform`, checked before anything is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from prebuilds.payloads import field_messages
from prebuilds.provisioners.base import InvalidSource, Provision
from prebuilds.provisioners.kit.placeholders import PARAMETER, PLACEHOLDERS, fill, placeholders_of
from prebuilds.provisioners.terraform.calls import ENDINGS

FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
RESERVED = "prebuilds"
"""Prebuilds sets the variables with this name, or that begin with it and an underscore."""
NOT_HERE = ("port", "folder")
"""Placeholders of the process driver that a module cannot have."""
PARALLELISM_MAX = 256
SMALL_SOURCE: dict[str, Any] = {
    "files": {
        "main.tf": 'variable "prebuilds_owner" {}\nvariable "prebuilds_start_count" {}\n'
        'resource "terraform_data" "workspace" { input = var.prebuilds_owner }\n'
        'resource "terraform_data" "machine" { count = var.prebuilds_start_count }\n'
    }
}
"""The conformance kit's source, unless it is given another. It needs no provider, so nothing is downloaded."""


def _check_values(value: Any) -> Any:
    """Check the placeholders of all texts in a JSON value, at any depth."""
    if isinstance(value, str):
        for name in placeholders_of(value):
            if name in NOT_HERE:
                known = ", ".join(f"{{{p}}}" for p in PLACEHOLDERS if p not in NOT_HERE)
                raise ValueError(f"{{{name}}} is not known here; known are {known} and {{param.NAME}}")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_values(item)
    return value


def _check_name(pattern: re.Pattern[str], what: str, text: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError(f"must be {what}")
    return text


def _check_file(name: str) -> str:
    _check_name(FILE_NAME, "a plain file name, without a folder", name)
    if not name.endswith(ENDINGS):
        raise ValueError("must end with .tf, .tf.json, .tofu or .tofu.json")
    return name


def _check_variable(name: str) -> str:
    _check_name(VARIABLE_NAME, "a variable's name", name)
    if name == RESERVED or name.startswith(f"{RESERVED}_"):
        raise ValueError("has its value from Prebuilds; choose a name that does not begin with prebuilds")
    return name


def _check_env(name: str) -> str:
    _check_name(ENV_NAME, "the name of a variable of the worker's environment, without a value", name)
    if name in ("PGPASSWORD", "PGPASSFILE"):
        raise ValueError(f"{name} may open Prebuilds' own database; give the provider its password another way")
    if name.startswith(("TF_", "PREBUILDS_", "TEMPORAL_")):
        raise ValueError("TF_*, PREBUILDS_* and TEMPORAL_* are not passed on; give module inputs by variables")
    return name


def _check_binary(name: str) -> str:
    if name not in ("terraform", "tofu") and not PurePosixPath(name).is_absolute():
        raise ValueError("must be terraform, tofu or a full path")
    return name


FileName = Annotated[str, AfterValidator(_check_file)]
VariableName = Annotated[str, AfterValidator(_check_variable)]
Value = Annotated[Any, AfterValidator(_check_values)]
EnvName = Annotated[str, AfterValidator(_check_env)]


class TerraformSource(BaseModel):
    """`source` of a template whose provisioner is `terraform`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: dict[FileName, str] | None = Field(default=None, min_length=1)
    """The module's files: name -> text."""
    directory: str | None = None
    """In a template file, the module's folder where the file is applied; a relative path begins where `apply` was
    started. In a version's source, the digest of the folder's files."""
    variables: dict[VariableName, Value] = Field(default_factory=dict)
    binary: Annotated[str, AfterValidator(_check_binary)] | None = None
    """terraform, tofu or a full path; None: what PREBUILDS_TERRAFORM names, else tofu, else terraform."""
    address: str | None = None
    """Name of the output with the workspace's address; None: `address`, if the module has it."""
    outputs: list[str] | None = None
    """Names of the outputs that the owner is shown; None: all. Sensitive outputs are never shown."""
    reachable: bool = True
    """True: workers can reach the address, so they wait for it and probe it, when it names a host and a port."""
    env: list[EnvName] = Field(default_factory=list)
    """Names of the worker's environment variables that providers need."""
    parallelism: int | None = Field(default=None, ge=1, le=PARALLELISM_MAX)
    claim: bool = True
    """False: a claim does not apply the module again; it only leaves its mark."""

    @model_validator(mode="after")
    def _one_module(self) -> TerraformSource:
        if (self.files is None) == (self.directory is None):
            raise ValueError("give exactly one of files and directory")
        return self

    @property
    def address_output(self) -> str:
        """The name of the output with the workspace's address."""
        return self.address or "address"


def parse_source(source: Mapping[str, Any]) -> TerraformSource:
    """Parse and check a template's source.

    Raises:
        InvalidSource: Its details name each wrong field, as a path that begins with `source`.
    """
    try:
        return TerraformSource.model_validate(source)
    except ValidationError as error:
        details = {
            "source" if field == "input" else f"source.{field.removesuffix('.[key]')}": message
            for field, message in field_messages(error).items()
        }
        raise invalid(details) from error


def invalid(details: Mapping[str, str]) -> InvalidSource:
    """Return the error for these faults, field -> message."""
    return InvalidSource.fields(details)


def fill_variables(source: TerraformSource, wanted: Provision) -> dict[str, Any]:
    """Return the template's variables, with this workspace's values in place of the placeholders.

    Raises:
        InvalidSource: A placeholder has no value.
    """
    values = {
        "workspace_id": str(wanted.workspace_id),
        "name": wanted.name,
        "owner": wanted.owner,
        "owner_slug": wanted.owner_slug,
        "organization": wanted.organization,
        "template": wanted.template,
        "preset": wanted.preset or "",
        **{f"{PARAMETER}{name}": value for name, value in wanted.parameters.items()},
    }
    return {name: _filled(value, values, f"source.variables.{name}") for name, value in source.variables.items()}


def _filled(value: Any, values: Mapping[str, str], field: str) -> Any:
    if isinstance(value, str):
        return fill(value, values, field)
    if isinstance(value, dict):
        return {name: _filled(item, values, f"{field}.{name}") for name, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, values, f"{field}.{n}") for n, item in enumerate(value)]
    return value
