"""What each section's results hold: one type a section, from which `schema/sections.json` is made.

A key stands in every run's results unless it is `NotRequired`; `None` is a figure that was looked for and could not be
had. An interval is `[low, high]`, 95 %, an end of None being unbounded. Changes and shares are fractions unless the
name says otherwise. After a change, `python -m lib.results.describe` writes the schema anew.
"""

from typing import Annotated, Any, Literal, NotRequired, TypedDict


class Keep:
    """What a value keeps to beyond its type, in JSON schema's words."""

    def __init__(self, **words: Any):
        self.words = words


Positive = Annotated[float, Keep(exclusiveMinimum=0)]
Count = Annotated[int, Keep(minimum=0)]
Interval = Annotated[list[float | None], Keep(minItems=2, maxItems=2)]
Pair = Annotated[list[Count], Keep(minItems=2, maxItems=2)]
Condition = Annotated[str, Keep(pattern="^(baseline|relu_\\d+)$")]
SpeedCondition = Annotated[str, Keep(pattern="^(baseline|(relu|softmax)_\\d+)$")]
Figures = Annotated[list[float | None], Keep(minItems=1)]
LIMITS = Keep(propertyNames={"pattern": "^\\d+\\.\\d+$"}, required=["1.1", "1.5", "2.0"])
Thresholds = Annotated[dict[str, Count], LIMITS]
ThresholdIntervals = Annotated[dict[str, Interval], LIMITS]
Crossings = Annotated[dict[str, float], LIMITS]


class Model(TypedDict):
    name: str
    slug: str
    family: str
    n_layer: int
    n_head: int
    n_kv_head: int
    d_head: int
    n_embd: int
    d_mlp: int
    n_positions: int
    vocab_size: int
    n_params: int
    fingerprint: str
    is_gpt2_small: bool
    stored_dtypes: list[str]


class Normalised(TypedDict):
    """Byte-order marks taken away, and CRLF made LF."""

    bom: Count
    crlf: Count


class Corpus(TypedDict):
    name: str
    split: str
    fingerprint: str
    n_tokens: int
    n_chunks: int
    normalised: Normalised


class Judge(TypedDict):
    """The second judge of P3."""

    name: str
    place: str
    fingerprint: str
    n_layer: int
    n_head: int
    n_params: int


class Resampled(TypedDict):
    """What the bootstrap resamples."""

    unit: str
    length: int | None
    n_units: int
    n_effective: float
    scope: str


class Documents(TypedDict):
    """The documents of the scored tokens; lengths in tokens."""

    unit: str
    n: int
    n_quick: int
    longest: int
    median: float
    resampled: Resampled
    resampled_quick: Resampled


class Setup(TypedDict):
    parameters: dict[str, Any]
    model: Model
    judge: Judge | None
    corpus: Corpus
    documents: Documents
    n_ctx: int
    quick_chunks: int
    full_chunks: int
    quick_tokens: int
    full_tokens: int
    n_heads: int
    n_rankable: int
    device: str
    backend: str
    ladder: list[Count]
    relu_counts: list[Count]
    context_lengths: list[int]


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


class Kept(TypedDict):
    """A dated file of the repository, from which figures that no run of the report measures are shown."""

    file: str
    date: str
    command: str
    commit: str | None
    words: str
    tokens: int


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


class SpeedRow(TypedDict):
    """Generation under one protocol; `relative` against its baseline, `against_control` against softmax in hooks."""

    condition: SpeedCondition
    n_linearized: Count
    protocol: str
    backend: str
    tok_per_s: Positive
    tok_per_s_ci: Interval
    ms_per_tok: Positive
    relative: float
    relative_ci: Interval
    against_control: float | None
    against_control_ci: Interval | None


class Speedup(TypedDict):
    n_linearized: Count
    speedup: Positive


class SpeedProtocol(TypedDict):
    n_tokens: Annotated[int, Keep(minimum=1)]
    n_runs: Annotated[int, Keep(minimum=1)]


