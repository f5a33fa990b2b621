"""What Part R holds: thinking aloud, scale, training after the replacement."""

from typing import Annotated, Any, Literal, TypedDict

from lib.results.sections.terms import Asked, Count, Figures, Interval, Keep, Kept, Pair, Positive


class ThinkingModel(TypedDict):
    name: str
    commit: str | None
    fingerprint: str
    n_layer: int
    n_head: int
    n_heads: int
    n_params: int


class ThinkingLevel(TypedDict):
    """`kinds` are pairs of a kind of problem and its length."""

    level: str
    kinds: list[list[Any]]


class LoneHead(TypedDict):
    """One head alone: the change in NLL under ReLU, and in accuracy at once when it is zeroed."""

    layer: Count
    head: Count
    delta_nll: float
    zeroed: float
    zeroed_ci: Interval


class Comparison(TypedDict):
    """A difference of accuracies on the same problems, and McNemar's exact p."""

    difference: float
    difference_ci: Interval
    p: float
    verdict: Literal["above", "alike", "below"]


class EqualFlopsThinking(Comparison):
    """Thinking against the vote of as many of the untouched model's answers at once as its FLOPs pay for."""

    flops: Positive
    votes: Count
    rival_flops: Positive
    rival: float
    rival_ci: Interval


class Spent(TypedDict):
    tokens: Positive
    flops: Positive


class ThinkingRung(TypedDict):
    """Accuracies of all ways of answering; lists go with rounds of revising, or with numbers of samples."""

    n_linearized: Count
    answer: float
    answer_ci: Interval
    think: float
    think_ci: Interval
    cost: dict[str, Spent]
    revise: Figures
    revise_ci: list[Interval]
    revise_flops: Figures
    revise_tokens: Figures
    vote_answer: Figures
    vote_answer_ci: list[Interval]
    vote_answer_flops: Figures
    vote_answer_tokens: Figures
    best_answer: Figures
    best_answer_ci: list[Interval]
    best_answer_flops: Figures
    best_answer_tokens: Figures
    vote_think: Figures
    vote_think_ci: list[Interval]
    vote_think_flops: Figures
    vote_think_tokens: Figures
    best_think: Figures
    best_think_ci: list[Interval]
    best_think_flops: Figures
    best_think_tokens: Figures
    answer_against_answer: Comparison
    think_against_answer: Comparison
    think_against_think: Comparison
    revised_against_first: Comparison
    equal_flops: EqualFlopsThinking


class ThinkingAtLevel(TypedDict):
    level: str
    n_linearized: Count
    n_problems: Count
    answer: float
    answer_ci: Interval
    think: float
    think_ci: Interval


class ThinkingReach(TypedDict):
    """Heads up to which thinking is above, or not shown to be below, the untouched model's answers at once."""

    above: int | None
    not_below: int | None


class AnswerSeconds(TypedDict):
    way: Literal["answer", "think"]
    n_linearized: Count
    n_problems: Count
    new_tokens: Count
    ms: Positive
    ms_ci: Interval


class ThinkingSample(TypedDict):
    n_linearized: Count
    prompt: str
    text: str


class R2(TypedDict):
    model: ThinkingModel
    levels: list[ThinkingLevel]
    n_problems: Count
    n_ranking_problems: Count
    n: list[int]
    revisions: Count
    temperature: Positive
    heads: list[LoneHead]
    ranking: list[Pair]
    rungs: list[ThinkingRung]
    by_level: list[ThinkingAtLevel]
    reach: ThinkingReach
    third: Count
    seconds: list[AnswerSeconds]
    samples: list[ThinkingSample]
    asked: list[Asked]


HALF = Keep(propertyNames={"pattern": "^(half|\\d+\\.\\d+)$"}, required=["half"])
Shares = Annotated[dict[str, float], HALF]
ShareIntervals = Annotated[dict[str, Interval], HALF]


class Sized(TypedDict):
    """A model's figures by size (`lib.analysis.scale.row`); thresholds are shares of the heads outside layer 0."""

    name: str
    n_params: int
    shares: Shares
    layer_0_share: float
    alpha: float
    last_share: float | None
    ratio_all: Positive


class FamilyMember(Sized):
    seed: int
    n_layer: int
    n_head: int
    n_embd: int
    n_params_blocks: int
    ppl: Positive
    shares_ci: ShareIntervals


class ProfileModel(Sized):
    corpus: str


class Slope(TypedDict):
    """Change of a figure for ten times the parameters; `capped`: models of which only a bound is known."""

    figure: str
    slope: float | None
    slope_ci: Interval | None
    n_models: Count
    capped: Count


class R3(TypedDict):
    kept: Kept | None
    family: list[FamilyMember]
    profiles: list[ProfileModel]
    slopes: list[Slope]
    asked: list[Asked]


class RecoveryPoint(TypedDict):
    tokens: Count
    ppl: Positive
    control_ppl: Positive
    share: float | None
    share_ci: Interval | None


class Recovered(TypedDict):
    """What an arm of training wins back with so many heads linearized (`lib.analysis.recovered.summary`)."""

    arm: Literal["all", "transfer", "low_rank"]
    n_heads: Count
    n_seeds: Count
    points: list[RecoveryPoint]
    share: float | None
    share_ci: Interval | None
    half: float | None
    half_ci: Interval | None
    nine_tenths: float | None
    nine_tenths_ci: Interval | None
    zeroed_before: Positive
    zeroed_before_ci: Interval
    zeroed_after: Positive
    zeroed_after_ci: Interval
    other_share: float | None
    other_share_ci: Interval | None
    copying_before: float
    copying_before_ci: Interval
    copying_after: float
    copying_after_ci: Interval
    control_copying_before: float
    control_copying_before_ci: Interval
    control_copying_after: float
    control_copying_after_ci: Interval


class R4(TypedDict):
    tokens: Count
    other: str
    rows: list[Recovered]
    kept: Kept | None
    kept_rows: list[Recovered]
    asked: list[Asked]
