"""Results of long runs, kept in the repository with their provenance: `models/measured/<date>-<kind>.json`.

Each was written by one command, which stands in it. Nothing in them is typed by hand, and no run of the report makes
them: what is shown of them is marked as measured elsewhere.
"""

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np

from lib import machine
from lib.errors import InputError
from lib.files import replacing
from lib.layout import ROOT
from lib.results.provenance import git_state

FOLDER = ROOT / "models" / "measured"
REQUIRED = ("kind", "date", "provenance")


def new(kind: str, command: str, words: str) -> dict[str, Any]:
    """The head of a record: what was run, when, from which commit, on what; `words` say who measured, and how.

    Made before the work: while that lasts, the working tree may move on.
    """
    commit, dirty = git_state()
    return {
        "kind": kind,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "provenance": {
            "command": command,
            "commit": commit,
            "dirty": dirty,
            "versions": machine.versions(),
            "machine": machine.system(),
            "words": words,
        },
    }


def resume(path: Path, record: dict[str, Any], decides: str) -> dict[str, Any]:
    """The record in `path`, or the new `record` where there is none.

    `InputError` where what `decides` the figures, a key of both, is not the same: figures of two recipes don't mix.
    """
    record = json.loads(json.dumps(record))
    if not path.is_file():
        return record
    kept = json.loads(path.read_text(encoding="utf-8"))
    if kept.get(decides) != record[decides]:
        raise InputError(f"{path}: holds figures of another {decides}; pass another --out, or remove it")
    return kept


def write(path: Path, record: dict[str, Any]) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(record, allow_nan=False) + "\n", encoding="utf-8")


def latest(kind: str, folder: Path = FOLDER) -> dict[str, Any] | None:
    """The newest record of that kind with its file's name under `file`; None where none is kept."""
    found = sorted(folder.glob(f"*-{kind}.json"))
    if not found:
        return None
    try:
        record = json.loads(found[-1].read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{found[-1].name} is no JSON ({error}): write it with `make {kind}`") from None
    missing = [key for key in REQUIRED if not record.get(key)]
    if missing:
        raise InputError(f"{found[-1].name} lacks {', '.join(missing)}: write it with `make {kind}`")
    return record | {"file": found[-1].name}


def of_model(kind: str, fingerprint: str) -> tuple[dict[str, Any], Any] | None:
    """`(record, what a section says of it)` of the newest study of chunks of that kind; None for another model's."""
    record = latest(kind)
    if record is None or record["provenance"]["model"]["fingerprint"] != fingerprint:
        return None
    tokens = record["text"]["n_chunks"] * record["provenance"]["parameters"]["n_ctx"]
    return record, about(record, tokens)


def about(record: dict[str, Any] | None, tokens: np.ndarray) -> dict[str, Any] | None:
    """What a section says of the record that it shows, `sections.terms.Kept`; None where there is none."""
    if record is None:
        return None
    made = record["provenance"]
    return {key: record[key] for key in ("file", "date")} | {
        **{key: made[key] for key in ("command", "commit", "words")},
        "tokens": tokens,
    }