class P1(SpeedProtocol):
    rows: Annotated[list[SpeedRow], Keep(minItems=1)]
    published_protocol: SpeedProtocol
    theory: list[Speedup]
    published_theory: list[Speedup]


class Paired(TypedDict):
    """Two conditions over the same prompts: mean of the differences, and of one mean over the other, less 1."""

    condition: Condition
    n_linearized: Count
    difference: float
    difference_ci: Interval
    relative: float
    relative_ci: Interval


class PairedPrompts(Paired):
    """`lower` is the number of prompts, `of` so many, in which the first is below; `lag1` that of the differences."""

    lower: Count
    of: Count
    lag1: float | None


class PairedIteration(PairedPrompts):
    iteration: int


class Difference(TypedDict):
    condition: Condition
    n_linearized: Count
    difference: float
    difference_ci: Interval


class ByIteration(TypedDict):
    """PPLs by iteration: means over prompts, and `[iterations][prompts]`."""

    ppl: Figures
    ppl_ci: list[Interval]
    ppl_by_prompt: list[list[float]]


class Refinement(ByIteration):
    """A condition of P2; lists are by iteration, means over prompts."""

    condition: Condition
    n_linearized: Count
    distinct_2: Figures
    longest_repeat: Figures
    repeated_4gram_share: Figures
    repeated_4gram_share_ci: list[Interval]


class Repetition(TypedDict):
    distinct_2: float
    longest_repeat: float
    repeated_4gram_share: float
    repeated_4gram_share_ci: Interval


class Human(Repetition, ByIteration):
    """The true continuation of the prompts, of as many tokens."""


class Sample(TypedDict):
    condition: Condition
    text: str


class RefinementByDocument(TypedDict):
    """Intervals with the prompts of one document as a unit, None where documents are too few; lists go with P2's."""

    falls_ci: list[Interval | None]
    gaps_ci: list[Interval | None]


class P2(TypedDict):
    iterations: Annotated[int, Keep(minimum=1)]
    n_prompts: Annotated[int, Keep(minimum=1)]
    chunks: list[Count]
    documents: list[Count]
    by_document: RefinementByDocument
    conditions: Annotated[list[Refinement], Keep(minItems=1)]
    falls: list[PairedIteration]
    gaps: list[PairedIteration]
    closings: list[Difference]
    against_human: list[PairedPrompts]
    human: Human
    samples: list[Sample]


class BestOf(TypedDict):
    """A condition of P3; lists go with `P3.n`."""

    condition: Condition
    n_linearized: Count
    first_n: Figures
    expected: Figures
    expected_ci: list[Interval]
    ppl_by_sample: list[list[float]]
    judged_by_sample: NotRequired[list[list[float]]]


class AgainstBaseline(Paired):
    """Best of `best_of` samples minus one sample of the baseline, paired by prompt."""

    best_of: int


class AtN(Paired):
    n: int


class Judged(Paired):
    """Best of `n` by one judge, scored by one: the mean, its change against one sample of the same condition, and its
    difference to one of the baseline's."""

    chosen_by: str
    scored_by: str
    n: int
    value: float
    value_ci: Interval
    gain: float
    gain_ci: Interval


class HumanText(TypedDict):
    """The true continuation's PPL, mean over prompts."""

    ppl: float
    ppl_ci: Interval
    ppl_by_prompt: list[float]


class JudgeAtWork(Judge):
    human: HumanText


class EqualFlops(TypedDict):
    """The cost model's answer for a number of heads: FLOPs after to before, and the tokens that the rest would buy."""

    n_linearized: Count
    ratio_attention: float
    extra_attention: int
    ratio_model_prefill: float
    ratio_model_decode: float
    extra_model: int
    ratio_model_prefill_factored: float
    ratio_model_decode_factored: float
    extra_model_factored: int
    ratio_model_prefill_kernelized: float
    ratio_model_decode_kernelized: float
    extra_model_kernelized: int


