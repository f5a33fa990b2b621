"""The published figures against the measured ones.

`python -m lib.claims.scorecard PROFILE` (or a folder `results/data`) prints the table and exits 1 on a miss, or where
the measured figures contradict each other.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from lib.analysis import flops
from lib.claims.audit import audit, unlike
from lib.errors import InputError
from lib.results import io
from lib.results.diff import data_folder
from lib.results.published import published
from lib.results.query import evaluate, lookup


def by_arithmetic(figure: Mapping) -> float:
    """A figure of the cost model, computed for GPT-2 small's shape whatever was measured."""
    name, *arguments = figure["cost"]
    value = getattr(flops, name)(*arguments)
    return {"1 - x": lambda x: 1 - x, "extra_tokens": flops.extra_tokens}.get(figure.get("cost_as"), lambda x: x)(value)


def score(measured: Mapping) -> dict:
    """`{rows, reproduced, total, missing, differing, counts, reason}` for a `Results` dict.

    Row: id, section, printed, published, measured, difference, tolerance, kind, reason, verdict. `total` counts the
    rows that were reproduced, differ or are missing. Without GPT-2 small on WikiText-2 (`counts` false) only the cost
    model is compared, for GPT-2's shape; `reason` is then "model" or "corpus".
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


def _why_not(measured: Mapping) -> str | None:
    if not lookup(measured, "setup.model.is_gpt2_small"):
        return "model"
    tokens = lookup(measured, "setup.corpus.n_tokens")
    return None if tokens in (None, published()["corpus_tokens"]) else "corpus"


def _row(figure: Mapping, measured: Mapping, counts: bool) -> dict:
    tolerance = figure["tolerance"]
    value = None
    if counts and figure["path"]:
        value = evaluate(measured, figure["path"])
    elif "cost" in figure:
        value = by_arithmetic(figure)
    if figure["kind"] == "sampled" and counts:
        ends = lookup(measured, figure["ci"])
        tolerance = None if not ends or None in ends else ends[1] - ends[0]
    difference = None if value is None else value - figure["published"]
    if figure["kind"] == "machine" or not (counts or "cost" in figure) or (counts and not _fits(figure, measured)):
        verdict = "not comparable"
    elif value is None or tolerance is None:
        verdict = "missing"
    else:
        verdict = "reproduced" if abs(difference) <= tolerance * (1 + 1e-9) + 1e-12 else "differs"
    shared = {key: figure[key] for key in ("id", "section", "printed", "published", "kind", "reason")}
    return {**shared, "measured": value, "difference": difference, "tolerance": tolerance, "verdict": verdict}


def _fits(figure: Mapping, measured: Mapping) -> bool:
    """Whether the run has the tokens and lengths that the figure was published for."""
    for path, wanted in published()["needs"].get(figure.get("needs"), {}).items():
        value = lookup(measured, path)
        if isinstance(wanted, Mapping):
            if value is None or value < wanted["min"]:
                return False
        elif value is not None and value != wanted:
            return False
    return True


def _number(value, sign: str = "") -> str:
    return "—" if value is None else f"{value:{sign}.6g}"


def table(card: Mapping) -> str:
    """The scorecard as text: one line a figure, and the count."""
    lines = [f"{'figure':34} {'published':>12} {'measured':>12} {'difference':>12} {'tolerance':>11}  verdict"]
    lines += [
        f"{row['id']:34} {_number(row['published']):>12} {_number(row['measured']):>12} "
        f"{_number(row['difference'], '+'):>12} {_number(row['tolerance']):>11}  {row['verdict']}"
        for row in card["rows"]
        if row["verdict"] != "not comparable" or card["counts"]
    ]
    return "\n".join([*lines, headline(card)])


def headline(card: Mapping) -> str:
    """The one line: k of n reproduced, or why the card does not count."""
    k, n = card["reproduced"], card["total"]
    if card["counts"]:
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
    kept = lookup(measured, "conclusions.scorecard")
    if kept:
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
