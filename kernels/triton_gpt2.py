"""GPT-2's decoding step for one sequence, fused into few launches: products of a matrix and one vector.

Weights stand as [n_out, n_in] in any float type; activations and sums are float32.
"""

import triton
import triton.language as tl


@triton.jit
def product(
    x, weight, bias, gain, shift, out, keys, values, position, n_out,
    N_IN: tl.constexpr, BLOCK_IN: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr, EPSILON: tl.constexpr,
    NORMALISE: tl.constexpr, ACTIVATION: tl.constexpr, ADD: tl.constexpr, CACHE: tl.constexpr, N_EMBD: tl.constexpr,
    D_HEAD: tl.constexpr, N_POSITIONS: tl.constexpr,
):
    """out = weight · x + bias for `ROWS` outputs; grid (n_out / ROWS,).

    NORMALISE: x through a layer norm first. ACTIVATION: "gelu" (tanh form) or "none". ADD: onto what `out` holds.
    CACHE: outputs past N_EMBD are keys, past 2 N_EMBD values, and go to `position` of the caches [H, S, d].
    """
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = rows < n_out
    if NORMALISE:
        every = tl.arange(0, BLOCK_IN)
        whole = tl.load(x + every, mask=every < N_IN, other=0.0)
        mean = tl.sum(whole, 0) / N_IN
        apart = tl.where(every < N_IN, whole - mean, 0.0)
        spread = tl.rsqrt(tl.sum(apart * apart, 0) / N_IN + EPSILON)
    acc = tl.zeros((ROWS,), tl.float32)
    for start in range(0, N_IN, STEP):
        dims = start + tl.arange(0, STEP)
        part = tl.load(x + dims, mask=dims < N_IN, other=0.0)
        if NORMALISE:
            scaled = (part - mean) * spread * tl.load(gain + dims, mask=dims < N_IN, other=0.0)
            part = scaled + tl.load(shift + dims, mask=dims < N_IN, other=0.0)
        place = weight + rows[:, None].to(tl.int64) * N_IN + dims[None, :]
        w = tl.load(place, mask=inside[:, None] & (dims[None, :] < N_IN), other=0.0).to(tl.float32)
        acc += tl.sum(w * part[None, :], 1)
    acc += tl.load(bias + rows, mask=inside, other=0.0)
    if ACTIVATION == "gelu":
        bent = 0.7978845608028654 * (acc + 0.044715 * acc * acc * acc)
        acc = acc * (1.0 - 1.0 / (1.0 + tl.exp(2.0 * bent)))
    if ADD:
        acc += tl.load(out + rows, mask=inside, other=0.0)
    if CACHE:
        at = tl.load(position)
        dims = rows % N_EMBD
        place = dims // D_HEAD * (N_POSITIONS * D_HEAD) + at * D_HEAD + dims % D_HEAD
        tl.store(out + rows, acc, mask=rows < N_EMBD)
        tl.store(keys + place, acc.to(keys.dtype.element_ty), mask=(rows >= N_EMBD) & (rows < 2 * N_EMBD))
        tl.store(values + place, acc.to(values.dtype.element_ty), mask=(rows >= 2 * N_EMBD) & inside)
    else:
        tl.store(out + rows, acc, mask=inside)


@triton.jit
def largest(logits, best, where, n_vocab, SPAN: tl.constexpr):
    """The largest of each span of logits, and the first place where it stands; grid (spans,)."""
    at = tl.program_id(0) * SPAN + tl.arange(0, SPAN)
    value = tl.load(logits + at, mask=at < n_vocab, other=-float("inf"))
    peak = tl.max(value, 0)
    tl.store(best + tl.program_id(0), peak)
    tl.store(where + tl.program_id(0), tl.min(tl.where(value == peak, at, n_vocab), 0))


@triton.jit
def advance(
    best, where, tokens, position, n_visible, n_prompt, embedding, places, x,
    N_SPANS: tl.constexpr, BLOCK_SPANS: tl.constexpr, N_EMBD: tl.constexpr, BLOCK_EMBD: tl.constexpr,
    N_POSITIONS: tl.constexpr, N_VOCAB: tl.constexpr,
):
    """Append the likeliest token (inside the prompt: keep its own), move on by one, embed; grid (1,).

    Every warp reads the state; only past the barrier may the first of them write it.
    """
    spans = tl.arange(0, BLOCK_SPANS)
    value = tl.load(best + spans, mask=spans < N_SPANS, other=-float("inf"))
    found = tl.load(where + spans, mask=spans < N_SPANS, other=N_VOCAB)
    choice = tl.min(tl.where(value == tl.max(value, 0), found, N_VOCAB), 0)
    at = tl.load(position) + 1
    given = tl.load(tokens + at, mask=at < N_POSITIONS, other=0)
    token = tl.where(at < tl.load(n_prompt), given, choice)
    tl.debug_barrier()
    if at < N_POSITIONS:
        tl.store(tokens + at, token)
        dims = tl.arange(0, BLOCK_EMBD)
        word = tl.load(embedding + token.to(tl.int64) * N_EMBD + dims, mask=dims < N_EMBD, other=0.0).to(tl.float32)
        place = tl.load(places + at * N_EMBD + dims, mask=dims < N_EMBD, other=0.0).to(tl.float32)
        tl.store(x + dims, word + place, mask=dims < N_EMBD)
        tl.store(position, at)
        tl.store(n_visible, at + 1)
