"""Results files: written whole or not at all, checked against a schema on writing and on reading."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import jsonschema
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from lib.errors import InputError, first_line
from lib.files import replacing

if TYPE_CHECKING:
    from lib.results.sections import Results

SCHEMAS = Path(__file__).resolve().parent / "schema"


@cache
def schema(name: str) -> dict[str, Any]:
    return json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))


def validate(value: Any, name: str, where: str) -> None:
    """Raises `InputError` naming the file, the key and what the schema asks for."""
    _validate(value, f"{name}.json", where, f"lib/results/schema/{name}.json")


def validate_section(section: str, data: Any, where: str) -> None:
    """Raises `InputError` where a section's data are not of its type; a section of the user's own may hold anything."""
    if section in schema("sections")["properties"]:
        _validate(data, f"sections.json#/properties/{section}", f"{where}: data", "lib/results/sections/")


def _validate(value: Any, reference: str, where: str, source: str) -> None:
    worst = jsonschema.exceptions.best_match(_validator(reference).iter_errors(value))
    if worst is not None:
        key = "/".join(map(str, worst.absolute_path)) or "(top)"
        raise InputError(f"{where}: {key}: {worst.message[:200]} (schema {source})")


@cache
def _validator(reference: str) -> jsonschema.protocols.Validator:
    files = {path.name: DRAFT202012.create_resource(schema(path.stem)) for path in SCHEMAS.glob("*.json")}
    return jsonschema.Draft202012Validator({"$ref": reference}, registry=Registry().with_resources(files.items()))


def plain(value: Any) -> Any:
    """`value` as JSON knows it: arrays as lists, NumPy numbers as Python's, what is not finite as null."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: str | Path, value: Any, schema_name: str | None = None) -> None:
    """Writes `value`, checked against a schema; of a `section`, its data as well."""
    value = plain(value)
    if schema_name:
        validate(value, schema_name, Path(path).name)
    if schema_name == "section":
        validate_section(value["section"], value["data"], Path(path).name)
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_lines(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line."""
    with replacing(path) as partial:
        text = "".join(json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        partial.write_text(text, encoding="utf-8")


def read_json(path: str | Path, schema_name: str | None = None) -> Any:
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: not there; make it with `make report`") from None
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}); delete it and run `make report` again") from None
    try:
        return parsed(content, path.name, schema_name)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: damaged ({first_line(error)}); delete it and run `make report` again") from None


def parsed(content: bytes, where: str, schema_name: str | None = None) -> Any:
    """JSON in UTF-8, checked against a schema. Raises `ValueError` where it is none."""
    try:
        value = json.loads(content.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if schema_name:
        validate(value, schema_name, where)
    return value


def unfit(path: str | Path) -> str | None:
    """Why a file can't be read as a section's results: not there, damaged, or not of its type; None where it can."""
    path = Path(path)
    try:
        record = read_json(path, "section")
        validate_section(record["section"], record["data"], path.name)
    except InputError as error:
        return str(error)
    return None


def section_path(data_folder: str | Path, section: str) -> Path:
    return Path(data_folder) / "sections" / f"{section}.json"


def load(data_folder: str | Path) -> Results:
    """`{section: data}` of every finished section in a `results/data` folder."""
    files = sorted((Path(data_folder) / "sections").glob("[!.]*.json"))
    if not files:
        raise InputError(f"{data_folder}: no results there; make them with `make report`")
    return cast("Results", {path.stem: read_json(path, "section")["data"] for path in files})
