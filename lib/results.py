"""Results files: written whole or not at all, checked against a schema on writing and on reading."""

import contextlib
import datetime
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import jsonschema

from lib.errors import InputError
from lib.params import ROOT

SCHEMAS = Path(__file__).resolve().parent / "schema"
PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "numpy",
    "scipy",
    "altair",
    "papermill",
    "nbconvert",
    "triton",
)


@cache
def schema(name):
    return json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))


def validate(value, name, where):
    """Raises `InputError` naming the file, the key and what the schema asks for."""
    error = jsonschema.Draft202012Validator(schema(name)).iter_errors(value)
    worst = jsonschema.exceptions.best_match(error)
    if worst is not None:
        key = "/".join(map(str, worst.absolute_path)) or "(top)"
        raise InputError(f"{where}: {key}: {worst.message[:200]} (schema lib/schema/{name}.json)")


@contextlib.contextmanager
def replacing(path):
    """A new file beside `path` to write to; it takes the place of `path` only when the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.chmod(0o644)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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


@cache
def git_state():
    """`(commit, dirty)`; commit is None outside a git checkout."""

    def git(*words):
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def versions():
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def provenance(profile, parameters, seed, model, corpus, device, backend, started, seconds):
    """What a reader needs to believe a number and to make it again. All times stand under `times`."""
    commit, dirty = git_state()
    return {
        "commit": commit,
        "dirty": dirty,
        "profile": profile,
        "parameters": parameters,
        "seed": seed,
        "model": model,
        "corpus": corpus,
        "versions": versions(),
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
        "device": device,
        "backend": backend,
        "times": {
            "started": datetime.datetime.fromtimestamp(started, datetime.UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 2),
        },
    }


def assemble_validation(results, provenance):
    """`exp10v_validation_<model>.json`: Part V in the write-up's own form."""
    v1, v2, v3, v4, v5 = (results[name] for name in ("V1", "V2", "V3", "V4", "V5"))
    return {
        "model": results["setup"]["model"]["name"],
        "ppl_2k": v1["ppl_2k"],
        "ppl_full": v1["ppl_full"],
        "n_chunks": v1["n_chunks"],
        "total_tokens": v1["total_tokens"],
        "v2_top10": v2["top10"],
        "v3_focus_head": v3,
        "ranking": results["phases"]["ranking"],
        "v4_cumulative": v4["cumulative"],
        "v4_cumulative_2k": v4["cumulative_2k"],
        "v5_comparison": v5,
        "intervals": {"ppl_2k": v1["ppl_2k_ci"], "ppl_full": v1["ppl_full_ci"]},
        "provenance": provenance,
    }


def assemble_phase3(results, provenance):
    """`exp10p_phase3_<model>.json`: Part P in the write-up's own form."""
    return {
        "model": results["setup"]["model"]["name"],
        "p1_speed": results["P1"],
        "p2_self_refinement": results["P2"],
        "p3_best_of_n": results["P3"],
        "p4_context_length": results["P4"],
        "provenance": provenance,
    }
