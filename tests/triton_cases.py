"""What the Triton kernels must get right, as named cases: run in the interpreter, or on a GPU.

As a program (`TRITON_INTERPRET=1 python triton_cases.py`) it prints one JSON object: case -> its failure, or null.
Each case runs its kernel twice on poisoned outputs; both runs must agree with float64 and with each other.
"""

import argparse
import json
import sys
import traceback
import warnings
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import tiny_models
import torch
from kernel_checks import LENGTHS, close, inputs, strided
from transformers import GPT2Config, GPT2LMHeadModel
from triton.runtime.errors import OutOfResources

from kernels import naive
from kernels import triton_attention as attention
from kernels.gpt2_decoding import GraphDecoder
from kernels.naive import tolerance
from kernels.triton_backward import EXACT_BACKWARD_TILES, KEY_TILES, QUERY_TILES
from kernels.triton_decode import DECODE_TILES
from kernels.triton_forward import EXACT_TILES, FORWARD_TILES
from lib.engine import dispatch, graphs
from lib.engine.generation import generate
from lib.engine.interventions import Plan
from lib.timing.speedups import graph_decoder

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
SIX_HEADS = (True, False, True, True, False, False)


def forward(
    device,
    dtype=FP32,
    shape=(1, 2, 65, 16),
    n_keys=None,
    group=1,
    factor=1.0,
    tile=None,
    change=None,
    scale=None,
    **settings,
):
    q, k, v = inputs(shape, n_keys, group, dtype, factor, device=device)
    if change:
        q, k, v = change(q, k, v)
    runs = []
    for _ in range(2):
        z = torch.full(q.shape, float("nan"), dtype=dtype, device=device)
        attention.relu_attention(q, k, v, out=z, tile=tile, scale=scale, **settings)
        close(z, q, k, v, scale=scale, **settings)
        runs.append(z)
    assert torch.equal(*runs), "two runs differ"
    return runs[0], q, k, v


def mixed(device, dtype=FP32, shape=(1, 6, 35, 16), n_keys=None, group=3, is_relu=SIX_HEADS, **settings):
    q, k, v = inputs(shape, n_keys, group, dtype, device=device)
    runs = []
    for _ in range(2):
        z = torch.full_like(q, float("nan"))
        attention.mixed_attention(q, k, v, is_relu, out=z, **settings)
        visible = {name: x for name, x in settings.items() if name == "n_visible"}
        close(z, q, k, v, reference=lambda *x, **kw: naive.mixed_attention(*x, is_relu, **kw), **visible)
        runs.append(z)
    assert torch.equal(*runs), "two runs differ"


def backward(device, dtype=FP32, shape=(1, 4, 40, 16), n_keys=None, group=2, tile=None, scale=None, change=None):
    q, k, v = inputs(shape, n_keys, group, dtype, device=device)
    q[..., 0] = 2
    k[:, :, 0, 0] = 2 * shape[3] ** 0.5  # no row sum near 0, where the gradient magnifies the rounding of scores
    if change:
        q, k, v = change(q, k, v)
    scale = scale or shape[3] ** -0.5
    grad = inputs(shape, dtype=dtype, seed=1, device=device)[0]
    exact = [x.detach().double().cpu().requires_grad_() for x in (q, k, v)]
    want = torch.autograd.grad(naive.relu_attention(*exact, scale=scale), exact, grad.double().cpu())
    z = torch.full_like(q, float("nan"))
    row_sums = torch.full(q.shape[:3], float("nan"), dtype=FP32, device=device)
    attention._forward(q, k, v, z, scale, k.shape[2], "relu", row_sums=row_sums)
    runs = [attention.gradients(q, k, v, z, row_sums, grad, scale, tile=tile) for _ in range(2)]
    for name, first, second, reference in zip("qkv", *runs, want, strict=True):
        assert torch.equal(first, second), f"two runs of d{name} differ"
        error = float((first.double().cpu() - reference).norm() / reference.norm().clamp(min=1e-300))
        assert error <= tolerance(dtype), f"d{name} is off by {error:.1e}, allowed {tolerance(dtype):.1e}"


def through_autograd(device):
    q, k, v = (x.requires_grad_() for x in inputs((1, 4, 20, 16), n_keys=33, group=2, device=device))
    exact = [x.detach().double().cpu().requires_grad_() for x in (q, k, v)]
    attention.relu_attention(q, k, v, n_visible=30).square().sum().backward()
    naive.relu_attention(*exact, n_visible=30).square().sum().backward()
    for got, want in zip((q, k, v), exact, strict=True):
        error = float((got.grad.double().cpu() - want.grad).norm() / want.grad.norm())
        assert error <= 2 * tolerance(FP32), error
    assert not k.grad[:, :, 30:].any()


