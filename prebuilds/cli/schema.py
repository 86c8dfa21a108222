"""`prebuilds schema`: prints JSON Schemas of claims and template files, for editors and other languages."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import typer

from prebuilds.cli.output import as_json, say

if TYPE_CHECKING:
    from pydantic import BaseModel

DIALECT = "https://json-schema.org/draft/2020-12/schema"

app = typer.Typer(help="Print JSON Schemas (draft 2020-12) of claims and template files.", no_args_is_help=True)


@app.command()
def claim() -> None:
    """Print the schema of a `ClaimWorkspace` workflow's input."""
    say(as_json(claim_schema()))


@app.command()
def templates() -> None:
    """Print the schema of a template file, as `prebuilds apply -f` reads it."""
    say(as_json(templates_schema()))


def claim_schema() -> dict[str, Any]:
    """Return the schema of one claim. It also requires exactly one of `preset` and `template`."""
    from prebuilds.payloads import ClaimRequest

    schema = schema_of(ClaimRequest, "A claim of a prebuilt workspace")
    schema["oneOf"] = [
        {"required": [target], "properties": {target: {"type": "string"}, other: {"type": "null"}}}
        for target, other in (("preset", "template"), ("template", "preset"))
    ]
    return schema


def templates_schema() -> dict[str, Any]:
    """Return the schema of a template file. It accepts any mapping as `source`, which each driver checks itself."""
    from prebuilds.templates.file import TemplateFile

    return schema_of(TemplateFile, "A template file of Prebuilds")


def schema_of(model: type[BaseModel], title: str) -> dict[str, Any]:
    """Return the schema of *model* as input, with the docstrings of its fields as descriptions."""
    from pydantic import BaseModel

    schema = model.model_json_schema(mode="validation")
    models = {one.__name__: one for one in _with_subclasses(BaseModel)}
    for name, part in [(model.__name__, schema), *schema.get("$defs", {}).items()]:
        part.pop("title", None)
        texts = field_texts(models[name]) if name in models else {}
        for field, field_schema in part.get("properties", {}).items():
            field_schema.pop("title", None)
            if name not in models:
                continue
            attribute = attribute_of(models[name], field)
            if attribute in texts:
                field_schema["description"] = texts[attribute]
            if isinstance(default := models[name].model_fields[attribute].default, timedelta):
                field_schema["default"] = duration_in_words(default)  # we do not parse pydantic's form, PT30M
    return {"$schema": DIALECT, "title": title, **schema}


def attribute_of(model: type[BaseModel], key: str) -> str:
    """Return the attribute of *model* that has a key; it differs where the key is a word of Python."""
    return next((name for name, field in model.model_fields.items() if field.alias == key), key)


def field_texts(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstring below each field of *model* that has one: field -> text in one line.

    Pydantic can read these texts itself (`use_attribute_docstrings`), but would do so at every import of every model.
    """
    texts: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if not cls.__module__.startswith("prebuilds."):
            continue
        [definition] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assert isinstance(definition, ast.ClassDef)  # noqa: S101 - the source of a class is one
        for field, below in zip(definition.body, definition.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                texts[field.target.id] = re.sub(r"\bNone\b", "null", " ".join(below.value.value.split()))
    return texts


def duration_in_words(value: timedelta) -> str:
    """Format *value* as in a template file, in the largest unit that divides it: `30m`."""
    seconds = int(value.total_seconds())
    size, unit = next(one for one in ((86_400, "d"), (3600, "h"), (60, "m"), (1, "s")) if seconds % one[0] == 0)
    return f"{seconds // size}{unit}"


def _with_subclasses(cls: type[BaseModel]) -> list[type[BaseModel]]:
    return [cls, *[one for sub in cls.__subclasses__() for one in _with_subclasses(sub)]]
