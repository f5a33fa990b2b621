"""Training after the replacement: gradients under a plan, arms, controls, and going on after a kill."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
import torch.nn.functional as F

from lib.engine import copying, dispatch
from lib.engine.interventions import Plan
from lib.errors import InputError
from lib.model import corpus
from lib.store import Store
from lib.training import family, low_rank, recovery

SCHEDULE = recovery.Schedule(marks=(0, 64, 128), context=16, batch_tokens=32, rank=2)
PLAN = Plan.of("relu", [(1, 0), (1, 3), (2, 1)])
IDS = np.random.default_rng(0).integers(0, tiny_models.VOCAB, 3000).astype(np.int32)


def grads(model, plan, windows, backend="naive"):
    model.zero_grad()
    recovery.cross_entropy(model, windows, plan, backend).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def plainly_linearized(model, windows):
    """Loss of `PLAN`, written out: the model's own modules, every head by itself, float64."""
    config, body = model.config, model.transformer
    d = config.n_embd // config.n_head
    tokens = windows[:, :-1]
    x = body.wte(tokens) + body.wpe(torch.arange(tokens.shape[1]))
    future = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).triu(1)
    for layer, block in enumerate(body.h):
        q, k, v = block.attn.c_attn(block.ln_1(x)).split(config.n_embd, -1)
        bias = (
            block.ln_1.bias @ block.attn.c_attn.weight[:, -config.n_embd :] + block.attn.c_attn.bias[-config.n_embd :]
        )
        heads = []
        for head in range(config.n_head):
            own = slice(head * d, (head + 1) * d)
            scores = q[..., own] @ k[..., own].mT / d**0.5
            if (layer, head, "relu") in PLAN.heads:
                w = scores.relu().masked_fill(future, 0)
                w = w / w.sum(-1, keepdim=True).clamp(min=1e-8)
                heads.append(w @ (v[..., own] - bias[own]) + bias[own])
            else:
                heads.append(scores.masked_fill(future, -torch.inf).softmax(-1) @ v[..., own])
        x = x + block.attn.c_proj(torch.cat(heads, -1))
        x = x + block.mlp(block.ln_2(x))
    logits = model.lm_head(body.ln_f(x))
    return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def test_gradients_under_a_plan_are_those_of_the_written_out_model():
    windows = tiny_models.tokens(2, 17).long()
    model = tiny_models.gpt2().double().requires_grad_(True)
    plainly_linearized(model, windows).backward()
    want = {name: p.grad.clone() for name, p in model.named_parameters()}
    for _ in range(2):  # twice with the same weights: nothing of the first graph is kept
        got = grads(model, PLAN, windows)
        assert all(torch.allclose(got[name], want[name], rtol=1e-9, atol=1e-12) for name in want)


def test_a_backend_without_gradients_is_refused():
    with pytest.raises(InputError, match="computes no gradients"):
        dispatch.resolve("cpu", "cpu", gradients=True)


def test_transfer_is_zero_for_the_softmax_model_and_teaches_only_the_changed_layers():
    base = tiny_models.gpt2()
    model = tiny_models.gpt2().requires_grad_(True)
    windows = tiny_models.tokens(2, 17).long()
    same = recovery.transfer_loss(model, base, windows, Plan.of("softmax", [(1, 0)]), "naive")
    assert same.item() == pytest.approx(0, abs=1e-10)
    model.zero_grad()
    loss = recovery.transfer_loss(model, base, windows, Plan.of("relu", [(1, 0)]), "naive")
    assert loss > 1e-4
    loss.backward()
    learning = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {f"transformer.h.1.attn.{part}.weight" for part in ("c_attn", "c_proj")} <= learning
    assert not any(".h.0." in name or ".h.2." in name or ".mlp." in name for name in learning)


def test_low_rank_adapters_start_at_nothing_and_merge_into_what_they_computed():
    base, model = tiny_models.gpt2(), tiny_models.gpt2()
    tokens = tiny_models.tokens(1, 12).long()
    trained = low_rank.attach(model, 2, seed=0)
    assert sum(p.numel() for p in trained) == 3 * 2 * ((32 + 96) + (32 + 32))
    assert torch.equal(model(tokens).logits, base(tokens).logits)
    with torch.no_grad():
        trained[1].copy_(torch.randn(trained[1].shape))
    plain = low_rank.merged(model, base)
    assert not torch.equal(plain(tokens).logits, base(tokens).logits)
    assert torch.allclose(plain(tokens).logits, model(tokens).logits, atol=1e-6)
    assert [name for name, _ in plain.named_parameters()] == [name for name, _ in base.named_parameters()]


def case_of(arm, n_heads, folder, seed=1, die_at=None):
    """The tiny grid's row; with `die_at` the process kills itself where that many tokens have been seen."""
    base = tiny_models.gpt2()
    store = Store(folder / "store", 2**20)
    documents = np.arange(len(IDS)) // 100
    texts = recovery.Texts.of((IDS, documents), (IDS[::-1].copy(), documents), 16, 16, 4, 8)
    ranking = recovery.ranking_of(base, corpus.chunk(IDS, 16, 4), store, "tiny")

    def report(name, tokens, ppl):
        if tokens == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    case = recovery.Case(arm, n_heads, seed)
    return recovery.trained_case(case, ranking, base, IDS, SCHEDULE, texts, folder, store, report=report)