class BestOfByDocument(TypedDict):
    """Intervals with the prompts of one document as a unit, None where documents are too few; as long as P3's list."""

    against_baseline_ci: list[Interval | None]


class P3(TypedDict):
    n: list[Annotated[int, Keep(minimum=1)]]
    n_prompts: Annotated[int, Keep(minimum=1)]
    chunks: list[Count]
    documents: list[Count]
    by_document: BestOfByDocument
    prompt_tokens: Annotated[int, Keep(minimum=1)]
    new_tokens: Annotated[int, Keep(minimum=1)]
    temperature: float
    conditions: Annotated[list[BestOf], Keep(minItems=1)]
    against_baseline: list[AgainstBaseline]
    equal_n: list[AtN]
    selection: list[AtN]
    human: HumanText
    judge: JudgeAtWork | None
    judged: list[Judged]
    equal_flops: Annotated[list[EqualFlops], Keep(minItems=1)]
    samples: list[Sample]


class ByLength(TypedDict):
    """A condition of P4; lists go with `P4.lengths`."""

    condition: Condition
    n_linearized: Count
    ppl: Figures
    ppl_ci: list[Interval]
    ratio: Figures
    ratio_ci: list[Interval]


class Rise(TypedDict):
    """The ratio at the longest context minus the one before, paired over the same text."""

    condition: Condition
    n_linearized: Count
    before: int
    longest: int
    difference: float
    difference_ci: Interval
    is_noise: bool


class LongestAgainstShortest(Difference):
    shortest: int
    longest: int


class ExcessRatio(TypedDict):
    """The excess (PPL ratio − 1) at the longer context over that at the shorter."""

    condition: Condition
    n_linearized: Count
    shorter: int
    longer: int
    ratio: float | None
    ratio_ci: Interval


class ByPosition(TypedDict):
    """What a condition costs by the length of context before a token; lists go with `bins`, `[from, to]`."""

    n_tokens: int
    bins: list[Pair]
    conditions: list[ByLength]


class OnSameTargets(ByLength):
    """Lists go with `SameTargets.contexts`; `difference` is the last ratio minus the first."""

    placed: Literal["start", "in place"]
    difference: float
    difference_ci: Interval


class SameTargets(TypedDict):
    n_targets: int
    contexts: list[int]
    conditions: list[OnSameTargets]


class Stage(TypedDict):
    context: int
    tokens: int


class Training(TypedDict):
    """How the model was trained, by lengths of context."""

    seed: int
    batch_tokens: int
    stages: list[Stage]


class ContextByUnit(TypedDict):
    """Intervals with other units of text; lists go with P4's."""

    rise_at_longest_ci: list[Interval]
    longest_against_shortest_ci: list[Interval]
    excess_ratios_ci: list[Interval]


class P4(TypedDict):
    lengths: list[Annotated[int, Keep(minimum=2)]]
    n_tokens: int
    conditions: Annotated[list[ByLength], Keep(minItems=1)]
    rise_at_longest: list[Rise]
    longest_against_shortest: list[LongestAgainstShortest]
    excess_ratios: list[ExcessRatio]
    by_chunk: ContextByUnit
    by_tokens: ContextByUnit
    by_position: ByPosition
    same_targets: SameTargets
    training: Training | None


class KernelRow(TypedDict):
    """A timing against no ReLU head; without figures where the kernel disagrees with `naive`."""

    what: str
    n_linearized: Count
    shape: NotRequired[list[int]]
    agrees: bool
    error: float | None
    seconds: float | None
    ms: float | None
    speedup: float | None
    speedup_ci: Interval | None
    verdict: Literal["baseline", "faster", "slower", "open", "differs"]


class Budget(TypedDict):
    n_linearized: Count
    extra_published: int
    extra_measured: int | None
    share_real: float | None


class RooflinePoint(TypedDict):
    n_linearized: Count
    name: str
    intensity: float
    rate: float
    share_of_peak: float


