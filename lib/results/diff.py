"""Two runs side by side: what they measured, the figures with their intervals, and the claims.

`python -m lib.results.diff A B`, two profiles, packs or folders `results/data`, lists what differs and has an interval
or is a word; `--all` lists every figure.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, cast

from lib.archive import Archive
from lib.errors import InputError, steady
from lib.layout import build_root
from lib.params import is_profile_name, near
from lib.results import io

if TYPE_CHECKING:
    from lib.results.sections import Results

NAMING = (("condition",), ("protocol",), ("what",), ("layer", "head"), ("n_linearized",), ("n",), ("backend",))
SETTINGS = ("parameters", "model.name", "model.fingerprint", "corpus.name", "corpus.fingerprint", "device", "backend")
PACKED = "results/data/sections/"  # where a pack has its sections
TEXTS = ("samples", "human")
SINGLE_HEADS = ("heads", "best", "ranking", "chunk_ppl")
ORDER = ("V1", "V2", "V3", "V4", "V5", "P1", "P2", "P3", "P4", "phases")
APART, OVERLAP = "apart", "overlap"
NOT_THERE = object()


@dataclass(frozen=True)
class Figure:
    """One place of the results in two runs; an interval is None where a run gives none."""

    path: str
    a: object
    b: object
    a_ci: list[float | None] | None = None
    b_ci: list[float | None] | None = None

    @property
    def differs(self) -> bool:
        return self.a != self.b

    @property
    def is_headline(self) -> bool:
        """Whether it has an interval or is a word, and does not belong to the tables of every head."""
        steps = {step.split("[")[0] for step in self.path.split(".")}
        return not steps & {*SINGLE_HEADS} and (self.intervals is not None or not is_number(self.a))

    @property
    def relative(self) -> float | None:
        """B / A - 1; None where a figure is no number, or A is 0 and B is not."""
        if not (is_number(self.a) and is_number(self.b)):
            return None
        if self.a == self.b:
            return 0.0
        return self.b / self.a - 1 if self.a else None

    @property
    def intervals(self) -> str | None:
        """Whether the two intervals share a point; an end of None reaches to infinity."""
        if self.a_ci is None or self.b_ci is None:
            return None
        (a_low, a_high), (b_low, b_high) = self.a_ci, self.b_ci
        below = a_high is not None and b_low is not None and a_high < b_low
        above = b_high is not None and a_low is not None and b_high < a_low
        return APART if below or above else OVERLAP


@dataclass(frozen=True)
class Comparison:
    """What `compare` finds: `settings` and `claims` map a name to the two runs' values."""

    settings: dict[str, tuple[Any, Any]]
    figures: list[Figure]
    claims: dict[str, tuple[str | None, str | None]]
    only_a: list[str]
    only_b: list[str]

    @property
    def changed_claims(self) -> list[str]:
        return [name for name, sides in self.claims.items() if None not in sides and sides[0] != sides[1]]


def compare(a: Mapping[str, Any], b: Mapping[str, Any]) -> Comparison:
    """Compares two `{section: data}`; generated texts are left out."""
    found = Comparison({}, [], {}, [], [])
    for name in dict.fromkeys((*ORDER, *sorted({*a, *b}))):
        if name not in ("setup", "conclusions") and (name in a or name in b):
            for figure in walk(name, a.get(name, NOT_THERE), b.get(name, NOT_THERE)):
                if figure.b is NOT_THERE:
                    found.only_a.append(figure.path)
                elif figure.a is NOT_THERE:
                    found.only_b.append(figure.path)
                else:
                    found.figures.append(figure)
    for figure in walk("", a.get("setup", {}), b.get("setup", {})):
        name = figure.path.removeprefix(".")
        if figure.differs and name.startswith(SETTINGS):
            found.settings[name.removeprefix("parameters.")] = (figure.a, figure.b)
    verdicts = [{c["id"]: c["verdict"] for c in x.get("conclusions", {}).get("claims", [])} for x in (a, b)]
    found.claims.update({name: tuple(v.get(name) for v in verdicts) for name in {**verdicts[0], **verdicts[1]}})
    return found


