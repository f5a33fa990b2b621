"""The published figures as data, and in the form of a results dict for tables and charts."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

from lib.results.query import STEP, lookup

FILE = Path(__file__).with_name("published.json")


@cache
def published() -> dict:
    """The contents of `published.json`: `figures`, the `reasons` of their tolerances, and what they need."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def as_results() -> dict:
    """The published figures at their places in a results dict: `as_results()["V4"]["cumulative"][3]["ratio"]`.

    Figures that are computed from others, and those that have no place, are left out; so are all intervals. The ladders
    of the earlier phases, published as PPL, also get their ratios.
    """
    found: dict = {"setup": {"relu_counts": [30, 70], "context_lengths": [128, 256, 512, 1024]}}
    found["P3"] = {"n": [1, 2, 3, 5]}
    found["P4"] = {"lengths": found["setup"]["context_lengths"]}
    for figure in published()["figures"]:
        if figure["path"] and " " not in figure["path"]:
            _place(found, figure["path"], figure["published"])
    phases = found["phases"]
    for mode in ("zero", "mean", "relu", "mix"):
        for row in phases[mode]["cumulative"]:
            row["ratio"] = row["ppl"] / phases["baseline_ppl"]
    return found


@cache
def _results() -> dict:
    return as_results()


def value(path: str):
    """The published figure for a path into the results, None where the write-up states none."""
    return lookup(_results(), path)


def _place(data, path: str, value) -> None:
    steps = [next((k, v) for k, v in step.groupdict().items() if v) for step in STEP.finditer(path)]
    for (kind, word), following in zip(steps, [*steps[1:], None], strict=True):
        filler = None if following is None else {} if following[0] in ("key", "odd_key") else []
        if kind == "where":
            wanted = {k: int(v) if re.fullmatch(r"\d+", v) else v for k, v in (p.split("=") for p in word.split(","))}
            row = next((row for row in data if wanted.items() <= row.items()), None)
            if row is None:
                row = wanted
                data.append(row)
            data = row
            continue
        if kind == "index":
            word = int(word)
            data.extend([None] * (word + 1 - len(data)))
        if following is None:
            data[word] = value
        elif kind == "index":
            data[word] = data[word] if data[word] is not None else filler
            data = data[word]
        else:
            data = data.setdefault(word, filler)
