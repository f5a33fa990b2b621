"""Parts R and S: figures of scale, recovery, orders and what perplexity does not see, against values made by hand."""

import math

import measured
import numpy as np
import pytest
import synthetic
import tiny_models
import torch
import torch.nn.functional as F

from lib.analysis import beyond, orders, recovered, scale
from lib.analysis.bootstrap import Resampler
from lib.claims import questions
from lib.engine import comparing, importance, likelihood
from lib.engine.interventions import Plan, apply
from lib.engine.scoring import Evaluator
from lib.errors import InputError
from lib.model import corpus
from lib.results import dated, io, profiles
from lib.store import Store
from lib.training import recovery
from report import prose, verdicts

HEADS = [(layer, head) for layer in (1, 2) for head in range(4)]


def model_row(n_params, half):
    """A model whose ladder loses half of its log PPL at the share `half`."""
    ladder = [{"n": 0, "ratio": 1.0}, {"n": round(100 * half), "ratio": 2.0}, {"n": 100, "ratio": 4.0}]
    zeroed = [{"layer": 0, "delta": 0.6}, {"layer": 1, "delta": -0.2}, {"layer": 1, "delta": 0.2}]
    return scale.row("m", n_params, ladder, zeroed, 100)


def test_a_models_figures_by_hand():
    row = model_row(10**6, 0.4)
    assert row["shares"]["half"] == pytest.approx(0.4)
    assert row["shares"]["2.0"] == pytest.approx(0.4)
    assert row["shares"]["1.1"] == pytest.approx(0.4 * math.log(1.1) / math.log(2))
    assert row["layer_0_share"] == pytest.approx(0.6)
    assert row["last_share"] == pytest.approx(0.5 * 10 / 60)
    free = scale.row("m", 1, [{"n": 0, "ratio": 1.0}, {"n": 100, "ratio": 0.9}], [{"layer": 0, "delta": 1.0}] * 3, 100)
    assert free["last_share"] is None and free["shares"]["1.01"] == 1


def test_the_slope_is_that_of_the_line_and_its_interval_students():
    shares = [0.3, 0.42, 0.5, 0.62]
    models = [model_row(10 ** (5 + i), share) for i, share in enumerate(shares)]
    row = next(row for row in scale.slopes(models) if row["figure"] == "half")
    x = np.arange(4.0)
    slope, intercept = np.polyfit(x, shares, 1)
    spread = math.sqrt(((np.array(shares) - slope * x - intercept) ** 2).sum() / 2 / ((x - x.mean()) ** 2).sum())
    assert row["slope"] == pytest.approx(slope)
    assert row["slope_ci"] == pytest.approx([slope - 4.302653 * spread, slope + 4.302653 * spread])
    assert questions.asked("R3", {"family": models, "slopes": scale.slopes(models)})[0]["verdict"] == "holds"


def test_shares_that_all_stand_at_one_have_no_slope():
    ladder, zeroed = [{"n": 0, "ratio": 1.0}, {"n": 9, "ratio": 1.02}], [{"layer": 0, "delta": 1.0}] * 3
    models = [scale.row("m", 10**i, ladder, zeroed, 9) for i in (3, 4, 5, 6)]
    row = next(row for row in scale.slopes(models) if row["figure"] == "1.1")
    assert row["slope"] is None and row["capped"] == 4
    verdict = questions.asked("R3", {"family": models, "slopes": scale.slopes(models)})[0]["verdict"]
    assert verdict == "open"
    assert questions.asked("R3", {"family": [], "slopes": []})[0]["verdict"] == "not measured"


def points(excess, control=3.0, n_chunks=12, copying=0.5):
    """Points of a training whose held-out NLL is `control` plus these excesses, a little different in each chunk."""
    noise = np.random.default_rng(0).normal(0, 0.01, n_chunks)
    found = []
    for i, over in enumerate(excess):
        nll = (control + over + noise).tolist()
        probe = {"gain": [copying] * 8, "first": [0.1] * 8, "second": [0.4] * 8}
        more = {"nll_zeroed": (np.array(nll) + 0.2).tolist(), "nll_other": nll, "copying": probe}
        found.append({"tokens": 100 * i, "nll": nll} | more)
    return found


