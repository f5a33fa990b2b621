"""The measurements that are kept as dated data, run on a few chunks of a small profile."""

import numpy as np
import pytest
from conftest import ROOT

from lib.analysis import coverage_study, head_effects, head_study, whole_text
from lib.analysis.perplexity import ppl
from lib.engine.interventions import Plan
from lib.model import loading
from lib.results import dated

CHUNKS = 2


@pytest.fixture(scope="module", autouse=True)
def build(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXPERIMENT10_BUILD", str(tmp_path_factory.mktemp("build")))
        yield


def test_every_head_is_zeroed_on_every_chunk():
    record = head_study.study("smoke", CHUNKS)
    text = whole_text.opened("smoke", CHUNKS)
    rows = record["rows"]
    assert sorted((row["layer"], row["head"]) for row in rows) == text.heads
    assert [row["rank"] for row in rows] == list(range(1, len(text.heads) + 1))
    assert [row["delta"] for row in rows] == sorted((row["delta"] for row in rows), reverse=True)
    assert sorted(row["rank_2k"] for row in rows) == list(range(1, len(text.heads) + 1))
    quick = text.values["quick_chunks"]
    for row in rows[:3]:
        plan = Plan.of("zero", [(row["layer"], row["head"])])
        scores = text.evaluator.score([Plan(), plan], CHUNKS)
        for key, n in (("delta", CHUNKS), ("delta_2k", quick)):
            assert row[key] == pytest.approx(ppl(scores[plan][:n]) / ppl(scores[Plan()][:n]) - 1, rel=1e-9)
        low, high = row["delta_ci"]
        assert low <= row["delta"] <= high and row["rank_ci"][0] <= row["rank_ci"][1]
    assert record["text"]["n_chunks"] == CHUNKS == record["provenance"]["parameters"]["full_chunks"]


def test_coverage_is_of_all_windows():
    record = coverage_study.study(8, "smoke")
    size = record["quick"]["n_window"]
    assert record["text"]["n_chunks"] == 8
    assert {row["n_windows"] for row in record["quick"]["figures"]} == {8 - size + 1}
    assert all(0 <= row["covered"] <= 1 for row in record["by_chunk"]["figures"])


def test_the_kept_heads_are_all_heads_of_the_embedded_model():
    record = dated.latest("heads")
    assert record is not None
    about = record["provenance"]
    assert about["model"]["fingerprint"] == loading.fingerprint(ROOT / "models" / "embedded")
    assert about["commit"] and not about["dirty"] and about["times"]["started"][:10] == record["date"]
    heads = {(row["layer"], row["head"]) for row in record["rows"]}
    assert heads == {(layer, head) for layer in range(12) for head in range(12)} and len(record["rows"]) == 144
    shown = head_effects.kept(record, {"file": "x"}, 10)
    assert shown["n_heads"] == 144 and len(shown["rows"]) == 10
    assert [row["rank"] for row in shown["rows"]] == list(range(1, 11))
    assert np.all(np.diff([row["delta"] for row in record["rows"]]) <= 0)
