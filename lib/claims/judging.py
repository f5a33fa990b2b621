"""How a conclusion is judged: the verdicts, comparisons of what is known with a limit, and what a claim is made of.

Every comparison is made with the 95 % interval of its figure: `holds` needs the whole interval on one side of the
limit, `fails` the whole interval on the other side, and anything between is `open`. A figure that could not be had, or
whose interval could not, is known to lie anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lib.errors import InputError
from lib.results.sections import Results
from lib.results.sections.conclusions import Kind, LimitSet
from lib.results.sections.terms import Verdict

HOLDS: Verdict = "holds"
FAILS: Verdict = "fails"
OPEN: Verdict = "open"
NOT_MEASURED: Verdict = "not measured"
VERDICTS = (HOLDS, FAILS, OPEN, NOT_MEASURED)

Ends = tuple[float, float]
Limits = Mapping[str, float]
Finding = tuple[Verdict, dict[str, Any]]
Words = tuple[str, str]
Judge = Callable[[Results, Limits], Finding]
Row = TypeVar("Row", bound=Mapping[str, Any])

ANYWHERE: Ends = (-math.inf, math.inf)


class Undefined(Exception):
    """A figure without which nothing can be told could not be had."""


@dataclass(frozen=True)
class Claim:
    """A conclusion of the published study.

    `sections` are those that `judge` reads; it maps results and limits to a verdict and the values that it was told by.
    `statement` gives the words in Japanese and English for whatever was measured; in `rule`, `{name:.0%}` is a limit.
    `published_in` names the place in the published study. `limits` are the study's own (`limit_set` "published") or
    were set when its figures were known ("after"); `others` are other values of them, to see how much hangs on each.
    `variants` judge the same claim in another way, by name. A claim of kind "arithmetic" follows from a count alone.
    """

    id: str
    sections: tuple[str, ...]
    judge: Judge
    statement: Callable[[Results], Words]
    rule: Words
    published_in: Words
    limits: Limits = field(default_factory=dict)
    others: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    limit_set: LimitSet = "none"
    variants: Mapping[str, Judge] = field(default_factory=dict)
    kind: Kind = "empirical"


def judged(claim: Claim, measured: Results, limits: Limits | None = None, variant: str = "") -> Finding:
    """A claim's verdict and evidence: `not measured` where a section is missing, `open` where a figure is null.

    limits: some other limits; variant: the name of another way to judge. Raises `InputError` for a key that the
    sections do not have.
    """
    if any(section not in measured for section in claim.sections):
        return NOT_MEASURED, {}
    judge = claim.variants[variant] if variant else claim.judge
    try:
        return judge(measured, {**claim.limits, **(limits or {})})
    except Undefined:
        return OPEN, {}
    except KeyError as key:
        raise InputError(
            f"claim {claim.id}: no {key} in {', '.join(claim.sections)}; measure anew with `make report`, "
            "or compare the rule with lib/results/sections/"
        ) from None


def above(ends: Ends, limit: float) -> Verdict:
    """Whether a figure known to lie within `ends` is above `limit`."""
    return HOLDS if ends[0] > limit else FAILS if ends[1] <= limit else OPEN


def at_most(ends: Ends, limit: float) -> Verdict:
    """Whether a figure known to lie within `ends` is `limit` or less."""
    return HOLDS if ends[1] <= limit else FAILS if ends[0] > limit else OPEN


def less(a: Ends, b: Ends) -> Verdict:
    """Whether one figure is below another, each known to lie within its ends."""
    return HOLDS if a[1] < b[0] else FAILS if a[0] >= b[1] else OPEN


def all_of(verdicts: Iterable[Verdict]) -> Verdict:
    """Fails where one fails, else open where one is open."""
    verdicts = list(verdicts)
    return FAILS if FAILS in verdicts else OPEN if OPEN in verdicts or not verdicts else HOLDS


def wilson(k: int, n: int) -> Ends:
    """Wilson's 95 % interval of the share k / n."""
    from scipy.stats import binomtest  # a second to import, and few reports have such a share

    ends = binomtest(k, n).proportion_ci(method="wilson")
    return float(ends.low), float(ends.high)


def known(figure: float | None) -> float:
    """The figure; `Undefined` where it could not be had."""
    if figure is None:
        raise Undefined
    return figure


def ends(interval: Sequence[float | None] | None) -> Ends:
    """An interval of the results with ±∞ for an end that is None; anywhere where there is none."""
    if interval is None:
        return ANYWHERE
    low, high = interval
    return (-math.inf if low is None else low, math.inf if high is None else high)


def shown(pair: Ends) -> list[float | None]:
    """Ends as the results hold them: None for what is not finite."""
    return [end if math.isfinite(end) else None for end in pair]


JUDGED_BY = {  # the interval by which a row of the results is judged
    "falls": "difference_ci",
    "gaps": "relative_ci",
    "against_baseline": "difference_ci",
    "rise_at_longest": "difference_ci",
    "longest_against_shortest": "difference_ci",
    "excess_ratios": "ratio_ci",
}


def with_units(judge: Judge, section: str, unit: str) -> Judge:
    """The same by the intervals that the section holds for another unit that is resampled, under `by_<unit>`."""

    def judged(m: Results, limits: Limits) -> Finding:
        whole: Any = m
        data = whole[section]
        own = {}
        for name, intervals in data[f"by_{unit}"].items():
            key = name.removesuffix("_ci")
            own[key] = [row | {JUDGED_BY[key]: pair} for row, pair in zip(data[key], intervals, strict=True)]
        return judge(whole | {section: data | own}, limits)

    return judged


def condition(measured: Results, rows: Sequence[Row], which: int | None) -> Row:
    """The row of the baseline (None), or of the first (0) or last (-1) of the linearized conditions."""
    name = "baseline" if which is None else f"relu_{measured['setup']['relu_counts'][which]}"
    row = next((row for row in rows if row["condition"] == name), None)
    if row is None:
        raise InputError(f"no condition {name!r} among {', '.join(row['condition'] for row in rows)}")
    return row
