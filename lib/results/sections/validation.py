"""What the earlier phases and Part V hold: heads changed one at a time and piled up, on 2K and on full tokens."""

from typing import Annotated, Literal, TypedDict

from lib.results.sections.terms import (
    Count,
    Crossings,
    Interval,
    Keep,
    Kept,
    Pair,
    Positive,
    ThresholdIntervals,
    Thresholds,
)


class Coverage(TypedDict):
    """A figure on every window of the 2K's size (`windows.coverage`): how many of the intervals hold the full value."""

    what: str
    covered: float
    n_windows: Count
    n_disjoint: Count
    percentile: float
    quick: float
    full: float
    lowest: float
    median: float
    highest: float


class PairedModes(TypedDict):
    """ReLU minus another mode, head by head (`head_effects.paired`)."""

    mean: float
    mean_ci: Interval
    median: float
    median_ci: Interval
    lower: Count
    of: Count


class PairedWith(TypedDict):
    l1: PairedModes
    identity: PairedModes


class HeadEffect(TypedDict):
    """A head changed alone: PPL and relative ΔPPL, paired."""

    layer: Count
    head: Count
    ppl: Positive
    delta: float
    delta_ci: Interval


class Summary(TypedDict):
    """Counts and moments of the heads' ΔPPLs."""

    under_1pct: Count
    under_10pct: Count
    negative: Count
    mean: float
    median: float
    max: float


class PileStep(TypedDict):
    """The first n heads of an order changed together; `ratio` is PPL over the baseline's."""

    n: Count
    ppl: Positive
    ppl_ci: Interval
    ratio: Positive
    ratio_ci: Interval


class Pile(TypedDict):
    cumulative: Annotated[list[PileStep], Keep(minItems=1)]
    thresholds: Thresholds
    thresholds_ci: ThresholdIntervals
    crossings: Crossings
    crossings_ci: ThresholdIntervals


class RankLaw(TypedDict):
    """|ΔPPL| = C · rank^−alpha; null where fewer than three heads are ranked."""

    alpha: float | None
    C: float | None
    r2: float | None


class Scan(TypedDict):
    """One mode, head by head."""

    heads: Annotated[list[HeadEffect], Keep(minItems=1)]
    summary: Summary


class PiledScan(Scan, Pile):
    pass


class Ablation(PiledScan):
    layer_means: list[float]
    rank_law: RankLaw
    top: list[HeadEffect]


class BestMode(TypedDict):
    layer: Count
    head: Count
    mode: Literal["relu", "l1", "identity"]
    delta: float


class ModeCounts(TypedDict):
    relu: Count
    l1: Count
    identity: Count


class Mix(Pile):
    """Each head by the mode that does it the least harm."""

    best: list[BestMode]
    counts: ModeCounts
    mean: float


class Saving(TypedDict):
    n: Count
    saved: float


class Phases(TypedDict):
    """Phases 1 to 2, on the 2K tokens; `ranking` is all heads but layer 0's by ReLU's |ΔPPL|, smallest first."""

    baseline_ppl: Positive
    baseline_ppl_ci: Interval
    zero: Ablation
    mean: Ablation
    relu: PiledScan
    l1: Scan
    identity: Scan
    mix: Mix
    factored: Pile
    ranking: list[Pair]
    flops_saved: list[Saving]
    paired: PairedWith
    layer0_share: float
    layer0_share_ci: Interval
    alpha_ci: Interval


class Sampling(TypedDict):
    """How far the PPL of so few chunks lies from the full set's because they are few (`quick_vs_full.sampling`)."""

    spread: Interval
    spread_random: Interval
    percentile: float
    percentile_random: float
    share_as_far: float
    typical_shift: float
    observed_shift: float
    explained: bool
    n_windows: int
    n_random: int


class V1(TypedDict):
    ppl_2k: Positive
    ppl_2k_ci: Interval
    ppl_full: Positive
    ppl_full_ci: Interval
    change: float
    change_ci: Interval
    n_chunks_2k: Annotated[int, Keep(minimum=1)]
    n_chunks: Annotated[int, Keep(minimum=1)]
    tokens_2k: Annotated[int, Keep(minimum=2)]
    total_tokens: Annotated[int, Keep(minimum=2)]
    sampling: Sampling
    chunk_ppl: list[Positive]
    ppl_rest: Positive | None
    ppl_rest_ci: Interval | None
    coverage: list[Coverage]


