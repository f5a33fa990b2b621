"""The reasoner's training: resumable to the bit, and it learns."""

from dataclasses import replace

import pytest
import torch

from lib.model import problems
from lib.training import reasoner

RECIPE = reasoner.Recipe(
    problems=1200,
    batch_problems=24,
    warmup_steps=4,
    instructions=(("answer", 1), ("think", 1), ("revise", 1)),
    at_once=((1, 1),),
    thinking=((1, 1), (2, 1)),
    digits=((1, 1),),
    shape={"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
)


def quiet(*row):
    pass


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return reasoner.train(RECIPE, tmp_path_factory.mktemp("reasoner"), report=quiet)


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_it_learns(trained):
    model, curve = trained
    assert not model.training
    assert [seen for seen, _ in curve] == [600, 1200]
    assert curve[1][1] < curve[0][1] - 0.2


def test_an_interrupted_training_goes_on_to_the_same_weights_and_curve(trained, tmp_path):
    def interrupt(seen, loss):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reasoner.train(RECIPE, tmp_path, checkpoint_steps=10, report=interrupt)
    model, curve = reasoner.train(RECIPE, tmp_path, report=quiet)
    assert same(model, trained[0])
    assert curve == trained[1]


def test_another_seed_gives_other_weights(trained, tmp_path):
    other, _ = reasoner.train(replace(RECIPE, problems=240), tmp_path / "a", report=quiet)
    again, _ = reasoner.train(replace(RECIPE, problems=240), tmp_path / "b", report=quiet)
    third, _ = reasoner.train(replace(RECIPE, problems=240, seed=11), tmp_path / "c", report=quiet)
    assert same(other, again)
    assert not same(other, third)


def test_only_completions_are_learned():
    """Labels are the completion, token for token, and nothing else."""
    for ids, labels in reasoner.batch(RECIPE, 0):
        for row, wanted in zip(ids, labels, strict=True):
            text = " ".join(problems.TOKENS[i] for i in row.tolist())
            learned = " ".join(problems.TOKENS[i] for i in wanted[wanted != reasoner.IGNORED].tolist())
            assert text.split(f" {problems.END}")[0].endswith(learned.removesuffix(f" {problems.END}"))
            assert learned.endswith(problems.END)
            at = int((wanted != reasoner.IGNORED).nonzero()[0])
            assert problems.TOKENS[row[at - 1]] == "="


def test_the_tokenizer_has_one_token_a_word_and_gives_every_text_back():
    tokenizer = reasoner.tokenizer()
    text = "revise : start 7 +5 *3 -2 draft 4 ="
    assert len(tokenizer(text).input_ids) == len(text.split())
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))) == list(problems.TOKENS)