def test_recovery_is_the_part_of_the_excess_that_is_gone():
    found = recovered.summary([points([1.0, 0.6, 0.2])], [points([0.0, 0.0, 0.0])])
    assert [point["share"] for point in found["points"]] == pytest.approx([0, 0.4, 0.8])
    assert found["half"] == pytest.approx(125) and found["nine_tenths"] is None
    assert found["share_ci"] == pytest.approx([0.8, 0.8])
    assert found["nine_tenths_ci"] == [None, None]
    assert found["zeroed_after"] == pytest.approx(math.exp(0.2))
    assert found["other_share"] == pytest.approx(0.8)


def test_a_control_that_improves_as_much_leaves_nothing_recovered():
    found = recovered.summary([points([1.0, 0.7])], [points([0.0, -0.3])])
    assert found["share"] == pytest.approx(0)
    free = recovered.summary([points([-0.1, 0.0])], [points([0.0, 0.0])])
    assert all(free[key] is None for key in ("share", "share_ci", "half", "half_ci"))
    row = free | {"arm": "all", "n_heads": 8}
    assert questions.asked("R4", {"kept_rows": [], "rows": [row]})[0]["verdict"] == "open"
    with pytest.raises(InputError, match="same marks"):
        recovered.summary([points([1.0, 0.7])], [points([0.0])])


def test_seeds_that_differ_widen_the_interval():
    one = recovered.summary([points([1.0, 0.5])] * 3, [points([0.0, 0.0])] * 3)
    three = recovered.summary([points([1.0, x]) for x in (0.3, 0.5, 0.7)], [points([0.0, 0.0])] * 3)
    assert three["share"] == pytest.approx(one["share"])
    assert three["share_ci"][1] - three["share_ci"][0] > 0.1 > one["share_ci"][1] - one["share_ci"][0]


def test_chunks_of_one_document_are_one_observation():
    """Excess that differs by document: the interval is Student's over documents, whatever the number of chunks."""
    left = np.array([0.5, 0.3, 0.6, 0.45, 0.4, 0.55])
    own, control = points([1.0, 0.0]), points([0.0, 0.0])
    own[1]["nll"] = (np.array(control[1]["nll"]) + np.repeat(left, 2)).tolist()
    own[1]["nll_other"] = own[1]["nll"]
    documents = {"heldout": np.repeat(np.arange(6), 2).tolist()}
    found = recovered.summary([own], [control], documents, draws=40_000)
    reach = 2.5706 * left.std(ddof=1) / math.sqrt(6)
    assert found["share"] == pytest.approx(1 - left.mean())
    assert found["share_ci"] == pytest.approx([1 - left.mean() - reach, 1 - left.mean() + reach], abs=0.1 * reach)
    alone = recovered.summary([own], [control], None, draws=40_000)
    assert np.ptp(alone["share_ci"]) < 0.9 * np.ptp(found["share_ci"])
    assert found["other_share_ci"] == alone["other_share_ci"]


def test_a_chunk_belongs_to_the_document_of_most_of_its_tokens():
    documents = np.repeat([0, 1, 2], [6, 11, 7])
    texts = recovery.Texts.of((np.arange(24), documents), (np.arange(24), documents * 2), 8, 3, 2, 4)
    assert texts.documents == {"heldout": [0, 1, 2], "other": [0, 2, 4]}


def test_the_table_pairs_every_arm_with_its_control():
    def case(arm, n_heads, excess):
        return {"arm": arm, "n_heads": n_heads, "seed": 1, "name": f"{arm}-{n_heads}-seed1", "points": points(excess)}

    grid = (("all", 0, [0, 0]), ("all", 8, [1, 0.5]), ("transfer", 8, [1, 0.4]), ("low_rank", 8, [1, 0.1]))
    cases = [case(*row) for row in grid]
    rows = recovered.table(cases)
    assert [(row["arm"], round(row["share"], 3)) for row in rows] == [("all", 0.5), ("transfer", 0.6)]
    data = {"kept_rows": [], "rows": rows}
    assert questions.asked("R4", data)[0]["verdict"] == "holds"
    assert questions.asked("R4", data)[0]["evidence"]["arm"] == "transfer"