def mixed_through_autograd(device):
    q, k, v = (x.requires_grad_() for x in inputs((1, 6, 20, 16), group=3, device=device))
    exact = [x.detach().double().cpu().requires_grad_() for x in (q, k, v)]
    attention.mixed_attention(q, k, v, SIX_HEADS).square().sum().backward()
    naive.mixed_attention(*exact, SIX_HEADS).square().sum().backward()
    for got, want in zip((q, k, v), exact, strict=True):
        error = float((got.grad.double().cpu() - want.grad).norm() / want.grad.norm())
        assert error <= 2 * tolerance(FP32), error


def twice_through_autograd(device):
    q, k, v = (x.requires_grad_() for x in inputs((1, 2, 20, 16), device=device))
    (first,) = torch.autograd.grad(attention.relu_attention(q, k, v).square().sum(), q, create_graph=True)
    try:
        first.square().sum().backward()
    except RuntimeError as error:
        assert "once_differentiable" in str(error)
    else:
        raise AssertionError("a second derivative came out of kernels that have none")


def row_sums(device, shape, tile):
    """What a tile keeps for the backward pass."""
    q, k, v = inputs(shape, dtype=BF16, device=device)
    want = shape[3] ** -0.5 * torch.relu(q.double() @ k.double().mT).tril().sum(-1)
    runs = []
    for _ in range(2):
        sums = torch.full(q.shape[:3], float("nan"), dtype=FP32, device=device)
        attention._forward(q, k, v, torch.empty_like(q), shape[3] ** -0.5, shape[2], "relu", row_sums=sums, tile=tile)
        error = float((sums - want).norm() / want.norm())
        assert error <= tolerance(BF16), f"row sums are off by {error:.1e}, allowed {tolerance(BF16):.1e}"
        runs.append(sums)
    assert torch.equal(*runs), "two runs differ"


def dead_rows(device, n_queries=70):
    def change(q, k, v):
        q[:, 0, ::3], k[:, 0] = -q[:, 0, ::3].abs(), k[:, 0].abs()
        return q, k, v

    z = forward(device, shape=(1, 2, n_queries, 16), n_keys=70, change=change)[0]
    assert not z[:, 0, ::3].any()
    assert z[:, 1].any()


def dead_rows_backward(device):
    def change(q, k, v):
        q[:, 0, ::3], k[:, 0] = -q[:, 0, ::3].abs(), k[:, 0].abs()
        return q, k, v

    backward(device, group=1, change=change)


def splits(device):
    """A decoding step gives the same for any number of splits, up to rounding; unseen keys are never read."""
    q, k, v = inputs((1, 4, 1, 16), 200, 2, device=device)
    k[:, :, 131:] = v[:, :, 131:] = float("nan")
    mixed_heads = (True, False, True, False)
    for mode, flags_of in (("relu", (True,) * 4), ("branch", mixed_heads), ("softmax", (False,) * 4)):
        flags = torch.tensor(flags_of, dtype=torch.int32, device=device) if mode == "branch" else None
        for n_splits in (1, 3):
            z = torch.full_like(q, float("nan"))
            attention.decode(q, k, v, z, 0.25, 131, mode, flags, n_splits=n_splits)
            close(
                z,
                q,
                k[:, :, :131],
                v[:, :, :131],
                scale=0.25,
                reference=lambda *x, f=flags_of, **kw: naive.mixed_attention(*x, f, **kw),
            )


