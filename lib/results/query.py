"""Places in a results dict, written as text: `V4.cumulative[n_linearized=30].ratio`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from lib.errors import InputError

STEP = re.compile(r"\.?(?P<key>[A-Za-z_]\w*)|\[(?P<index>\d+)\]|\[(?P<where>[^\]=]+=[^\]]+)\]|\[(?P<odd_key>[^\]=]+)\]")


def lookup(data, path: str):
    """The value at `path`, or None where there is none.

    `a.b` keys, `[1.1]` a key that is no word, `[2]` an index, `[layer=0,head=8]` the first matching object of a list.
    """
    end = 0
    for step in STEP.finditer(path):
        if step.start() != end:
            break
        end = step.end()
        key = step["key"] or step["odd_key"]
        if key is not None:
            data = data.get(key) if isinstance(data, Mapping) else None
        elif not isinstance(data, list):
            return None
        elif step["index"] is not None:
            data = data[int(step["index"])] if int(step["index"]) < len(data) else None
        else:
            wanted = dict(part.split("=", 1) for part in step["where"].split(","))
            data = next((row for row in data if all(str(row.get(k)) == v for k, v in wanted.items())), None)
        if data is None:
            return None
    if end != len(path):
        raise InputError(f"path {path!r} can't be read at {path[end:]!r}; allowed: a.b  [2]  [key=value]  [1.1]")
    return data


def evaluate(data, expression: str) -> float | None:
    """Paths and numbers joined by ` / `, ` - ` or ` + `, from left to right; None where one of them is not there."""
    words = re.split(r" ([-+/]) ", expression)
    values = [float(word) if re.fullmatch(r"[\d.]+", word) else lookup(data, word) for word in words[::2]]
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
