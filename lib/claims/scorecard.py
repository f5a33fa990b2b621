"""The published figures against the measured ones.

`python -m lib.claims.scorecard PROFILE` (or a folder `results/data`) prints the table and exits 1 on a miss, or where
the measured figures contradict each other.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal

from lib.analysis import flops
from lib.claims.audit import audit, unlike
from lib.errors import InputError
from lib.results import io
from lib.results.diff import data_folder
from lib.results.published import published
from lib.results.query import NotThere, evaluate, lookup
from lib.results.sections import Results
from lib.results.sections.conclusions import Scorecard, ScoreRow

COST_AS: dict[str | None, Callable[[float], float]] = {
    None: lambda ratio: ratio,
    "1 - x": lambda ratio: 1 - ratio,
    "extra_tokens": flops.extra_tokens,
}


def by_arithmetic(figure: Mapping[str, Any]) -> float:
    """A figure of the cost model, computed for GPT-2 small's shape whatever was measured."""
    name, *arguments = figure["cost"]
    return COST_AS[figure.get("cost_as")](getattr(flops, name)(*arguments))


def score(measured: Results) -> Scorecard:
    """Every published figure beside the measured one.

    `total` counts the rows that were reproduced, differ or are missing: not measured, or null. Without GPT-2 small on
    WikiText-2 (`counts` false) only the cost model is compared, for GPT-2's shape; `reason` is then "model" or
    "corpus". Raises `InputError` for a key that the results should have.
    """
    reason = _why_not(measured)
    rows = [_row(figure, measured, reason is None) for figure in published()["figures"]]
    verdicts = [row["verdict"] for row in rows]
    return {
        "rows": rows,
        "reproduced": verdicts.count("reproduced"),
        "total": len(rows) - verdicts.count("not comparable"),
        "missing": [row["id"] for row in rows if row["verdict"] == "missing"],
        "differing": [row["id"] for row in rows if row["verdict"] == "differs"],
        "counts": reason is None,
        "reason": reason,
    }


def _why_not(measured: Results) -> Literal["model", "corpus"] | None:
    if not measured["setup"]["model"]["is_gpt2_small"]:
        return "model"
    return None if measured["setup"]["corpus"]["n_tokens"] == published()["corpus_tokens"] else "corpus"


def _row(figure: Mapping[str, Any], measured: Results, counts: bool) -> ScoreRow:
    tolerance: float | None = figure["tolerance"]
    value: float | None = None
    if counts and figure["path"]:
        value = _there(evaluate, measured, figure["path"])
    elif "cost" in figure:
        value = by_arithmetic(figure)
    if figure["kind"] == "sampled" and counts:
        ends = _there(lookup, measured, figure["ci"])
        tolerance = None if not ends or None in ends else ends[1] - ends[0]
    difference = None if value is None else value - figure["published"]
    verdict: Literal["reproduced", "differs", "missing", "not comparable"]
    if figure["kind"] == "machine" or not (counts or "cost" in figure) or (counts and not _fits(figure, measured)):
        verdict = "not comparable"
    elif difference is None or tolerance is None:
        verdict = "missing"
    else:
        verdict = "reproduced" if abs(difference) <= tolerance * (1 + 1e-9) + 1e-12 else "differs"
    return {
        "id": figure["id"],
        "section": figure["section"],
        "printed": figure["printed"],
        "published": figure["published"],
        "kind": figure["kind"],
        "reason": figure["reason"],
        "measured": value,
        "difference": difference,
        "tolerance": tolerance,
        "verdict": verdict,
    }


def _there(read: Callable[[Mapping[str, Any], str], Any], measured: Results, path: str) -> Any:
    """What is read at a path; None for a section or a row that this run does not have."""
    try:
        return read(measured, path)
    except NotThere:
        return None


def _fits(figure: Mapping[str, Any], measured: Results) -> bool:
    """Whether the run has the tokens and lengths that the figure was published for."""
    for path, wanted in published()["needs"].get(figure.get("needs"), {}).items():
        value = _there(lookup, measured, path)
        if isinstance(wanted, Mapping):
            if value is None or value < wanted["min"]:
                return False
        elif value is not None and value != wanted:
            return False
    return True


def _number(value: float | None, sign: str = "") -> str:
    return "—" if value is None else f"{value:{sign}.6g}"


def table(card: Scorecard) -> str:
    """The scorecard as text: one line a figure, and the count."""
    lines = [f"{'figure':34} {'published':>12} {'measured':>12} {'difference':>12} {'tolerance':>11}  verdict"]
    lines += [
        f"{row['id']:34} {_number(row['published']):>12} {_number(row['measured']):>12} "
        f"{_number(row['difference'], '+'):>12} {_number(row['tolerance']):>11}  {row['verdict']}"
        for row in card["rows"]
        if row["verdict"] != "not comparable" or card["counts"]
    ]
    return "\n".join([*lines, headline(card)])


def headline(card: Scorecard) -> str:
    """The one line: k of n reproduced, or why the card does not count."""
    k, n = card["reproduced"], card["total"]
    if card["reason"] is None:
        return f"{k} of {n} reproduced"
    why = {
        "model": "the model is not GPT-2 small",
        "corpus": "the corpus is not WikiText-2's validation split",
    }[card["reason"]]
    return f"does not count, because {why}; of the cost model, which no weight enters, {k} of {n} reproduced"


def main(arguments: list[str]) -> int:
    """0 where everything comparable is reproduced and nothing contradicts itself, 1 on a miss, 2 on bad input."""
    if len(arguments) != 1:
        print("usage: python -m lib.claims.scorecard PROFILE, or a folder results/data", file=sys.stderr)
        return 2
    try:
        folder = data_folder(arguments[0])
        measured = io.load(folder)
        card, wrong = score(measured), audit(folder)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if "conclusions" in measured:
        kept = measured["conclusions"]["scorecard"]
        wrong += [f"sections: {line}" for line in unlike(io.plain(card), kept, "conclusions.scorecard")]
    print(table(card))
    for line in wrong:
        print(f"contradiction: {line}")
    for row in card["rows"]:
        if row["verdict"] in ("differs", "missing"):
            print(f"{row['verdict']}: {row['id']}: published {row['printed']}, measured {_number(row['measured'])}")
    return 1 if wrong or card["differing"] or card["missing"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