def engine_of(model, tokens, folder):
    return Evaluator(model, tokens, Store(folder), model_key="m")


def test_comparing_is_the_textbook_divergence(tmp_path, monkeypatch):
    monkeypatch.setattr(likelihood, "CPU_BLOCK", 5 * tiny_models.gpt2().config.vocab_size)
    model, tokens = tiny_models.gpt2(), tiny_models.tokens(2, 12)
    plan = Plan.of("relu", [(1, 0), (2, 3)])
    found = comparing.stacked(engine_of(model, tokens, tmp_path), [Plan(), plan])
    assert not found[Plan()].kl.any() and found[Plan()].agrees.all()
    with torch.no_grad():
        base = model(tokens.long()).logits.double().softmax(-1)
        with apply(model, plan):
            own = model(tokens.long()).logits.double().softmax(-1)
    kl = (base * (base / own).log()).sum(-1)[:, :-1]
    assert np.allclose(found[plan].kl, kl, atol=1e-5)
    assert (found[plan].kl > 0).all()
    assert np.array_equal(found[plan].agrees > 0, (base.argmax(-1) == own.argmax(-1))[:, :-1].numpy())
    right = own[:, :-1].gather(-1, tokens.long()[:, 1:, None])[..., 0]
    assert np.allclose(found[plan].nll, -right.log(), atol=1e-5)


def test_importance_is_the_derivative_of_the_loss():
    model, tokens = tiny_models.gpt2().double(), tiny_models.tokens(1, 12).numpy()
    found = importance.head_importance(model, tokens)
    assert found.shape == (3, 4)
    arch = importance.adapter(model)

    def loss(layer, head, factor):
        bias = arch.value_bias(layer)

        def scaled(module, args):
            z = args[0].clone()
            own = slice(head * arch.d_head, (head + 1) * arch.d_head)
            z[..., own] = bias[head] + factor * (z[..., own] - bias[head])
            return (z,)

        hook = arch.output_projection(layer).register_forward_pre_hook(scaled)
        ids = torch.as_tensor(tokens).long()
        with torch.no_grad():
            value = F.cross_entropy(model(ids[:, :-1]).logits[0], ids[0, 1:])
        hook.remove()
        return float(value)

    for layer, head in ((0, 1), (2, 3)):
        slope = (loss(layer, head, 1 + 1e-5) - loss(layer, head, 1 - 1e-5)) / 2e-5
        assert found[layer, head] == pytest.approx(abs(slope), rel=1e-5)


def test_every_order_names_every_head_once_and_the_first_is_the_most_harmless(tmp_path):
    model = tiny_models.gpt2()
    engine = engine_of(model, tiny_models.tokens(2, 16), tmp_path)
    found = orders.chosen(engine, model, HEADS)
    assert set(found) == set(orders.ORDERS)
    assert all(sorted(order) == HEADS for order in found.values())
    single = comparing.stacked(engine, [Plan.of("relu", [head]) for head in HEADS])
    kl = {head: single[Plan.of("relu", [head])].kl.mean(dtype=float) for head in HEADS}
    assert found["kl"] == sorted(HEADS, key=kl.get)
    assert found["greedy"][:2] == found["kl"][:2]
    assert orders.by_kl(engine, HEADS) == found["kl"]


def test_every_second_rung_keeps_the_last():
    assert orders.spaced([0, 10, 20, 30, 132]) == [0, 20, 132]
    assert orders.spaced([0, 10, 20, 132]) == [0, 20, 132]


def drawn_scores(costs, ns, order, n_chunks=20, n_ctx=17):
    """Scores under which every head adds its own cost to the NLL."""
    base = np.random.default_rng(1).normal(3, 0.3, (n_chunks, n_ctx - 1)).astype(np.float32)
    return {Plan.of("relu", own[:n]): base + sum(costs[h] for h in own[:n]) for own in order for n in ns}


