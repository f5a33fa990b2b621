"""Texts under a plan: the same as by plain `transformers`, kept, and scored by the model that wrote them."""

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from lib.engine import answering
from lib.engine.interventions import Plan, apply
from lib.model import problems
from lib.store import Store
from lib.training import reasoner

PROMPTS = ["answer : start 3 +4 =", "answer : 1 2 + 3 4 =", "think : start 3 +4 *7 =", "answer : start 5 -4 ="]
ROOMS = [6, 6, 9, 6]
PLAN = Plan.of("relu", [(0, 1), (1, 0)])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=len(problems.TOKENS), n_positions=32, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


@pytest.fixture
def respondent(model, tmp_path):
    return answering.Respondent(model, reasoner.tokenizer(), Store(tmp_path), "f")


def by_hand(model, prompt, room, plan):
    """Greedy text token by token through the hooked model, and its number of tokens."""
    tokenizer = reasoner.tokenizer()
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    n = ids.shape[1]
    with apply(model, plan), torch.no_grad():
        for _ in range(room):
            choice = model(ids, use_cache=False).logits[0, -1].argmax()
            ids = torch.cat([ids, choice[None, None]], 1)
            if choice == tokenizer.eos_token_id:
                break
    return tokenizer.decode(ids[0, n:], skip_special_tokens=True), ids.shape[1] - n


@pytest.mark.parametrize("plan", [Plan(), PLAN])
def test_greedy_texts_are_those_of_the_hooked_model(model, respondent, plan):
    found = respondent.write(PROMPTS, ROOMS, plan)
    for i, (prompt, room) in enumerate(zip(PROMPTS, ROOMS, strict=True)):
        text, n = by_hand(model, prompt, room, plan)
        assert found.texts[i] == [text]
        assert found.n_tokens[i, 0] == n
    assert found.log_likelihood is None


def test_a_sample_s_likelihood_is_that_of_its_own_tokens_under_its_plan(model, respondent):
    found = respondent.write(PROMPTS, ROOMS, PLAN, n_samples=2, temperature=1.0)
    completions = [f"{row[1]} {problems.END}" for row in found.texts]
    whole = [len(c.split()) == n for c, n in zip(completions, found.n_tokens[:, 1], strict=True)]
    assert any(whole)
    nll = respondent.nll(PROMPTS, completions, PLAN)
    np.testing.assert_allclose(found.log_likelihood[whole, 1], -nll[whole], rtol=1e-4, atol=1e-4)


def test_samples_are_drawn_once_and_kept(respondent, monkeypatch):
    first = respondent.write(PROMPTS, ROOMS, PLAN, n_samples=5, temperature=1.0, seed=2)
    assert len({tuple(row) for row in first.texts}) == len(PROMPTS)
    assert any(len(set(row)) > 1 for row in first.texts)
    monkeypatch.setattr(answering, "write", lambda *args, **kwargs: pytest.fail("generated again"))
    again = respondent.write(PROMPTS, ROOMS, PLAN, n_samples=5, temperature=1.0, seed=2)
    assert again.texts == first.texts
    np.testing.assert_array_equal(again.log_likelihood, first.log_likelihood)


def test_samples_do_not_depend_on_the_prompts_beside_them(respondent):
    together = respondent.write(PROMPTS[:2], ROOMS[:2], PLAN, n_samples=3, temperature=1.0)
    alone = respondent.write(PROMPTS[:1], ROOMS[:1], PLAN, n_samples=3, temperature=1.0)
    assert together.texts[0] == alone.texts[0]


def test_completions_are_scored_under_the_plan(model, respondent):
    completions = ["7 <end>", "4 6 <end>", "7 9 = 9 <end>", "1 <end>"]
    found = respondent.nll(PROMPTS, completions, PLAN)
    tokenizer = reasoner.tokenizer()
    for prompt, completion, nll in zip(PROMPTS, completions, found, strict=True):
        n = len(prompt.split())
        ids = tokenizer(f"{prompt} {completion}", return_tensors="pt").input_ids
        with apply(model, PLAN), torch.no_grad():
            log_probs = model(ids, use_cache=False).logits[0].double().log_softmax(-1)
        expected = -log_probs[n - 1 : -1].gather(1, ids[0, n:, None]).sum()
        assert nll == pytest.approx(float(expected), rel=1e-4)
    assert np.abs(respondent.nll(PROMPTS, completions) - found).max() > 1e-3
