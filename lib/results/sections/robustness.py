"""What Part S holds: orders of the heads, and what perplexity does not see."""

from typing import Annotated, Literal, TypedDict

from lib.results.sections.terms import Asked, Count, Crossings, Interval, Keep, Pair, Positive, ThresholdIntervals


class OrderWorth(TypedDict):
    """An order of the heads on text that it was not chosen on (`lib.analysis.orders`); lists go with `S1.ns`."""

    order: Literal[
        "abs_delta", "signed_delta", "kl", "gradient", "zero", "restore", "greedy", "kl_2k", "ranking", "random"
    ]
    n_windows: Count
    area: float
    area_ci: Interval
    crossings: Crossings
    crossings_ci: ThresholdIntervals
    ladder: list[Positive]
    ladder_ci: list[Interval]
    difference: float | None
    difference_ci: Interval | None


class S1(TypedDict):
    select: list[Count]
    climb: list[Count]
    order_tokens: Count
    ns: list[Count]
    scope: Literal["other_text", "these_chunks"]
    rows: Annotated[list[OrderWorth], Keep(minItems=1)]
    asked: list[Asked]


class BeyondRung(TypedDict):
    """What a rung costs beside PPL (`lib.analysis.beyond`); `first`, `second`: accuracy on the copies of a sequence."""

    n_linearized: Count
    ratio: Positive
    ratio_ci: Interval
    kl: float
    kl_ci: Interval
    agreement: float
    agreement_ci: Interval
    first: float
    first_ci: Interval
    second: float
    second_ci: Interval
    gain: float
    gain_ci: Interval
    kept: float | None
    kept_ci: Interval | None
    other_ratio: Positive
    other_ratio_ci: Interval


class S2(TypedDict):
    n_tokens: Count
    n_sequences: Count
    length: Count
    other: str
    other_tokens: Count
    rungs: Annotated[list[BeyondRung], Keep(minItems=1)]
    bins: list[Pair]
    ratios: list[list[Positive]]
    ratios_ci: list[list[Interval]]
    kept_limit: float
    told_limit: float
    first_broken: Count | None
    first_told: Count | None
    asked: list[Asked]