class TopHead(TypedDict):
    """A head zeroed, on the 2K, on the full tokens and on these without the 2K; rank 1 does the most harm.

    rank_all: on the full tokens among these heads and those that the 2K missed.
    """

    layer: Count
    head: Count
    rank_2k: int
    rank_full: int
    rank_full_ci: Interval
    rank_all: int
    rank_all_ci: Interval
    ppl_2k: Positive
    delta_ppl_2k: float
    delta_ppl_2k_ci: Interval
    ppl_full: Positive
    delta_ppl_full: float
    delta_ppl_full_ci: Interval
    delta_ppl_rest: float | None
    delta_ppl_rest_ci: Interval | None


class ScannedHead(TypedDict):
    layer: Count
    head: Count
    delta: float
    delta_ci: Interval
    rank: Count


class MissedHead(TypedDict):
    """A head that the scan counts among the most harmful and the 2K does not."""

    layer: Count
    head: Count
    rank_2k: Count
    rank_scan: Count
    delta_2k: float
    delta_2k_ci: Interval
    delta_scan: float
    delta_scan_ci: Interval
    delta_full: float
    delta_full_ci: Interval


class HeadScan(TypedDict):
    """Every head zeroed on some chunks of the full tokens."""

    chunks: list[Count]
    heads: list[ScannedHead]
    missed: list[MissedHead]


class KeptHead(TypedDict):
    """A head zeroed on all full tokens in a kept study; `rank_ci` over documents, `_2k` on the quick set."""

    layer: Count
    head: Count
    delta: float
    delta_ci: Interval
    rank: Count
    rank_ci: Interval
    delta_2k: float
    rank_2k: Count


class KeptHeads(TypedDict):
    """The most harmful of all heads, each zeroed once on all full tokens, and kept (`head_effects.kept`)."""

    about: Kept
    model: str
    text: str
    n_chunks: Count
    n_heads: Count
    rows: list[KeptHead]


class RanksByChunk(TypedDict):
    """Intervals on the full tokens with each chunk as a unit; `rank_all_ci` goes with `V2.top10`."""

    rank_all_ci: list[Interval]
    spearman_ci: Interval | None


class V2(TypedDict):
    top10: Annotated[list[TopHead], Keep(minItems=1)]
    same_top: bool
    top5_same_set: bool
    moved: list[TopHead]
    spearman: float | None
    spearman_ci: Interval | None
    lead: float | None
    first_full: TopHead
    coverage: list[Coverage]
    scan: HeadScan | None
    kept_heads: KeptHeads | None
    by_chunk: RanksByChunk


class FocusByChunk(TypedDict):
    """Intervals on the full tokens with each chunk as a unit."""

    zero_delta_ppl_full_ci: Interval
    constant_share_full_ci: Interval | None
    constant_share_change_ci: Interval | None


class V3(TypedDict):
    layer: Count
    head: Count
    zero_delta_ppl_2k: float
    zero_delta_ppl_2k_ci: Interval
    mean_delta_ppl_2k: float
    mean_delta_ppl_2k_ci: Interval
    reduction_2k: float | None
    reduction_2k_ci: Interval
    constant_share_2k: float | None
    constant_share_2k_ci: Interval | None
    zero_delta_ppl_full: float
    zero_delta_ppl_full_ci: Interval
    mean_delta_ppl_full: float
    mean_delta_ppl_full_ci: Interval
    reduction_full: float | None
    reduction_full_ci: Interval
    constant_share_full: float | None
    constant_share_full_ci: Interval | None
    constant_share_change: float | None
    constant_share_change_ci: Interval | None
    zero_delta_ppl_rest: float | None
    zero_delta_ppl_rest_ci: Interval | None
    mean_delta_ppl_rest: float | None
    mean_delta_ppl_rest_ci: Interval | None
    by_chunk: FocusByChunk
    coverage: list[Coverage]


class Rung(TypedDict):
    """A step of the ladder of V4."""

    n_linearized: Count
    ppl: Positive
    ppl_ci: Interval
    ratio: Positive
    ratio_ci: Interval


class Drift(TypedDict):
    """A rung in the run's dtype beside float32."""

    n_linearized: Count
    ppl: Positive
    ppl_exact: Positive
    ppl_drift: float
    delta: float
    delta_exact: float
    delta_drift: float


