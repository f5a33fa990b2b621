"""The published figures as data, and in the form of a results dict for tables and charts."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from lib.errors import InputError
from lib.results.query import Index, Key, Step, Where, follow, parse

FILE = Path(__file__).with_name("published.json")


@cache
def published() -> dict[str, Any]:
    """The contents of `published.json`: `figures`, the `reasons` of their tolerances, and what they need."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def as_results() -> dict[str, Any]:
    """The published figures at their places in a results dict: `as_results()["V4"]["cumulative"][3]["ratio"]`.

    Figures that are computed from others, and those that have no place, are left out; so are all intervals. The ladders
    of the earlier phases, published as PPL, also get their ratios.
    """
    found: dict[str, Any] = {"setup": {"relu_counts": [30, 70], "context_lengths": [128, 256, 512, 1024]}}
    found["P3"] = {"n": [1, 2, 3, 5]}
    found["P4"] = {"lengths": found["setup"]["context_lengths"]}
    for figure in published()["figures"]:
        if figure["path"] and " " not in figure["path"]:
            _place(found, parse(figure["path"]), figure["published"])
    phases = found["phases"]
    for mode in ("zero", "mean", "relu", "mix"):
        for row in phases[mode]["cumulative"]:
            row["ratio"] = row["ppl"] / phases["baseline_ppl"]
    return found


@cache
def _results() -> dict[str, Any]:
    return as_results()


def value(path: str) -> Any:
    """The published figure for a path into the results, None where the write-up states none.

    The write-up states a few figures of each section, so here a key that is not there is no mistake.
    """
    steps = parse(path)
    try:
        return follow(_results(), steps, path)[1]
    except InputError:
        return None


def _place(data: Any, steps: tuple[Step, ...], value: float) -> None:
    """Puts `value` where `steps` lead from `data`, making the dicts, lists and rows on the way."""
    step, *rest = steps
    filler: Any = {} if rest and isinstance(rest[0], Key) else []
    if isinstance(step, Where):
        wanted = {key: int(word) if word.isdigit() else word for key, word in step.wanted}
        row = next((row for row in data if wanted.items() <= row.items()), None)
        if row is None:
            row = wanted
            data.append(row)
        _place(row, tuple(rest), value)
    elif isinstance(step, Index):
        data.extend([None] * (step.number + 1 - len(data)))
        if not rest:
            data[step.number] = value
        else:
            data[step.number] = filler if data[step.number] is None else data[step.number]
            _place(data[step.number], tuple(rest), value)
    elif rest:
        _place(data.setdefault(step.name, filler), tuple(rest), value)
    else:
        data[step.name] = value
