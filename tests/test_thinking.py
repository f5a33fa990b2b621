"""R2's measurement on a tiny random model: figures, records and costs, each again by other means."""

import json
from itertools import product

import numpy as np
import pytest
import torch
from conftest import EMBEDDED
from transformers import LlamaConfig, LlamaForCausalLM

from lib.analysis import thinking
from lib.analysis.flops import Shape, decode_flops, prefill_flops, writing_flops
from lib.engine.answering import Respondent
from lib.engine.instructions import Examiner
from lib.engine.interventions import Plan, apply
from lib.errors import InputError
from lib.layout import ROOT
from lib.model import asking, loading, problems, word_problems
from lib.results import io
from lib.store import Store
from lib.timing import answering as speed
from lib.training import reasoner
from report.charts import reasoning as charts
from report.charts import render

REASONER = ROOT / "models" / "reasoner"
ORDER = list(product(range(2), range(2)))
NS = [1, 2, 4]


def shaken(model, seed=0, size=0.4):
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(size * torch.randn(p.shape, generator=draw))
    return model.eval()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that has learned a little, so that some answers are right and some are not."""
    recipe = reasoner.Recipe(
        problems=4000,
        batch_problems=40,
        warmup_steps=4,
        chain_share=1.0,
        at_once=((1, 1),),
        thinking=((1, 1),),
        shape={"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40},
    )
    return reasoner.train(recipe, tmp_path_factory.mktemp("training"), report=lambda *row: None)[0]


@pytest.fixture(scope="module")
def examiner(model, tmp_path_factory):
    respondent = Respondent(model, reasoner.tokenizer(), Store(tmp_path_factory.mktemp("store")), "f")
    drawn = (
        problems.distinct(0, "chain", 1, 12) + problems.distinct(0, "chain", 2, 8) + problems.distinct(0, "sum", 1, 4)
    )
    return Examiner(respondent, asking.OwnWords(), drawn, seed=1)


@pytest.fixture(scope="module")
def rungs(examiner, model):
    shape = Shape.of(model.config)
    plans = {n: Plan.of("relu", ORDER[:n]) for n in (0, 2, 4)}
    return {n: thinking.Rung(examiner, examiner.outcome(p, 2, 4, 1.0), shape, n, NS) for n, p in plans.items()}


LEVELS = ["easy"] * 12 + ["middle"] * 8 + ["hard"] * 4


def greedy(model, tokenizer, prompt, plan, room):
    """Plain `transformers`, one prompt at a time."""
    ids = tokenizer(prompt, return_tensors="pt")
    with apply(model, plan):
        out = model.generate(**ids, max_new_tokens=room, do_sample=False, use_cache=False, pad_token_id=0)
    return tokenizer.decode(out[0, ids.input_ids.shape[1] :], skip_special_tokens=True)


def test_accuracies_come_again_from_the_records_by_plain_transformers(examiner, rungs, model, tmp_path):
    io.write_lines(tmp_path / "r2.jsonl", thinking.records(rungs, LEVELS))
    rows = [json.loads(line) for line in (tmp_path / "r2.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(set(row) == {"instruction", "level", "prompt", "answer", "outputs"} for row in rows)
    assert all("baseline" in row["outputs"] for row in rows)
    plans = {"baseline": Plan()} | {f"relu_{n}": Plan.of("relu", ORDER[:n]) for n in (2, 4)}
    tokenizer = reasoner.tokenizer()
    for row in rows[::7]:
        for condition, text in row["outputs"].items():
            again = greedy(model, tokenizer, row["prompt"], plans[condition], len(text.split()) + 1)
            assert again.split()[: len(text.split())] == text.split()
    for n, rung in rungs.items():
        condition = f"relu_{n}" if n else "baseline"
        for way in ("answer", "think"):
            said = [row for row in rows if row["instruction"] == way]
            texts = [row["outputs"][condition] for row in said]
            if way == "think":
                texts = [text.rpartition("=")[2] if "=" in text else "" for text in texts]
            right = [text.split() == row["answer"].split() for text, row in zip(texts, said, strict=True)]
            assert np.mean(right) == pytest.approx(rung.right[way].mean())


def test_something_is_right_and_something_wrong(rungs):
    assert 0 < rungs[0].right["answer"].mean() < 1


def test_a_revision_revises_what_was_answered_last(examiner, rungs):
    for rung in rungs.values():
        drafts = rung.outcome.answer.first
        for asked in rung.outcome.revised:
            for draft, prompt, problem in zip(drafts, asked.prompts, examiner.problems, strict=True):
                assert prompt == f"revise : {problem.text} draft {draft or '0'} ="
            drafts = asked.first


def test_figures_are_complete_and_consistent(rungs):
    base = rungs[0]
    for n, rung in rungs.items():
        row = rung.figures(base, seed=0, draws=200)
        assert row["n_linearized"] == n
        assert row["revise"][0] == row["answer"]
        for way in ("answer", "think"):
            assert len(row[f"vote_{way}"]) == len(NS)
            assert row[f"vote_{way}"][0] == row[f"best_{way}"][0]
            assert row[f"vote_{way}_flops"] == sorted(row[f"vote_{way}_flops"])
        assert row["answer_against_answer"]["difference"] == pytest.approx(row["answer"] - base.right["answer"].mean())
        assert row["think_against_answer"]["difference"] == pytest.approx(row["think"] - base.right["answer"].mean())
        equal = row["equal_flops"]
        assert equal["votes"] == 0 or equal["rival_flops"] <= equal["flops"]
        assert row["revise_tokens"][1] > 2 * row["revise_tokens"][0] - 8
        by_level = rung.by_level(LEVELS)
        assert [r["n_problems"] for r in by_level] == [12, 8, 4]
        assert sum(r["think"] * r["n_problems"] for r in by_level) == pytest.approx(24 * row["think"])
    assert base.figures(base)["think_against_think"]["difference"] == 0


def test_writing_pays_for_the_prompt_once():
    shape = Shape(n_layer=2, n_head=2, n_kv_head=2, d_head=8, n_embd=16, n_inner=64, vocab_size=41)
    once = writing_flops(shape, 10, [4], 3)
    assert once == prefill_flops(shape, 10, 3, n_logits=1) + decode_flops(shape, 10, 13, 3)
    assert writing_flops(shape, 10, [4, 1, 6], 3) == once + decode_flops(shape, 10, 15, 3)


def test_heads_are_ranked_by_what_relu_alone_does_to_them(examiner, model):
    rows = thinking.head_effects(examiner, draws=100)
    assert [(row["layer"], row["head"]) for row in rows] == ORDER
    tokenizer, manner = reasoner.tokenizer(), asking.OwnWords()

    def nll(plan):
        total = 0.0
        for problem, way in product(examiner.problems, ("answer", "think")):
            prompt, completion = manner.prompt(problem, way), manner.completion(problem, way)
            ids = tokenizer(f"{prompt} {completion}", return_tensors="pt").input_ids
            n = len(prompt.split())
            with apply(model, plan), torch.no_grad():
                logits = model(ids, use_cache=False).logits[0, n - 1 : -1].double()
            total += float(torch.nn.functional.cross_entropy(logits, ids[0, n:], reduction="sum"))
        return total / len(examiner.problems)

    for row in rows[1:3]:
        change = nll(Plan.of("relu", [(row["layer"], row["head"])])) - nll(Plan())
        assert row["delta_nll"] == pytest.approx(change, rel=1e-3, abs=1e-4)
    sizes = [
        abs(next(r for r in rows if (r["layer"], r["head"]) == place)["delta_nll"]) for place in thinking.ranking(rows)
    ]
    assert sizes == sorted(sizes)


def test_reach():
    rows = [
        {"n_linearized": n, "think_against_answer": {"verdict": v}}
        for n, v in ((0, "above"), (6, "above"), (12, "alike"), (18, "below"), (24, "alike"))
    ]
    assert thinking.reach(rows) == {"above": 6, "not_below": 12}
    assert thinking.reach(rows[2:]) == {"above": None, "not_below": 12}
    assert thinking.reach(rows[3:]) == {"above": None, "not_below": None}


def test_times_are_those_of_a_batch(examiner):
    rows = speed.measure(examiner, {0: Plan(), 4: Plan.of("relu", ORDER)}, runs=2)
    assert [(row["way"], row["n_linearized"]) for row in rows] == [
        ("answer", 0),
        ("answer", 4),
        ("think", 0),
        ("think", 4),
    ]
    assert min(row["n_problems"] for row in rows) >= 12
    assert [row["new_tokens"] for row in rows] == [2, 2, 5, 5]
    assert all(row["ms"] > 0 for row in rows)


def test_scored_and_ranking_problems_are_different():
    drawn = asking.divided(asking.OwnWords(), 20, 7, seed=3)
    assert (len(drawn["scored"]), len(drawn["ranking"])) == (60, 21)
    assert len({p.text for p in drawn["scored"] + drawn["ranking"]}) == 81
    assert drawn["levels"] == ["easy"] * 20 + ["middle"] * 20 + ["hard"] * 20


TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


@pytest.fixture(scope="module")
def chat_tokenizer():
    if not EMBEDDED.is_dir():
        pytest.skip("models/embedded is not there")
    tokenizer = loading.load_tokenizer(EMBEDDED)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def test_a_llama_with_a_chat_template_is_asked_through_it(chat_tokenizer, tmp_path):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = shaken(LlamaForCausalLM(config), size=0.1)
    manner = asking.manner(chat_tokenizer)
    drawn = manner.problems(manner.levels[0], 2, seed=0)
    examiner = Examiner(Respondent(model, chat_tokenizer, Store(tmp_path), "f"), manner, drawn)
    outcome = examiner.outcome(Plan.of("relu", [(0, 0), (1, 3)]), 1, 2, 0.8)
    story = drawn[0]
    assert outcome.answer.prompts[0] == f"[user] {word_problems.request(story, 'answer')}\n[assistant] "
    draft = outcome.answer.first[0] or "?"
    assert f"answered {draft}, which" in outcome.revised[0].prompts[0]
    rung = thinking.Rung(examiner, outcome, Shape.of(config), 2, [1, 2])
    assert rung.figures(rung, draws=100)["answer_against_answer"]["difference"] == 0


def test_a_tokenizer_without_a_template_is_refused_in_one_line():
    tokenizer = loading.load_tokenizer(EMBEDDED) if EMBEDDED.is_dir() else pytest.skip("models/embedded is not there")
    with pytest.raises(InputError, match="has no chat template; allowed: models/reasoner") as caught:
        asking.manner(tokenizer)
    assert "\n" not in str(caught.value)


def test_a_template_that_fails_is_one_line(chat_tokenizer, monkeypatch):
    monkeypatch.setattr(chat_tokenizer, "chat_template", "{{ raise_exception('no') }}")
    manner = asking.Chat(chat_tokenizer)
    with pytest.raises(InputError, match="chat template fails"):
        manner.prompt(manner.problems(manner.levels[0], 1, 0)[0], "answer")


@pytest.mark.skipif(not REASONER.is_dir(), reason="models/reasoner is not there")
def test_the_reasoner_is_worth_asking():
    """By plain `transformers`: at once between 25 and 75 % right, thinking 20 points better."""
    tokenizer, model = loading.load_tokenizer(REASONER), loading.load_model(REASONER)
    assert sum(path.stat().st_size for path in REASONER.iterdir()) <= 3 * 2**20
    manner = asking.manner(tokenizer)
    drawn = asking.divided(manner, 16, 1, seed=5)["scored"]
    share = {}
    for way in ("answer", "think"):
        texts = [greedy(model, tokenizer, manner.prompt(p, way), Plan(), manner.room(p, way)) for p in drawn]
        share[way] = np.mean([manner.said(text, way) == p.answer for text, p in zip(texts, drawn, strict=True)])
    assert 0.25 <= share["answer"] <= 0.75
    assert share["think"] >= share["answer"] + 0.2


def test_charts_show_every_rung_in_both_languages(rungs):
    rows = [rung.figures(rungs[0], draws=100) for rung in rungs.values()]
    for draw in (charts.accuracy, charts.by_flops):
        drawn = draw(rows)
        shown = {
            text for lang in ("ja", "en") for text in [json.dumps(render.localise(drawn, lang), ensure_ascii=False)]
        }
        assert all("正答率" in text or "right answers" in text for text in shown)
        assert len(shown) == 2
    values = [row for data in charts.accuracy(rows).to_dict()["layer"] for row in data["data"]["values"]]
    think = {row["n"]: row["value"] for row in values if row["way"] == "thinking aloud"}
    assert think == {row["n_linearized"]: row["think"] for row in rows}
