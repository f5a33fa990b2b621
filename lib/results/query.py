"""Places in results, written as text, `V4.cumulative[n_linearized=30].ratio`: the one parser and reader of them.

    V1.ppl_full                              a section and its keys
    V2.top10[0]  V4.cumulative[-1].ratio     an item of a list, from the front or from the end
    phases.zero.heads[layer=0,head=8].delta  the first row of a list whose keys have these values
    V4.thresholds_full[1.1]                  a key that is no identifier

What is not there is told apart: a section that was not measured (`NotMeasured`), a row or item that this run does not
have (`NoRow`), a figure that was measured and could not be had (None, and so is all that lies under it), and a key that
results of this kind do not have, which is a mistake (`InputError`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lib.errors import InputError

Trail = tuple[str | int, ...]


@dataclass(frozen=True)
class Key:
    """A key of a dict."""

    name: str


@dataclass(frozen=True)
class Index:
    """An item of a list; of a dict, the key of that name."""

    number: int


@dataclass(frozen=True)
class Where:
    """The first row of a list in which each key has its value, as text."""

    wanted: tuple[tuple[str, str], ...]


Step = Key | Index | Where


class NotThere(InputError):
    """A place that results of this kind may have and these do not."""


class NotMeasured(NotThere):
    """The section is not there."""


class NoRow(NotThere):
    """The list is there, but not such a row."""


STEP = re.compile(r"(?P<dot>\.?)(?P<name>[A-Za-z_]\w*)|\[(?P<inside>[^\[\]]+)\]")
NUMBER = re.compile(r"-?\d{1,9}", re.ASCII)
ALLOWED = "a.b  [2]  [-1]  [key=value]  [1.1]"


def parse(path: str) -> tuple[Step, ...]:
    """The steps of a path. Raises `InputError` where it can't be read."""
    steps: list[Step] = []
    end = 0
    while end < len(path):
        found = STEP.match(path, end)
        if found is None or (found["name"] and bool(found["dot"]) != bool(end)):
            break
        steps.append(Key(found["name"]) if found["name"] else _inside(found["inside"], path))
        end = found.end()
    if end < len(path) or not steps:
        raise InputError(f"path {path!r} can't be read at {path[end:]!r}; allowed: {ALLOWED}")
    return tuple(steps)


def _inside(text: str, path: str) -> Step:
    if "=" in text:
        pairs = tuple(tuple(word.strip() for word in part.split("=", 1)) for part in text.split(","))
        if any(len(pair) != 2 or not all(pair) for pair in pairs):
            raise InputError(f"path {path!r} can't be read at {f'[{text}]'!r}; allowed: {ALLOWED}")
        return Where(pairs)  # type: ignore[arg-type]
    text = text.strip()
    if not text:
        raise InputError(f"path {path!r} can't be read at '[ ]'; allowed: {ALLOWED}")
    return Index(int(text)) if NUMBER.fullmatch(text) and str(int(text)) == text else Key(text)


def written(steps: tuple[Step, ...]) -> str:
    """The path of these steps; `parse` gives them back."""
    text = ""
    for step in steps:
        if isinstance(step, Key) and re.fullmatch(r"[A-Za-z_]\w*", step.name):
            text += f".{step.name}" if text else step.name
        elif isinstance(step, Key):
            text += f"[{step.name}]"
        elif isinstance(step, Index):
            text += f"[{step.number}]"
        else:
            text += "[" + ",".join(f"{key}={value}" for key, value in step.wanted) + "]"
    return text


def follow(
    data: Any, steps: tuple[Step, ...], path: str, substitute: Callable[[str], str] = lambda word: word
) -> tuple[Trail, Any]:
    """`(keys and indices taken, value)` from `data` along `steps`; `path` is named in errors.

    `substitute` gives a `[key=word]` another word. Raises `NoRow` for an item that is not there and `InputError` for a
    key that is not there; a None on the way ends the way.
    """
    trail: Trail = ()
    for step in steps:
        if data is None:
            return trail, None
        taken, data = _take(data, step, path, substitute)
        trail += (taken,)
    return trail, data


def _take(data: Any, step: Step, path: str, substitute: Callable[[str], str]) -> tuple[str | int, Any]:
    if isinstance(step, Key) or (isinstance(step, Index) and isinstance(data, Mapping)):
        name = step.name if isinstance(step, Key) else str(step.number)
        if not isinstance(data, Mapping) or name not in data:
            there = ", ".join(map(str, data)) if isinstance(data, Mapping) else f"a {_kind(data)}"
            raise InputError(f"{path!r}: no {name!r} there; there are {there}")
        return name, data[name]
    if not isinstance(data, (list, tuple)):
        raise InputError(f"{path!r}: {written((step,))} wants a list, this is a {_kind(data)}")
    if isinstance(step, Index):
        if not -len(data) <= step.number < len(data):
            raise NoRow(f"{path!r}: no [{step.number}] in a list of {len(data)}")
        return step.number % len(data), data[step.number]
    wanted = {key: substitute(value) for key, value in step.wanted}
    rows = [row for row in data if isinstance(row, Mapping)]
    for key in wanted:
        if rows and not any(key in row for row in rows):
            raise InputError(f"{path!r}: no row has a {key!r}; rows have {', '.join(map(str, rows[0]))}")
    for index, row in enumerate(data):
        if isinstance(row, Mapping) and all(key in row and str(row[key]) == value for key, value in wanted.items()):
            return index, row
    raise NoRow(f"{path!r}: no row with {written((step,))} among {len(data)}")


def _kind(data: Any) -> str:
    return {dict: "table of keys", list: "list", str: "text", bool: "truth value"}.get(type(data), "number")


def lookup(results: Mapping[str, Any], path: str) -> Any:
    """The value at `path` in a `{section: data}`; None for a figure that could not be had.

    Raises `NotMeasured` where the section is not there, `NoRow` where the row is not, `InputError` for a wrong key.
    """
    steps = parse(path)
    first = steps[0]
    if not isinstance(first, Key) or first.name not in results:
        there = ", ".join(map(str, results)) or "none"
        raise NotMeasured(f"{path!r}: no section {written(steps[:1])!r} was measured; there are {there}")
    return follow(results, steps, path)[1]


def evaluate(results: Mapping[str, Any], expression: str) -> float | None:
    """Paths and numbers joined by ` / `, ` - ` or ` + `, from left to right; None where one of them is None.

    Raises as `lookup` does.
    """
    words = re.split(r" ([-+/]) ", expression)
    values = [float(word) if re.fullmatch(r"\d+(\.\d+)?", word) else lookup(results, word) for word in words[::2]]
    if any(not isinstance(value, (int, float)) or not math.isfinite(value) for value in values):
        return None
    total = values[0]
    for sign, value in zip(words[1::2], values[1:], strict=True):
        if sign == "/":
            if value == 0:
                return None
            total = total / value
        else:
            total = total + value if sign == "+" else total - value
    return total