def test_the_better_order_has_the_smaller_area():
    costs = {head: 0.01 * (i + 1) for i, head in enumerate(HEADS)}
    ns, good, bad = [0, 4, 8], list(HEADS), HEADS[::-1]
    scores = drawn_scores(costs, ns, [good, bad])
    rows = orders.climbed({"abs_delta": [bad], "kl": [good], "random": [good, bad]}, ns, scores, Resampler(20, 17))
    by = {row["order"]: row for row in rows}
    assert by["kl"]["area"] == pytest.approx((0.10 / 2 * 4 + (0.10 + 0.36) / 2 * 4) / 8, abs=1e-5)
    assert by["kl"]["difference"] == pytest.approx(by["kl"]["area"] - by["abs_delta"]["area"])
    assert by["kl"]["difference_ci"][1] < 0
    assert by["random"]["area"] == pytest.approx((by["kl"]["area"] + by["abs_delta"]["area"]) / 2)
    assert by["kl"]["crossings"]["1.1"] > by["abs_delta"]["crossings"]["1.1"]
    assert by["abs_delta"]["difference"] is None
    assert questions.asked("S1", {"rows": rows})[0]["verdict"] == "holds"
    more = orders.climbed({"abs_delta": [bad], "ranking": [good], "kl_2k": [good]}, ns, scores, Resampler(20, 17))
    assert more[2]["difference"] == 0 > more[1]["difference"]
    unsure = [by["abs_delta"], by["kl"] | {"difference_ci": [-0.1, 0.1]}]
    assert questions.asked("S1", {"rows": unsure})[0]["verdict"] == "open"


def test_windows_share_no_document():
    documents = np.repeat([0, 0, 1, 2, 2, 3, 4, 5, 5, 6], 8).reshape(10, 8)
    select, climb = orders.windows(documents, 2, 3, used=2)
    assert len(select) == 2 and len(climb) == 3
    assert not set(documents[select].ravel()) & set(documents[climb].ravel())
    assert not {0, 1} & set(climb)
    assert orders.windows(np.zeros((1, 8), int), 2, 3) == ([0], [0])


def test_copying_kept_is_a_ratio_of_gains():
    full = {"gain": [2.0, 4.0], "first": [0.0, 0.2], "second": [0.8, 1.0]}
    half = {key: [x / 2 for x in values] for key, values in full.items()}
    rows = beyond.copied([full, half])
    assert rows[1]["kept"] == pytest.approx(0.5) and rows[1]["kept_ci"] == pytest.approx([0.5, 0.5])
    assert rows[0]["second"] == pytest.approx(0.9)
    nothing = beyond.copied([{"gain": [-1.0, 1.0], "first": [0, 0], "second": [0, 0]}, half])
    assert nothing[1]["kept"] is None


def rung(n, kept, ratio, reach=0.02):
    ends = {"kept_ci": [kept - reach, kept + reach], "ratio_ci": [ratio - reach, ratio + reach]}
    return {"n_linearized": n, "kept": kept, "ratio": ratio} | ends


@pytest.mark.parametrize(
    ("rungs", "verdict"),
    [
        ([rung(0, 1.0, 1.0), rung(10, 0.7, 1.03), rung(20, 0.2, 1.5)], "holds"),
        ([rung(0, 1.0, 1.0), rung(10, 0.95, 1.2), rung(20, 0.5, 1.5)], "fails"),
        ([rung(0, 1.0, 1.0), rung(10, 0.7, 1.1)], "open"),
        ([rung(0, 1.0, 1.0), rung(10, 0.9, 1.5)], "fails"),
    ],
)
def test_copying_breaks_first_or_not(rungs, verdict):
    first, told = beyond.first_break(rungs, 0.8), beyond.first_told(rungs, 1.1)
    data = {"rungs": rungs, "first_broken": first, "first_told": told, "told_limit": 1.1}
    assert questions.asked("S2", data)[0]["verdict"] == verdict


