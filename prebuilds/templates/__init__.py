"""The YAML that `apply` reads, and what it changes."""

from prebuilds.templates.applying import apply
from prebuilds.templates.file import TemplateFile, parse_template_file
from prebuilds.templates.joining import join_files
from prebuilds.templates.result import ActivatedVersion, ApplyResult

__all__ = ["ActivatedVersion", "ApplyResult", "TemplateFile", "apply", "join_files", "parse_template_file"]
