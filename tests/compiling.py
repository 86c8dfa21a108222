"""Compile the test files as pytest does, once for all processes of a run: each of them would compile all of them.

A file that has not changed since is left alone. If pytest no longer accepts these files, it compiles the tests itself.
"""

from __future__ import annotations

import ast
import importlib.util
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from _pytest.assertion import rewrite

TESTS = Path(__file__).parent


def compile_test(path: Path) -> None:
    """Write the code of one file, with asserts that tell what they saw, to where pytest looks for it."""
    compiled = rewrite.get_cache_dir(path) / f"{path.stem}{rewrite.PYC_TAIL}"
    if rewrite._read_pyc(path, compiled) is not None:
        return
    source = path.read_bytes()
    tree = ast.parse(source, filename=str(path))
    rewrite.rewrite_asserts(tree, source, str(path))
    compiled.parent.mkdir(exist_ok=True)
    being_written = compiled.with_suffix(f".{os.getpid()}")
    with being_written.open("wb") as file:
        rewrite._write_pyc_fp(
            file, importlib.util.source_hash(source), compile(tree, str(path), "exec", dont_inherit=True)
        )
    being_written.replace(compiled)


def main() -> None:
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_test, [*TESTS.rglob("test_*.py"), *TESTS.rglob("conftest.py")], chunksize=8))


if __name__ == "__main__":
    main()
