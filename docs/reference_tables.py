"""Tables of the reference: a model's fields, with their types in words."""

from __future__ import annotations

from enum import EnumMeta
from typing import Any

from pydantic import BaseModel

from prebuilds import vocabulary
from prebuilds.cli.schema import attribute_of, schema_of


def fields(model: type[BaseModel], *, result: bool = False) -> str:
    """A table of *model*'s fields; what is always there in a result has no default to tell."""
    schema = schema_of(model, "")
    required = set(schema.get("required", ()))
    rows = ["| field | type | meaning |" if result else "| field | type | default | meaning |"]
    rows.append("| --- | --- | --- |" if result else "| --- | --- | --- | --- |")
    for name, its in schema.get("properties", {}).items():
        if model.model_fields[attribute_of(model, name)].exclude or name == "carried":
            continue
        default = "required" if name in required else _default(its)
        cells = [f"`{name}`", _type(its), *([] if result else [default]), its.get("description", "")]
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def field(model: type[BaseModel], name: str) -> str:
    return str(schema_of(model, "")["properties"][name]["description"])


def _default(its: dict[str, Any]) -> str:
    default = its.get("default")
    if isinstance(default, bool):
        return "true" if default else "false"
    if default is None:
        return "null" if _type(its).endswith("or null") else "empty"
    return f"`{default}`"


def _type(its: dict[str, Any]) -> str:
    """A JSON Schema's type, in words."""
    if "$ref" in its:
        return _named(its["$ref"])
    if "enum" in its or "const" in its:
        return ", ".join(f"`{value}`" for value in its.get("enum", [its.get("const")]))
    if "anyOf" in its:
        kinds = its["anyOf"]
        if {"type": "number", "minimum": 0} in kinds:
            kinds = [{"duration": True}, *[one for one in kinds if one.get("type") == "null"]]
        return " or ".join(_type(one) for one in kinds)
    if "duration" in its:
        return "duration"
    kind = its.get("type")
    match kind:
        case "array":
            return f"list of {_type(its['items'])}"
        case "object":
            values = its.get("additionalProperties")
            return f"object of {_type(values)}" if isinstance(values, dict) else "object"
        case "string":
            return {"uuid": "id", "date-time": "time"}.get(
                its.get("format", ""), "name" if "pattern" in its else "text"
            )
        case list():
            return " or ".join("text" if one == "string" else one for one in kind)
        case _:
            return str(kind or "anything")


def _named(reference: str) -> str:
    name = reference.rpartition("/")[2]
    enums = {cls.__name__: cls for cls in _enums()}
    return ", ".join(f"`{value}`" for value in enums[name]) if name in enums else name


def _enums() -> list[Any]:
    return [
        cls for cls in vars(vocabulary).values() if isinstance(cls, EnumMeta) and cls.__module__ == vocabulary.__name__
    ]