class Elsewhere(TypedDict):
    """A timing kept from another machine."""

    name: str
    device: str
    date: str
    file: str
    agrees: bool
    ratio: float | None
    ratio_ci: Interval | None
    rival: str | None
    tflops: float | None
    share_of_matmul: float | None
    tokens_per_s: float | None
    share_of_bandwidth: float | None


class KeptFile(TypedDict):
    file: str
    date: str
    device_name: str
    provenance: str


class K(TypedDict):
    rows: list[KernelRow]
    gpt2_shape: KernelRow
    shapes: list[KernelRow]
    backend: str
    device: str
    n_last: Count
    attention_share: float
    bound: float | None
    last: list[KernelRow]
    faster: Count
    slower: Count
    compared: Count
    expected_prefill: float | None
    measured_prefill: float | None
    measured_prefill_ci: Interval | None
    bounds: list[Speedup]
    theory: list[Speedup]
    published_theory: list[Speedup]
    budget: list[Budget]
    new_tokens: int
    peak_flops: float
    copy_bytes: float
    ridge: float
    roofline: list[RooflinePoint]
    elsewhere: list[Elsewhere]
    files: list[KeptFile]


class Bilingual(TypedDict):
    ja: str
    en: str


Verdict = Literal["holds", "fails", "open", "not measured"]


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


class Asked(TypedDict):
    """A question that the published study left open, judged by a rule."""

    id: str
    verdict: Verdict
    evidence: dict[str, Any]
    statement: Bilingual
    rule: Bilingual


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


LimitSet = Literal["published", "after", "none"]
Kind = Literal["empirical", "arithmetic"]


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


class JudgedClaim(TypedDict):
    """A conclusion of the published study, tested on this model; `published_in` says where it stands in the study.

    limit_set: whether the limits of the rule are the study's own, were set after its figures were known, or are none.
    kind: arithmetic where no measurement enters, which is no evidence.
    """

    id: str
    sections: list[str]
    verdict: Verdict
    evidence: dict[str, Any]
    statement: Bilingual
    rule: Bilingual
    published_in: Bilingual
    limit_set: LimitSet
    limits: dict[str, float]
    kind: Kind


class Variant(TypedDict):
    """A claim judged otherwise: `variant` names the limit, which is then `value`, or the other way of judging."""

    id: str
    variant: str
    value: float | None
    own: float | None
    verdict: Verdict


class Reason(TypedDict):
    id: str
    verdict: Verdict
    kind: Kind


HypothesisVerdict = Literal["supported", "partly rejected", "rejected", "open", "not measured"]


class Hypothesis(TypedDict):
    """Hypothesis 5, its two halves and the study's four reasons."""

    verdict: HypothesisVerdict
    coarser: Verdict
    bought_back: Verdict
    reasons: list[Reason]


VerdictCounts = TypedDict("VerdictCounts", {"holds": int, "fails": int, "open": int, "not measured": int})


class ScoreRow(TypedDict):
    id: str
    section: str
    printed: str
    published: float
    kind: Literal["exact", "weights", "sampled", "machine"]
    reason: str
    measured: float | None
    difference: float | None
    tolerance: float | None
    verdict: Literal["reproduced", "differs", "missing", "not comparable"]


class Scorecard(TypedDict):
    """The published figures beside the measured ones; `reason` says why the card does not count, if so."""

    rows: list[ScoreRow]
    reproduced: Count
    total: Count
    missing: list[str]
    differing: list[str]
    counts: bool
    reason: Literal["model", "corpus"] | None


class Conclusions(TypedDict):
    claims: list[JudgedClaim]
    counts: VerdictCounts
    hypothesis: Hypothesis
    sensitivity: list[Variant]
    scorecard: Scorecard


class Results(TypedDict, total=False):
    """`{section: data}`; a section that is not there was not measured."""

    setup: Setup
    phases: Phases
    V1: V1
    V2: V2
    V3: V3
    V4: V4
    V5: V5
    P1: P1
    P2: P2
    P3: P3
    P4: P4
    K: K
    R2: R2
    R3: R3
    R4: R4
    S1: S1
    S2: S2
    conclusions: Conclusions
