"""The JSON schema of the sections, from their types: `python -m lib.results.describe` writes `schema/sections.json`."""

import json
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from lib.errors import InputError
from lib.files import replacing
from lib.results import io, sections

NAMES = {float: "number", int: "integer", str: "string", bool: "boolean", NoneType: "null"}


def described() -> dict[str, Any]:
    """The schema of `{section: data}`: each `TypedDict` under `$defs` by its name, closed against unknown keys."""
    definitions: dict[str, Any] = {}
    sections_of = _object(sections.Results, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "sections.json",
        "title": "All sections' results; made from lib/results/sections/ by python -m lib.results.describe",
        **sections_of,
        "$defs": dict(sorted(definitions.items())),
    }


def _object(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    properties, required = {}, []
    for key, hint in get_type_hints(kind, include_extras=True).items():
        optional = get_origin(hint) is NotRequired
        properties[key] = _schema(get_args(hint)[0] if optional else hint, definitions)
        if kind.__total__ and not optional:
            required.append(key)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _schema(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if hint is Any:
        return {}
    if hint in NAMES:
        return {"type": NAMES[hint]}
    if is_typeddict(hint):
        if hint.__name__ not in definitions:
            definitions[hint.__name__] = {}
            definitions[hint.__name__] = _object(hint, definitions)
        return {"$ref": f"sections.json#/$defs/{hint.__name__}"}
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _schema(arguments[0], definitions) | hint.__metadata__[0].words
    if origin is list:
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(arguments[1], definitions)}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, UnionType):
        parts = [_schema(part, definitions) for part in arguments]
        if all(part.keys() == {"type"} for part in parts):
            return {"type": [part["type"] for part in parts]}
        return {"anyOf": parts}
    raise InputError(f"lib/results/sections/: no schema for {hint}; use numbers, str, bool, list, dict, a TypedDict")


def main() -> None:
    with replacing(io.SCHEMAS / "sections.json") as partial:
        partial.write_text(json.dumps(described(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
