"""Results files: written whole or not at all, checked against a schema on writing and on reading."""

import json
import math
from functools import cache
from pathlib import Path

import jsonschema

from lib.errors import InputError
from lib.files import replacing

SCHEMAS = Path(__file__).resolve().parent / "schema"


@cache
def schema(name):
    return json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))


def validate(value, name, where):
    """Raises `InputError` naming the file, the key and what the schema asks for."""
    error = jsonschema.Draft202012Validator(schema(name)).iter_errors(value)
    worst = jsonschema.exceptions.best_match(error)
    if worst is not None:
        key = "/".join(map(str, worst.absolute_path)) or "(top)"
        raise InputError(f"{where}: {key}: {worst.message[:200]} (schema lib/results/schema/{name}.json)")


def plain(value):
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


def write_json(path, value, schema_name=None):
    value = plain(value)
    if schema_name:
        validate(value, schema_name, Path(path).name)
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_lines(path, rows):
    """One JSON object a line."""
    with replacing(path) as partial:
        text = "".join(json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        partial.write_text(text, encoding="utf-8")


def read_json(path, schema_name=None):
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: not there; make it with `make report`") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: damaged ({error}); delete it and run `make report` again") from None
    if schema_name:
        validate(value, schema_name, path.name)
    return value


def section_path(data_folder, section):
    return Path(data_folder) / "sections" / f"{section}.json"


def load(data_folder):
    """`{section: data}` of every finished section in a `results/data` folder."""
    files = sorted((Path(data_folder) / "sections").glob("[!.]*.json"))
    if not files:
        raise InputError(f"{data_folder}: no results there; make them with `make report`")
    return {path.stem: read_json(path, "section")["data"] for path in files}
