"""The YAML that `apply` reads, and what it changes."""

from prebuilds.templates.applying import ActivatedVersion, ApplyResult, apply
from prebuilds.templates.file import TemplateFile, parse_template_file

__all__ = ["ActivatedVersion", "ApplyResult", "TemplateFile", "apply", "parse_template_file"]