def walk(path: str, a: Any, b: Any, a_ci: Any = None, b_ci: Any = None) -> Iterator[Figure]:
    """Every leaf of two results as a `Figure`; rows of a list meet by what names them, not by their place."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys((*a, *b)):
            if key in TEXTS or key.endswith("_ci") and (key.removesuffix("_ci") in a or key.removesuffix("_ci") in b):
                continue
            step = f".{key}" if key.isidentifier() else f"[{key}]"
            sides = (
                x.get(f"{key}_ci") if f"{key}_ci" in x else ci.get(key) if isinstance(ci, Mapping) else None
                for x, ci in ((a, a_ci), (b, b_ci))
            )
            yield from walk(path + step, a.get(key, NOT_THERE), b.get(key, NOT_THERE), *sides)
    elif isinstance(a, list) and isinstance(b, list):
        keys = naming(a, b)
        a, b, a_ci, b_ci = (keyed(rows, keys) for rows in (a, b, a_ci, b_ci))
        for step in dict.fromkeys((*a, *b)):
            yield from walk(path + step, a.get(step, NOT_THERE), b.get(step, NOT_THERE), a_ci.get(step), b_ci.get(step))
    else:
        yield Figure(path, a, b, pair(a_ci), pair(b_ci))


def naming(a: list[Any], b: list[Any]) -> tuple[str, ...] | None:
    """The fewest of `NAMING` that tell the rows of both lists apart; None for lists that are told by their index."""
    rows = a + b
    if not rows or not all(isinstance(row, Mapping) for row in rows):
        return None
    keys: tuple[str, ...] = ()
    for more in NAMING:
        if all(key in row for row in rows for key in more):
            keys += more
            if all(len({tuple(row[key] for key in keys) for row in side}) == len(side) for side in (a, b)):
                return keys
    return None


def keyed(rows: Any, keys: tuple[str, ...] | None) -> dict[str, Any]:
    """`{"[n_linearized=30]": row without that key}`, or `{"[2]": item}` without keys."""
    if not isinstance(rows, list):
        return {}
    if keys is None:
        return {f"[{i}]": row for i, row in enumerate(rows)}
    return {
        "[" + ",".join(f"{key}={row[key]}" for key in keys) + "]": {k: v for k, v in row.items() if k not in keys}
        for row in rows
    }


def pair(ci: Any) -> list[float | None] | None:
    return ci if isinstance(ci, list) and len(ci) == 2 and all(end is None or is_number(end) for end in ci) else None


def is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def results_of(name: str) -> Results:
    """`{section: data}` of a profile, of a folder `results/data` or of a pack."""
    if not name.endswith(".zip"):
        return io.load(data_folder(name))
    with Archive(Path(name)) as archive:
        return cast("Results", {record["section"]: record["data"] for record in packed(archive).values()})


def packed(archive: Archive) -> dict[str, dict[str, Any]]:
    """`{path: record}` of the sections in a pack, by their schema. Raises `InputError` where one is none."""
    found = {}
    for path in archive.names:
        if path.startswith(PACKED):
            where = f"{archive.path.name}: {path}"
            try:
                found[path] = io.parsed(archive.read(path), where, "section")
            except ValueError as error:
                raise error if isinstance(error, InputError) else InputError(f"{where}: damaged ({error})") from None
    return found


def data_folder(name: str) -> Path:
    """The folder `results/data` of a profile, or one given as such. Raises `InputError` where it holds no results."""
    folder = Path(name)
    if is_profile_name(name) and not (folder / "sections").is_dir():
        folder = build_root() / name / "results" / "data"
    if not any((folder / "sections").glob("*.json")):
        here = measured_profiles()
        raise InputError(
            f"{name!r} has no results{near(name, here)}; there are those of {', '.join(here) or 'no profile'};"
            " make them with `make report PROFILE=…`"
        )
    return folder


def measured_profiles() -> list[str]:
    return sorted(path.parents[2].name for path in build_root().glob("*/results/data/sections"))


def table(found: Comparison, a: str, b: str, everything: bool = False) -> str:
    """The comparison as text: settings that differ, figures, claims, and one line that counts."""
    settings: list[tuple[str, ...]] = [
        ("setting", a, b),
        *((name, *map(shown, sides)) for name, sides in found.settings.items()),
    ]
    figures: list[tuple[str, ...]] = [("figure", a, b, f"{b} / {a} - 1", "intervals")]
    for figure in found.figures:
        if everything or figure.differs and figure.is_headline:
            relative = "" if figure.relative is None else f"{figure.relative:+.2%}"
            figures.append((figure.path, shown(figure.a), shown(figure.b), relative, figure.intervals or ""))
    claims: list[tuple[str, ...]] = [("claim", a, b, "")]
    changed = found.changed_claims
    claims += [(name, *map(shown, sides), "changed" * (name in changed)) for name, sides in found.claims.items()]
    parts = ["\n".join(columns(rows)) for rows in (settings, figures, claims) if len(rows) > 1]
    return "\n\n".join([*parts, summary(found, a, b)])


def summary(found: Comparison, a: str, b: str) -> str:
    """How much differs, in a line; where one run lacks figures, in two."""
    differ = sum(figure.differs for figure in found.figures)
    apart = sum(figure.intervals == APART for figure in found.figures)
    lines = [
        f"{differ} of {len(found.figures)} figures differ, {apart} with intervals apart; "
        f"{len(found.changed_claims)} of {len(found.claims)} claims changed"
    ]
    for name, side in ((a, found.only_a), (b, found.only_b)):
        places = list(dict.fromkeys(re.sub(r"\[\d+\]$", "", path) for path in side))
        lines += [f"only in {name}: {some(places)}"] if places else []
    return "\n".join(lines)


def some(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def columns(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows of words as lines: the first column to the left, the others to the right."""
    rows = [tuple(map(steady, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows)
    return ["  ".join(words).rstrip() for words in padded]


def shown(value: object) -> str:
    if value is None or value is NOT_THERE:
        return "—"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = " ".join(str(value).split())
    return text if len(text) <= 28 else f"{text[:27]}…"


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.results.diff", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", metavar="RUN", help="two profiles, packs or folders results/data")
    parser.add_argument("--all", action="store_true", help="every figure, also those that agree")
    args = parser.parse_args(words)
    try:
        if len(args.runs) != 2:
            raise InputError(
                f"compare: given {len(args.runs)} runs, allowed: two, as in `make diff A=embedded B=smoke`;"
                f" there are results of {', '.join(measured_profiles()) or 'no profile'}"
            )
        a, b = args.runs
        print(table(compare(*map(results_of, args.runs)), a, b, args.all))
    except InputError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
