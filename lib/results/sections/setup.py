"""What the set-up holds: model, judge, text, and what was chosen."""

from typing import Any, TypedDict

from lib.results.sections.terms import Count


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
