"""Terraform's own check of a module when a template is applied, so that a syntax error costs no workspace."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from prebuilds.api import ProvisionFailed
from prebuilds.provisioners.kit.trees import write_tree
from prebuilds.provisioners.terraform.mark import COMMON
from prebuilds.provisioners.terraform.module import Module
from prebuilds.provisioners.terraform.output import INPUTS, Diagnostic, read_errors
from prebuilds.provisioners.terraform.run import environment
from prebuilds.provisioners.terraform.source import TerraformSource, invalid

CHECK_S = 8.0
"""Bound on the whole check. A module whose providers take longer to download is checked by its first build."""


def check_module(module: Module, source: TerraformSource, binary: str) -> None:
    """Initialise the module in a temporary folder, and validate it. Blocks for up to `CHECK_S`.

    Raises:
        InvalidSource: The module's text is wrong. Names file and line.
    """
    with TemporaryDirectory(prefix="prebuilds-terraform-") as name:
        folder = Path(name) / "module"
        folder.mkdir()
        write_tree(module.tree, folder)
        try:
            env = environment(Path(name), source.env)
        except ProvisionFailed:  # only the workers have the variables
            env = environment(Path(name), ())
        deadline = time.monotonic() + CHECK_S
        _run([binary, "init", *COMMON, "-backend=false"], folder, env, deadline)
        output = _run([binary, "validate", "-no-color", "-json"], folder, env, deadline)
        raise_config_errors(validation_errors(output), source)


def validation_errors(output: str) -> list[Diagnostic]:
    """Return the errors of the module's own text in the output of `validate -json`; empty when it cannot be read."""
    try:
        document = json.loads(output[output.index("{") :])
    except ValueError:
        return []
    return [error for error in read_errors(document) if error.file is not None]


def raise_config_errors(errors: list[Diagnostic], source: TerraformSource) -> None:
    """Raise one error for all *errors*; do nothing when there are none.

    Raises:
        InvalidSource: Its details name each file, with messages that name the lines.
    """
    details: dict[str, str] = {}
    for error in errors:
        field = f"source.files.{error.file}" if source.files is not None else "source.directory"
        if error.file == INPUTS:
            field = "source.variables"
        details[field] = f"{details[field]}; {error.text}" if field in details else error.text
    if details:
        raise invalid(details)


def _run(words: list[str], folder: Path, env: Mapping[str, str], deadline: float) -> str:
    """Run a command, and return its output; empty when it cannot be run or does not end by *deadline*."""
    timeout_s = deadline - time.monotonic()
    if timeout_s <= 0:
        return ""
    try:
        process = subprocess.Popen(
            words,
            cwd=folder,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
    except OSError:
        return ""
    with process:
        try:
            return process.communicate(timeout=timeout_s)[0]
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            return ""