def gpt2(device, dtype=FP32):
    """Greedy tokens and last logits of a small GPT-2 with mixed heads equal those of a plain forward in float64."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=61, n_positions=24, n_embd=32, n_layer=2, n_head=4, bos_token_id=None, eos_token_id=None
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "wpe" not in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    is_relu = [(True, False, True, False), (True, True, True, True)]
    decoder = GraphDecoder(model.to(device, dtype), is_relu)
    tokens = decoder.generate([5, 17, 3, 40], 5, graph=device == "cuda").tolist()
    logits = plain_logits(model.cpu().double(), tokens[:-1], is_relu)
    assert tokens[:4] == [5, 17, 3, 40]
    assert tokens[4:] == logits[3:].argmax(-1).tolist()
    error = float((decoder.logits.double().cpu() - logits[-1]).norm() / logits[-1].norm())
    assert error <= tolerance(dtype, config.n_layer), error


def under_a_plan(device):
    """The decoder that the report times gives the tokens of cached generation."""
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=61, n_positions=24, n_embd=32, n_layer=2, n_head=4, bos_token_id=None, eos_token_id=None
    )
    model, plan = GPT2LMHeadModel(config).eval().to(device), Plan.of("relu", [(0, 1), (1, 0), (1, 3)])
    prompt = torch.tensor([5, 17, 3, 40]).numpy()
    tokens = graph_decoder(model, plan).generate(prompt, 6, graph=device == "cuda")
    assert tokens[4:].tolist() == generate(model, prompt[None], 6, plan, backend="naive")[0].tolist()


def by_graphs(device, make=tiny_models.gpt2, temperature=0.0):
    """Generation of the engine's own, one graph a token, writes what launched kernels of the naive form do.

    In the interpreter, which captures nothing, the step that would be captured runs each time.
    """
    model, rows = make().to(device), tiny_models.tokens(4, 9, seed=2).numpy()
    steps = (
        []
        if device == "cuda"
        else [
            mock.patch.dict(dispatch.BY_DEVICE, cpu=dispatch.BY_DEVICE["cuda"]),
            mock.patch.object(graphs, "available", lambda device: True),
            mock.patch.object(graphs, "captured", lambda step, rewind: step),
        ]
    )
    heads = [(0, 1), (1, 0), (1, 3)]
    for plan in (Plan(), Plan.of("relu", heads), Plan.of("relu", heads) | Plan.of("l1", [(1, 1)])):
        settings = {"temperature": temperature, "seeds": range(4)}
        wanted = generate(model, rows, 6, plan, by_graph=False, backend="naive", **settings)
        with ExitStack() as patched, warnings.catch_warnings():
            warnings.simplefilter("error")
            for step in steps:
                patched.enter_context(step)
            found = generate(model, rows, 6, plan, backend="triton", **settings)
        assert found.tolist() == wanted.tolist(), plan.key()


def plain_logits(model, tokens, is_relu):
    """Logits [T, vocabulary] of a GPT-2 whose heads are mixed, written out; dead rows as in the folded basis."""
    ids = torch.tensor(tokens)
    x = model.transformer.wte(ids) + model.transformer.wpe(torch.arange(len(ids)))
    for block, flags in zip(model.transformer.h, is_relu, strict=True):
        n_head, n_embd = len(flags), x.shape[-1]
        q, k, v = (
            y.view(len(ids), n_head, -1).transpose(0, 1)[None]
            for y in block.attn.c_attn(block.ln_1(x)).split(n_embd, -1)
        )
        bias = block.ln_1.bias @ block.attn.c_attn.weight[:, 2 * n_embd :] + block.attn.c_attn.bias[2 * n_embd :]
        bias = bias.view(1, n_head, 1, -1)
        z = naive.mixed_attention(q, k, v - bias, flags) + bias
        x = x + block.attn.c_proj(z[0].transpose(0, 1).flatten(1))
        x = x + block.mlp(block.ln_2(x))
    return model.lm_head(model.transformer.ln_f(x)).detach()


def cases(device, interpreted):
    """`{name: function()}`; the interpreter gets small shapes, a GPU every length and every tile at full size."""
    found = {}

    def add(name, check, **settings):
        found[name] = lambda: check(device, **settings)

    size = (1, 1, 150, 16) if interpreted else (2, 12, 1000, 64)
    for i, tile in enumerate(FORWARD_TILES):
        add(f"forward tile {i}", forward, dtype=BF16, shape=size, tile=tile)
        if not interpreted or i < 2:
            few = (1, 6, *size[2:])
            add(f"branch tile {i}", mixed, dtype=BF16, shape=few, tile=tile, strategy="branch")
            add(f"softmax tile {i}", mixed, dtype=BF16, shape=few, tile=tile, is_relu=6 * (False,), strategy="lists")
            add(f"row sums tile {i}", row_sums, shape=size, tile=tile)
        for d_head in () if interpreted else (16, 32, 80, 128):
            add(f"forward tile {i} d_head {d_head}", forward, dtype=BF16, shape=(1, 4, 1000, d_head), tile=tile)
            add(
                f"branch tile {i} d_head {d_head}",
                mixed,
                dtype=BF16,
                shape=(1, 6, 1000, d_head),
                tile=tile,
                strategy="branch",
            )
    for i, tile in enumerate(EXACT_TILES):
        add(f"exact tile {i}", forward, shape=size, tile=tile)
        add(f"float16 tile {i}", forward, dtype=FP16, shape=size, tile=tile)
    size = (1, 2, 70, 16) if interpreted else (2, 12, 1000, 64)
    for i, tile in enumerate(dict.fromkeys(QUERY_TILES + KEY_TILES)):
        for d_head in size[3:] if interpreted else (16, 32, 64, 80, 128):
            add(f"backward tile {i} d_head {d_head}", backward, dtype=BF16, shape=(*size[:3], d_head), tile=tile)
    for i, tile in enumerate(EXACT_BACKWARD_TILES):
        add(f"exact backward tile {i}", backward, shape=size, tile=tile)
        add(f"float16 backward tile {i}", backward, dtype=FP16, shape=size, tile=tile)
    for i, tile in enumerate(DECODE_TILES):
        for dtype in (BF16, FP16, FP32):
            add(f"decode tile {i} {dtype}", forward, dtype=dtype, shape=(1, 4, 1, 16), n_keys=150, group=2, tile=tile)

    for length in LENGTHS[:7] if interpreted else LENGTHS:
        for dtype in (BF16, FP32) if interpreted else (BF16, FP16, FP32):
            add(f"length {length} {dtype}", forward, dtype=dtype, shape=(1, 2, length, 16 if interpreted else 64))
    for d_head in (12, 24, 64, 80, 128) if interpreted else (12, 16, 24, 32, 64, 80, 96, 128):
        add(f"d_head {d_head}", forward, shape=(1, 2, 40, d_head))
        add(f"d_head {d_head} backward", backward, shape=(1, 2, 20, d_head), group=1)
        add(f"d_head {d_head} decode", forward, shape=(1, 2, 1, d_head), n_keys=70)
    for factor in (1e-6, 1e-3, 60.0, 1e3):
        for dtype in (BF16, FP16, FP32):
            add(f"factor {factor} {dtype}", forward, dtype=dtype, factor=factor)
    add("below the clamp", forward, scale=1e-11)
    add("below the clamp, backward", backward, scale=1e-11)
    add("below the clamp, decoding", forward, scale=1e-11, shape=(1, 2, 1, 16), n_keys=70)
    add("dead rows", dead_rows)
    add("dead rows, decoding", dead_rows, n_queries=1)
    add("dead rows, backward", dead_rows_backward)
    add("grouped heads", forward, shape=(2, 6, 33, 16), n_keys=70, group=3)
    add("grouped heads, backward", backward, shape=(2, 3, 17, 16), n_keys=40, group=3)
    add("strides", forward, shape=(2, 3, 33, 16), change=lambda *x: [strided(y) for y in x])
    add("strides, backward", backward, shape=(2, 2, 20, 16), group=1, change=lambda *x: [strided(y) for y in x])
    add("d outermost", forward, change=lambda *x: [y.mT.contiguous().mT for y in x])
    add("many batches and heads", forward, shape=(3, 5, 9, 16))
    visible = torch.tensor([90], device=device)
    add("visible keys on the device", forward, shape=(1, 2, 65, 16), n_keys=111, n_visible=visible)
    add("visible keys on the device, decoding", forward, shape=(1, 2, 1, 16), n_keys=111, n_visible=visible)
    add("three queries decode", forward, shape=(1, 2, 3, 16), n_keys=111, n_visible=100)
    add("splits", splits)
    for strategy in ("branch", "lists", "sdpa", None):
        add(f"mixed by {strategy}", mixed, strategy=strategy)
    add("mixed, more keys than queries", mixed, n_keys=70, n_visible=60, strategy="lists")
    add("mixed, decoding", mixed, shape=(1, 6, 1, 16), n_keys=111, n_visible=visible)
    add("mixed, all softmax, decoding", mixed, shape=(1, 6, 1, 16), n_keys=111, is_relu=(False,) * 6)
    add("mixed, all softmax", mixed, is_relu=(False,) * 6, strategy="lists")
    add("decoding of a GPT-2", gpt2)
    add("decoding under a plan", under_a_plan)
    add("generation by graphs", by_graphs)
    add("generation by graphs, sampled, grouped heads", by_graphs, make=tiny_models.llama, temperature=1.2)
    add("gradients through autograd", through_autograd)
    add("gradients of mixed heads", mixed_through_autograd)
    add("no second derivatives", twice_through_autograd)
    return found


def main():
    """Prints `{case: its failure, or None}`; with --out it writes that after every case.

    --part I N takes every N-th case from the I-th on; --only names cases.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), metavar=("I", "N"))
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    interpreted = chosen.device == "cpu"
    assert interpreted == attention.INTERPRETED, "a CPU needs TRITON_INTERPRET=1, and a GPU must not have it"
    every = cases(chosen.device, interpreted)
    names = chosen.only or list(every)
    failures = {}
    for name in names[chosen.part[0] :: chosen.part[1]]:
        try:
            every[name]()
            failures[name] = None
        except OutOfResources:
            continue  # no such tile on this device, tuning passes it over as well
        except Exception:
            failures[name] = traceback.format_exc(limit=-3)
        if chosen.out:
            chosen.out.write_text(json.dumps(failures))
    if not chosen.out:
        json.dump(failures, sys.stdout)


if __name__ == "__main__":
    main()
