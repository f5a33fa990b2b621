"""What Part P and the kernels hold: speed, refinement, best-of-N, context length."""

from typing import Annotated, Literal, NotRequired, TypedDict

from lib.results.sections.setup import Judge
from lib.results.sections.terms import Condition, Count, Figures, Interval, Keep, Pair, Positive, SpeedCondition


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


class KernelTarget(TypedDict):
    """What a session on another machine was held to; None for what it did not measure."""

    name: str
    device: str
    date: str
    limit: str
    measured: float | None
    worst_tenth: float | None
    verdict: str


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
    targets: list[KernelTarget]
    files: list[KeptFile]