def test_a_model_that_does_not_copy_leaves_it_open():
    data = {"rungs": [rung(0, 1.0, 1.0) | {"kept": None, "kept_ci": None}], "first_broken": None, "told_limit": 1.1}
    assert questions.asked("S2", data | {"first_told": None})[0]["verdict"] == "open"


@pytest.mark.parametrize(("ends", "verdict"), [([0.02, 0.3], "holds"), ([-0.3, -0.02], "fails"), ([-0.1, 0.2], "open")])
def test_thinking_buys_back_or_not_and_the_section_says_so(ends, verdict, monkeypatch):
    paired = {"difference": sum(ends) / 2, "difference_ci": ends}
    rungs = [{"n_linearized": n, "think_against_answer": paired if n == 12 else None} for n in (0, 12, 36)]
    asked = questions.asked("R2", {"third": 12, "rungs": rungs, "reach": {"not_below": 30}})
    assert asked[0]["verdict"] == verdict
    shown = []
    monkeypatch.setattr(prose, "show", lambda bundle, metadata: shown.append(bundle["text/plain"]))
    verdicts.tell(asked)
    words = {lang: prose.term(verdict, lang) for lang in prose.LANGUAGES}
    assert shown[0].startswith(
        "「ヘッドの三分の一をReLUにしても、考えを書けば、介入なしのすぐの答えを上回る」の判定: " + words["ja"]
    )
    assert f"at once”: {words['en']}. Rule: The difference" in shown[1]


def test_docstrings_are_prose_and_an_unknown_package_is_one_line():
    rows = corpus.docstrings("jsonschema")
    assert any("Validator" in text for text in rows["text"])
    assert not any("import " in text and "def " in text and text.startswith("def") for text in rows["text"])
    with pytest.raises(InputError, match="no package 'nosuchpackage'"):
        corpus.docstrings("nosuchpackage")


def test_a_packages_sources_are_text():
    rows = corpus.package_dataset("jsonschema")
    assert any("class ValidationError" in text for text in rows["text"])
    assert all(path.suffix == ".py" and "tests" not in path.parts for path in corpus.package_files("jsonschema"))


def test_spread_chunks_lie_evenly():
    assert corpus.spread(np.arange(100), 5, 4)[:, 0].tolist() == [0, 25, 50, 75]
    with pytest.raises(InputError):
        corpus.spread(np.arange(10), 5, 3)


@pytest.mark.parametrize("kind", ["scale", "recovery"])
def test_the_kept_records_say_where_they_come_from(kind):
    record = dated.latest(kind)
    assert record["kind"] == kind and record["file"].startswith(record["date"])
    assert record["provenance"]["commit"] and record["provenance"]["command"] == f"make {kind}"
    assert dated.about(record, 7)["tokens"] == 7


def test_a_record_without_its_head_is_refused(tmp_path):
    assert dated.latest("scale", tmp_path) is None
    (tmp_path / "2026-01-01-scale.json").write_text('{"kind": "scale"}')
    with pytest.raises(InputError, match="lacks date, provenance"):
        dated.latest("scale", tmp_path)
    (tmp_path / "2026-01-02-scale.json").write_text("{")
    with pytest.raises(InputError, match="is no JSON"):
        dated.latest("scale", tmp_path)


def test_finished_profiles_are_those_with_every_section(tmp_path, monkeypatch):
    monkeypatch.setenv("EXPERIMENT10_BUILD", str(tmp_path))
    assert profiles.finished(["setup"]) == {}
    record = {"section": "V9", "parameters": {}, "data": {"a": 1}, "provenance": measured.PROVENANCE}
    io.write_json(io.section_path(tmp_path / "gpt2" / "results" / "data", "V9"), record, "section")
    assert profiles.finished(["V9"]) == {"gpt2": {"V9": {"a": 1}}}
    assert profiles.finished(["V9", "setup"]) == {}


def test_the_figures_draw():
    assert {"scale", "recovery", "orders", "beyond"} <= set(synthetic.all_charts())