@pytest.mark.parametrize("arm", recovery.ARMS)
def test_killed_in_the_middle_it_goes_on_to_the_same_figures(arm, tmp_path):
    whole = case_of(arm, 4, tmp_path / "whole")
    assert [point["tokens"] for point in whole["points"]] == [0, 64, 128]
    words = f"import pathlib, test_training_on as t; t.case_of({arm!r}, 4, pathlib.Path({str(tmp_path)!r}), die_at=64)"
    done = subprocess.run([sys.executable, "-c", words], cwd=Path(__file__).parent, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-500:]
    assert len(list(tmp_path.glob(f"{arm}-4-seed1-*/checkpoint.safetensors"))) == 1
    assert case_of(arm, 4, tmp_path) == whole


def test_training_helps_and_seeds_differ(tmp_path):
    row, other = (case_of("all", 4, tmp_path / str(seed), seed) for seed in (1, 2))
    first, last = row["points"][0], row["points"][-1]
    assert np.mean(last["nll"]) < np.mean(first["nll"])
    assert first["nll"] == other["points"][0]["nll"]
    assert last["nll"] != other["points"][-1]["nll"]


def test_the_control_of_every_arm_is_the_untouched_model():
    assert recovery.Case("transfer", 4, 2).control == recovery.Case("all", 0, 2)
    assert recovery.Case("low_rank", 4, 2).control == recovery.Case("low_rank", 0, 2)
    with pytest.raises(InputError, match="arm"):
        recovery.Case("none", 4, 2)


class Copier(torch.nn.Module):
    """Says that the next token is the one that followed the current one before, else token 0."""

    def forward(self, tokens):
        logits = torch.zeros(*tokens.shape, tiny_models.VOCAB)
        for b, row in enumerate(tokens.tolist()):
            for t, token in enumerate(row):
                before = [i for i in range(t) if row[i] == token]
                logits[b, t, row[before[-1] + 1] if before else 0] = 5.0
        return logits


def test_the_copying_probe_counts_the_second_copy(monkeypatch):
    model = tiny_models.gpt2()
    twice = copying.sequences(np.arange(1, 90), 4, 6, seed=3)
    assert (twice[:, :6] == twice[:, 6:]).all()
    copier = Copier()
    monkeypatch.setattr(model, "forward", lambda tokens, use_cache: type("Out", (), {"logits": copier(tokens)}))
    found = copying.probe(model, Plan(), twice)
    distinct = [len(set(row[:6])) == 6 for row in twice.tolist()]
    assert [second for second, clear in zip(found["second"], distinct, strict=True) if clear] == [1.0] * sum(distinct)
    assert all(first == 0 for first, clear in zip(found["first"], distinct, strict=True) if clear)
    assert any(distinct)
    assert found["gain"][distinct.index(True)] == pytest.approx(5.0, abs=1e-4)


def test_the_family_goes_on_and_keeps_one_recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("EXPERIMENT10_BUILD", str(tmp_path / "build"))
    monkeypatch.setattr(
        family.corpus, "stdlib_dataset", lambda split: {"text": ["def f(x):\n    return x + 1\n" * 200]}
    )
    scale = family.Scale(
        sizes=(((2, 3), 1), ((3, 2), 1)), tokens=16 * 32 * 3, context=16, batch_tokens=32, quick_chunks=2,
        full_chunks=16, rungs=3, packages=("jsonschema",),
    )  # fmt: skip
    out, said = tmp_path / "scale.json", []
    monkeypatch.setattr(family.pretraining, "train", counted(family.pretraining.train, said))
    record = family.run(scale, tmp_path / "work", out, report=lambda *line: None)
    assert [member["name"] for member in record["members"]] == ["2x3-seed1", "3x2-seed1"]
    plain = corpus.encode(family.corpus.stdlib_dataset("train"), family.loading.load_tokenizer(family.TOKENIZER))
    assert record["text"]["train_tokens"] > 10 * len(plain)
    for member in record["members"]:
        assert member["ladder"][0]["ratio"] == 1 and member["ladder"][-1]["n"] == member["n_rankable"]
        assert 0 <= member["shares"]["half"] <= 1
        assert member["n_params"] > member["n_params_blocks"] > 0
    assert family.run(scale, tmp_path / "work", out, report=lambda *line: None) == record
    assert len(said) == 2
    with pytest.raises(InputError, match="another recipe"):
        family.run(replace(scale, tokens=scale.tokens * 2), tmp_path / "work", out)


def counted(function, calls):
    def call(*args, **kwargs):
        calls.append(1)
        return function(*args, **kwargs)

    return call


def test_plans_with_relu_and_softmax_train_alike_on_the_softmax_control():
    """The `softmax` mode takes the changed heads' path and must have the gradients of the untouched model."""
    windows = tiny_models.tokens(2, 17).long()
    model = tiny_models.gpt2().double().requires_grad_(True)
    want, got = grads(model, Plan(), windows), grads(model, Plan.of("softmax", [(1, 0), (2, 2)]), windows)
    assert all(torch.allclose(got[name], want[name], rtol=1e-9, atol=1e-12) for name in want)
