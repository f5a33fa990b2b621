import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import EMBEDDED

from lib.analysis import heldout
from lib.analysis.perplexity import ppl
from lib.model import corpus, loading
from lib.training import pretraining

RECIPE = pretraining.Recipe(
    stages=(pretraining.Stage(8, 1920), pretraining.Stage(16, 640)),
    batch_tokens=64,
    warmup_steps=4,
    shape={"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
)
N_VOCAB = 11


@pytest.fixture(scope="module")
def ids():
    """A stream that a model can learn: each id follows from the one before, a tenth of them at random."""
    rng = np.random.default_rng(0)
    stream = [0]
    for _ in range(2000):
        stream.append(int(rng.integers(N_VOCAB)) if rng.random() < 0.1 else (3 * stream[-1] + 1) % N_VOCAB)
    return np.array(stream)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def trained(ids, tmp_path_factory):
    """`(model, curve, what was reported)`."""
    said = []
    report = lambda *row: said.append(list(row))  # noqa: E731
    model, curve = pretraining.train(RECIPE, ids, N_VOCAB, tmp_path_factory.mktemp("training"), report=report)
    return model, curve, said


def test_it_learns_and_says_so(trained):
    model, curve, said = trained
    assert not model.training
    assert curve == said
    assert [seen for seen, _ in curve] == [1600]
    assert curve[-1][1] < math.log(N_VOCAB)


def test_the_same_recipe_gives_the_same_weights(trained, ids, tmp_path):
    again, curve = pretraining.train(RECIPE, ids, N_VOCAB, tmp_path, report=lambda *row: None)
    assert same(weights(again), weights(trained[0]))
    assert curve == trained[1]
    other, _ = pretraining.train(replace(RECIPE, seed=11), ids, N_VOCAB, tmp_path / "other", report=lambda *row: None)
    assert not same(weights(other), weights(trained[0]))


def test_an_interrupted_training_goes_on_to_the_same_weights(trained, ids, tmp_path):
    def interrupt(seen, loss):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretraining.train(RECIPE, ids, N_VOCAB, tmp_path, checkpoint_steps=10, report=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]
    model, _ = pretraining.train(RECIPE, ids, N_VOCAB, tmp_path, report=lambda *row: None)
    assert same(weights(model), weights(trained[0]))


def test_a_bigram_model_by_hand():
    """Training a b a b b: pairs ab 2, ba 1, bb 1; unigrams with one added to each of a 3, b 4, c 1 of 8."""
    a, b, c = 0, 1, 2
    unigram = {a: 3 / 8, b: 4 / 8, c: 1 / 8}
    expected = {
        (a, b): (2 - 0.75) / 2 + 0.75 * 1 / 2 * unigram[b],
        (b, a): (1 - 0.75) / 2 + 0.75 * 2 / 2 * unigram[a],
        (b, c): 0.75 * 2 / 2 * unigram[c],
        (c, a): unigram[a],
    }
    chunks = np.array([[a, b, c], [b, a, b], [c, a, b]])
    pairs = [(a, b), (b, c), (b, a), (a, b), (c, a), (a, b)]
    nll = -np.mean([math.log(expected[pair]) for pair in pairs])
    assert heldout.bigram_ppl([a, b, a, b, b], chunks, 3) == pytest.approx(math.exp(nll), rel=1e-12)


def test_bigram_probabilities_sum_to_one(ids):
    for first in range(N_VOCAB):
        every = [heldout.bigram_ppl(ids[:300], np.array([[first, second]]), N_VOCAB) for second in range(N_VOCAB)]
        assert sum(1 / ppl for ppl in every) == pytest.approx(1, rel=1e-9)


def test_the_learning_rate_rises_and_falls_to_nothing():
    total = RECIPE.total_tokens
    rates = [pretraining.lr_factor(seen, total, RECIPE.batch_tokens, RECIPE) for seen in range(0, total + 1, 64)]
    assert total == 2560
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1])
    assert rates[-1] == 0
    assert max(rates) == 1
    assert rates[30:] == sorted(rates[30:], reverse=True)


def test_what_is_exported_is_what_was_trained(trained, tokenizer, tmp_path):
    model = trained[0]
    pretraining.export(model, tokenizer, tmp_path / "saved")
    pretraining.export(model, tokenizer, tmp_path / "saved")
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    loaded = loading.load_model(loading.model_folder(str(tmp_path / "saved")))
    tokens = torch.arange(10)[None] % N_VOCAB
    with torch.no_grad():
        assert torch.allclose(loaded(tokens).logits, model(tokens).logits, atol=1e-5)
    own = loading.load_tokenizer(tmp_path / "saved")
    assert own("def f(x):\n").input_ids == tokenizer("def f(x):\n").input_ids


def test_a_tokenizer_gives_back_every_text():
    tokenizer = pretraining.train_tokenizer(["def f(x):\n    return x\n"] * 9, vocab_size=280)
    assert len(tokenizer) <= 280
    for text in ("def g(y):\n\n\treturn y", "注意 \u2028 é", " <|endoftext"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


@pytest.mark.skipif(not EMBEDDED.is_dir(), reason="models/embedded is not there")
def test_the_embedded_model_is_worth_ablating():
    """On two held-out chunks at most 60 % of a bigram model's perplexity, which is 55 or more on this text."""
    rows, _ = corpus.load_rows("cpython-stdlib", "", "heldout")
    tokenizer, model = loading.load_tokenizer(EMBEDDED), loading.load_model(EMBEDDED)
    tokens = torch.as_tensor(corpus.chunk(corpus.encode(rows, tokenizer), 1024, 2), dtype=torch.long)
    with torch.no_grad():
        logits = model(tokens).logits[:, :-1]
    nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    assert ppl(nll.numpy()) < 0.6 * 55
    card = (EMBEDDED / "README.md").read_text(encoding="utf-8")
    assert "held-out PPL" in card
    assert "bigram PPL" in card
