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

TOP_LEVEL = ("workflows", "activities", "worker")
IMPORT = re.compile(rf"^(\s*from )(?=({'|'.join(TOP_LEVEL)})[. ])", re.MULTILINE)


def with_wheel_names(source: str, file: str) -> str:
    """Return a module's source with its imports as they are in the wheel.

    Raises:
        ValueError: An import is written in a form that is not renamed here, such as `import worker`.
    """
    renamed = IMPORT.sub(r"\1prebuilds.", source)
    for node in ast.walk(ast.parse(renamed)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        if any(name.split(".")[0] in TOP_LEVEL for name in names):
            raise ValueError(
                f"{file}:{node.lineno}: write `from {names[0]} import ...`; the wheel renames no other form"
            )
    return renamed


class WheelNames(BuildHookInterface):
    """Called by hatchling; an editable install and the source distribution keep the repository's layout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or version == "editable":
            return
        root = Path(self.root)
        self._made = TemporaryDirectory(prefix="prebuilds-wheel-")
        for path in sorted(root.glob("prebuilds/**/*.py")):
            self._put(path, path.relative_to(root), build_data)
        for path in [
            root / "worker.py",
            *sorted(root.glob("workflows/**/*.py")),
            *sorted(root.glob("activities/**/*.py")),
        ]:
            self._put(path, "prebuilds" / path.relative_to(root), build_data)

    def _put(self, path: Path, target: Path, build_data: dict[str, Any]) -> None:
        """Add a module to the wheel as *target*, before hatchling would add the file itself."""
        made = Path(self._made.name) / target
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text(with_wheel_names(path.read_text("utf-8"), str(path)), "utf-8")
        build_data["force_include"][str(made)] = str(target)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "_made"):
            self._made.cleanup()
