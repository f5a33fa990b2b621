from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models
import torch

from lib.engine import stored_generation
from lib.engine.generation import generate
from lib.engine.interventions import Plan
from lib.store import Store

RELU = Plan.of("relu", [(1, 0), (2, 3)])


@pytest.fixture
def run(tmp_path):
    setup = {"parameters": {"dtype": "float32"}, "model": {"fingerprint": "f"}, "backend": "naive", "device": "cpu"}
    return SimpleNamespace(model=tiny_models.gpt2(), store=Store(tmp_path, 2**20), setup=setup)


@pytest.fixture
def generator(run):
    return stored_generation.Generator(run)


PROMPTS = tiny_models.tokens(3, 6).numpy()


@torch.no_grad()
def scored(model, text, n_scored):
    """PPL of the last tokens of one text, by a plain forward pass."""
    ids = torch.as_tensor(text, dtype=torch.long)
    logp = model(ids[None]).logits[0, :-1].double().log_softmax(-1)
    return float((-logp[torch.arange(len(ids) - 1), ids[1:]][-n_scored:]).mean().exp())


@torch.no_grad()
def greedy(model, text, n_new):
    ids = torch.as_tensor(text, dtype=torch.long)
    for _ in range(n_new):
        ids = torch.cat([ids, model(ids[None]).logits[0, -1].argmax()[None]])
    return ids.numpy()


def test_refining_appends_and_rescores_all_that_was_written(run, generator):
    texts, ppl = stored_generation.refine(generator, PROMPTS, [Plan()], 4, 3)[0]
    assert texts.shape == (3, 6 + 12)
    assert ppl.shape == (3, 3)
    for row, prompt in zip(range(3), PROMPTS, strict=True):
        assert texts[row].tolist() == greedy(run.model, prompt, 12).tolist()
        for k in range(3):
            expected = scored(run.model, texts[row, : 6 + 4 * (k + 1)], 4 * (k + 1))
            assert ppl[k, row] == pytest.approx(expected, rel=1e-5)


def test_changed_heads_write_and_the_unmodified_model_judges(run, generator):
    zeroed = Plan.of("zero", [(layer, head) for layer in (0, 1, 2) for head in range(4)])
    texts, ppl = stored_generation.refine(generator, PROMPTS, [zeroed], 8, 1)[0]
    assert not np.array_equal(texts, stored_generation.refine(generator, PROMPTS, [Plan()], 8, 1)[0][0])
    for row in range(3):
        assert ppl[0, row] == pytest.approx(scored(run.model, texts[row], 8), rel=1e-5)


def test_samples_belong_to_their_prompt(run, generator):
    ppl, tokens = stored_generation.sample(generator, PROMPTS, [RELU], 5, 4, 0.8, 10)[0]
    assert ppl.shape == (3, 4)
    assert tokens.shape == (3, 4, 5)
    for row in range(3):
        for column in range(4):
            text = np.concatenate([PROMPTS[row], tokens[row, column]])
            assert ppl[row, column] == pytest.approx(scored(run.model, text, 5), rel=1e-5)
    assert len({tuple(sample) for sample in tokens.reshape(-1, 5)}) > 6


def test_a_sample_depends_on_its_seed_and_not_on_its_neighbours(generator):
    _, tokens = stored_generation.sample(generator, PROMPTS, [Plan()], 5, 4, 0.8, 10)[0]
    _, fewer = stored_generation.sample(generator, PROMPTS[:1], [Plan()], 5, 4, 0.8, 10)[0]
    assert np.array_equal(fewer[0], tokens[0])
    _, other = stored_generation.sample(generator, PROMPTS, [Plan()], 5, 4, 0.8, 11)[0]
    assert not np.array_equal(other, tokens)


def test_what_was_generated_is_kept(run, generator, monkeypatch):
    first = stored_generation.sample(generator, PROMPTS, [RELU], 5, 2, 0.8, 10)[0]
    monkeypatch.setattr(stored_generation, "generate", lambda *args, **kwargs: pytest.fail("generated again"))
    monkeypatch.setattr(stored_generation, "continuation_nll", lambda *args: pytest.fail("scored again"))
    again = stored_generation.sample(stored_generation.Generator(run), PROMPTS, [RELU], 5, 2, 0.8, 10)[0]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(
    "other",
    [
        {"plans": [Plan()]},
        {"temperature": 0.9},
        {"seed": 11},
        {"n_new": 6},
        {"fingerprint": "g"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_anything_else_is_generated_anew(run, generator, monkeypatch, other):
    given = {"plans": [RELU], "n_new": 5, "n_samples": 2, "temperature": 0.8, "seed": 10}
    stored_generation.sample(generator, PROMPTS, **given)
    calls, own = [], stored_generation.generate
    monkeypatch.setattr(stored_generation, "generate", lambda *args, **kwargs: calls.append(1) or own(*args, **kwargs))
    run.setup["model"]["fingerprint"] = other.pop("fingerprint", "f")
    stored_generation.sample(stored_generation.Generator(run), PROMPTS, **given | other)
    assert calls == [1]


def test_more_samples_leave_the_first_as_they_are(generator):
    few, few_tokens = stored_generation.sample(generator, PROMPTS, [RELU], 6, 4, 0.9, 10)[0]
    many, many_tokens = stored_generation.sample(generator, PROMPTS, [RELU], 6, 12, 0.9, 10)[0]
    assert many.shape == (3, 12) and many_tokens.shape == (3, 12, 6)
    np.testing.assert_array_equal(many_tokens[:, :4], few_tokens)
    np.testing.assert_allclose(many[:, :4], few, rtol=1e-6)
    assert not np.array_equal(many_tokens[:, 5:10], many_tokens[:, :5])
    assert len({tuple(row) for row in many_tokens.reshape(-1, 6)}) > 24


def test_the_first_five_are_drawn_as_published(run, generator):
    seeds = [10 * 1_000_003 + i for i in range(15)]
    expected = generate(run.model, np.repeat(PROMPTS, 5, axis=0), 6, RELU, temperature=0.9, seeds=seeds)
    found = stored_generation.sample(generator, PROMPTS, [RELU], 6, 7, 0.9, 10)[0][1]
    np.testing.assert_array_equal(found[:, :5].reshape(15, 6), expected)


@pytest.mark.parametrize("seed", [0, 10, 2**32 - 1])
def test_no_two_samples_share_what_a_generator_heeds_of_their_seed(seed):
    numbers = [*range(12), 500, 994, 999]
    seeds = [stored_generation.sample_seed(seed, p, i) for p in (*range(30), 3_999_999) for i in numbers]
    assert len({s % 2**32 for s in seeds}) == len(seeds)
    first = {torch.rand(1, generator=torch.Generator().manual_seed(s), dtype=torch.float64).item() for s in seeds}
    assert len(first) == len(seeds)


def test_another_judge_scores_the_same_tokens(run, generator):
    own, sampled = stored_generation.sample(generator, PROMPTS, [Plan()], 6, 3, 0.9, 10)[0]
    model = tiny_models.gpt2(seed=8)
    found = stored_generation.sample_ppl(stored_generation.Judge(run, model, "other"), PROMPTS, [sampled])[0]
    for p in range(3):
        for s in range(3):
            text = np.concatenate([PROMPTS[p], sampled[p, s]])
            assert found[p, s] == pytest.approx(scored(model, text, 6), rel=1e-5)
    np.testing.assert_array_equal(stored_generation.sample_ppl(generator, PROMPTS, [sampled])[0], own)


def test_a_run_without_a_second_judge(run):
    run.setup["judge"] = None
    assert stored_generation.second_judge(run) is None
