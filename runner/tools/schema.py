"""Schemas of tools' arguments, as the model sees them. Made from the classes they take 0.2 s and more, so those of the
tools that are shipped are kept in `schemas.json`: `python -m runner.tools.schema` writes it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from runner.tools.registry import SCHEMAS, default_tools

_NOISE = ("title", "default")


def schema_of(args: type[BaseModel]) -> dict[str, Any]:
    """A plain JSON Schema of the arguments: no titles, no references, optional fields without null."""
    schema = args.model_json_schema(by_alias=True)
    definitions = schema.pop("$defs", {})
    schema.pop("description", None)
    cleaned = _cleaned(schema, definitions)
    return {"type": "object", "properties": {}, **cleaned, "additionalProperties": False}


def _cleaned(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        target = dict(definitions[schema["$ref"].rsplit("/", 1)[-1]])
        target.pop("description", None)
        return _cleaned(target, definitions)
    if "anyOf" in schema:
        (only,) = [option for option in schema["anyOf"] if option.get("type") != "null"]
        schema = {**only, **{key: value for key, value in schema.items() if key != "anyOf"}}
    clean: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            clean[key] = {name: _cleaned(field, definitions) for name, field in value.items()}
        elif key == "items":
            clean[key] = _cleaned(value, definitions)
        elif key not in _NOISE:
            clean[key] = value
    return clean


def write(file: Path = SCHEMAS) -> None:
    """Write the schemas of all tools."""
    tools = default_tools(search={"kind": "searxng", "url": "https://search.example/"})
    made = {tool.name: schema_of(tool.args) for tool in tools}
    file.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