class LadderCoverage(TypedDict):
    """Coverage of each rung's ratio, and of each limit's threshold and crossing."""

    ratios: list[Coverage]
    thresholds: list[Coverage]
    crossings: list[Coverage]


class OtherText(TypedDict):
    """The ladder on the chunks that share no document with the 2K."""

    n_chunks: Count
    cumulative: list[Rung]
    crossings: Crossings
    crossings_ci: ThresholdIntervals


class FittedWindow(TypedDict):
    """A window's own ranking: ratios at each rung on its own text and on the others'; `shared`: heads that the first
    rung of the conditions has in common with the 2K's ranking."""

    start: Count
    in_sample: list[Positive]
    elsewhere: list[Positive]
    shared: Count


class Optimism(TypedDict):
    """By how much a ratio is lower on the text that its ranking was made on."""

    n: Count
    excess: float
    excess_ci: Interval


class CrossFit(TypedDict):
    """`shifts`: the crossings on other text minus those on the 2K."""

    windows: list[FittedWindow]
    optimism: list[Optimism]
    crossings_sd: Crossings
    crossings: Crossings
    crossings_ci: ThresholdIntervals
    shifts: Crossings
    shifts_ci: ThresholdIntervals


class AgainstReLU(TypedDict):
    """ReLU's PPL ratio minus a control's on the same heads, paired."""

    n: Count
    difference: float
    difference_ci: Interval


class Control(TypedDict):
    control: str
    cumulative: list[PileStep]
    crossings: Crossings
    crossings_ci: ThresholdIntervals
    against_relu: list[AgainstReLU]


class Controls(TypedDict):
    chunks: list[Count]
    rows: list[Control]


class CrossingsByChunk(TypedDict):
    """Intervals on the full tokens with each chunk as a unit."""

    crossings_full_ci: ThresholdIntervals
    shifts_ci: ThresholdIntervals


class V4(TypedDict):
    audit: list[Drift]
    cumulative: Annotated[list[Rung], Keep(minItems=1)]
    cumulative_2k: Annotated[list[Rung], Keep(minItems=1)]
    factored: list[Rung]
    thresholds_2k: Thresholds
    thresholds_full: Thresholds
    thresholds_2k_ci: ThresholdIntervals
    thresholds_full_ci: ThresholdIntervals
    crossings_2k: Crossings
    crossings_full: Crossings
    crossings_2k_ci: ThresholdIntervals
    crossings_full_ci: ThresholdIntervals
    shifts: Crossings
    shifts_ci: ThresholdIntervals
    by_chunk: CrossingsByChunk
    coverage: LadderCoverage
    elsewhere: OtherText | None
    cross_fit: CrossFit | None
    controls: Controls | None


class ComparedFigure(TypedDict):
    """A figure named `ppl`, `zero:L0H8`, `focus:mean` or `ratio:30`, and its relative difference."""

    what: str
    quick: float | None
    full: float | None
    difference: float | None


class Driver(TypedDict):
    what: str
    difference: float


class CoverageOfKind(TypedDict):
    """How often intervals of one kind of figure hold the full value (`windows.by_kind`)."""

    kind: str
    n: Count
    lowest: float
    mean: float
    highest: float


class WindowsOfSize(TypedDict):
    """The windows of a kept study; by documents under `quick` and `full`, each chunk a unit under `by_chunk`."""

    name: Literal["quick", "full", "by_chunk"]
    n_window: Count
    n_disjoint: Count
    kinds: list[CoverageOfKind]


class KeptCoverage(TypedDict):
    """Coverage measured once on more chunks, and kept (`windows.kept`)."""

    about: Kept
    model: str
    text: str
    n_chunks: Count
    n_documents: Count
    windows: list[WindowsOfSize]


class V5(TypedDict):
    comparisons: Annotated[list[ComparedFigure], Keep(minItems=1)]
    mean_diff_pct: float
    median_diff_pct: float
    drivers: list[Driver]
    mean_without_drivers_pct: float | None
    counted_twice: list[str]
    mean_counted_once_pct: float | None
    bias: Literal["optimistic", "pessimistic", "agree"]
    conclusions_maintained: bool
    thresholds_2k: Thresholds
    thresholds_full: Thresholds
    max_threshold_shift: Count
    coverage: list[CoverageOfKind]
    kept_coverage: KeptCoverage | None
