"""Gives the wheel names of its own: `workflows`, `activities` and `worker.py` become modules of `prebuilds`.

In the repository they lie at the top, as in any Temporal project; so a wheel that had them there would overwrite, or be
overwritten by, other distributions. The build copies the sources and puts `prebuilds.` before these names in imports;
lines stay where they are. Decision 0021 says why.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGES, MODULES = ("workflows", "activities"), ("worker",)
TOP_LEVEL = (*PACKAGES, *MODULES)
IMPORT = re.compile(rf"^(\s*from )(?=({'|'.join(TOP_LEVEL)})[. ])", re.MULTILINE)


def with_wheel_names(source: str, file: str) -> str:
    """Return a module's source with its imports as they are in the wheel.

    Raises:
        ValueError: An import is written in a form that is not renamed here, such as `import worker`.
    """
    renamed = IMPORT.sub(r"\1prebuilds.", source)
    for node in ast.walk(ast.parse(renamed)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        else:
            continue
        if taken := [name for name in names if name.split(".")[0] in TOP_LEVEL]:
            remedy = f"write `from {taken[0]} import ...` on a line of its own; the wheel renames no other form"
            raise ValueError(f"{file}:{node.lineno}: {remedy}")
    return renamed


class WheelNames(BuildHookInterface[Any]):
    """Called by hatchling; an editable install and the source distribution keep the repository's layout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or version == "editable":
            return
        root = Path(self.root)
        self._made = TemporaryDirectory(prefix="prebuilds-wheel-")
        for name in ("prebuilds", *PACKAGES):
            for path in sorted(root.glob(f"{name}/**/*.py")):
                self._put(path, build_data)
        for name in MODULES:
            self._put(root / f"{name}.py", build_data)

    def _put(self, path: Path, build_data: dict[str, Any]) -> None:
        """Add a module under its name in the wheel, instead of the file that hatchling would take itself."""
        target = path.relative_to(self.root)
        if target.parts[0] != "prebuilds":
            target = "prebuilds" / target
        made = Path(self._made.name) / target
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text(with_wheel_names(path.read_text("utf-8"), str(path)), "utf-8")
        build_data["force_include"][str(made)] = str(target)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "_made"):
            self._made.cleanup()
