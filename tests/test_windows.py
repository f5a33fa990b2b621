import json

import numpy as np
import pytest

from lib.analysis import windows
from lib.errors import InputError
from lib.layout import ROOT
from lib.model import loading


def drawn(n_chunks, n_ctx=64, seed=0, spread=0.0):
    rng = np.random.default_rng(seed)
    return rng.normal(3, 1, (n_chunks, n_ctx - 1)) + rng.normal(0, spread, (n_chunks, 1))


def plain_window_values(nll, base, n):
    return [np.exp((nll[i : i + n] - base[i : i + n]).mean()) for i in range(len(nll) - n + 1)]


def test_every_window_s_value_and_the_first_one_s_place():
    base = drawn(12)
    nll = base + drawn(12, seed=1) / 10
    row = windows.coverage({"a": (nll, base)}, 2, draws=200)[0]
    values = plain_window_values(nll, base, 2)
    assert row["full"] == pytest.approx(np.exp((nll - base).mean()))
    assert (row["quick"], row["lowest"], row["highest"]) == pytest.approx((values[0], min(values), max(values)))
    assert row["median"] == pytest.approx(np.median(values))
    assert (row["n_windows"], row["n_disjoint"]) == (11, 6)
    below = sum(value < values[0] for value in values)
    assert row["percentile"] == pytest.approx(100 * (below + 0.5) / 11)


def test_a_figure_that_no_text_moves_is_always_covered():
    base = drawn(10)
    assert windows.coverage({"a": (base + 0.25, base)}, 2, draws=100)[0]["covered"] == 1.0


def test_text_of_independent_tokens_is_covered_as_promised_and_text_of_unlike_chunks_is_not():
    even = windows.coverage({"a": (drawn(200, 512), None)}, 2, draws=400)[0]["covered"]
    uneven = windows.coverage({"a": (drawn(200, 512, spread=0.5), None)}, 2, draws=400)[0]["covered"]
    assert 0.88 <= even <= 0.99
    assert uneven < 0.5


def test_the_ladder_s_coverage_has_every_rung_and_limit():
    base = drawn(10)
    steps = [base, base + 0.05, base + 0.3]
    found = windows.ladder_coverage([0, 10, 20], steps, 2, draws=100)
    assert [row["what"] for row in found["ratios"]] == ["ratio:10", "ratio:20"]
    assert [row["quick"] for row in found["ratios"]] == pytest.approx([np.exp(0.05), np.exp(0.3)])
    assert [row["full"] for row in found["thresholds"]] == [10, 20, 20]
    assert found["crossings"][0]["full"] == pytest.approx(10 + 10 * (np.log(1.1) - 0.05) / 0.25)
    assert all(row["covered"] == 1.0 and row["percentile"] == 50.0 for rows in found.values() for row in rows)


def test_a_window_larger_than_the_text_is_refused():
    with pytest.raises(InputError, match="n_quick=5"):
        windows.coverage({"a": (drawn(4), None)}, 5)


def test_chunks_spread_evenly():
    assert windows.spread_out(64, 4) == [0, 21, 42, 63]
    assert windows.spread_out(3, 10) == [0, 1, 2]


def kept():
    return [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((ROOT / "models" / "measured").glob("*-coverage.json"))
    ]


def test_the_kept_coverage_is_of_the_embedded_model_and_says_what_it_was_measured_with():
    (record,) = kept()
    about = record["provenance"]
    assert about["model"]["fingerprint"] == loading.fingerprint(ROOT / "models" / "embedded")
    assert (
        about["commit"] and not about["dirty"] and about["command"] and about["times"]["started"][:10] == record["date"]
    )
    assert record["text"]["n_chunks"] == 245
    for windows_of in ("quick", "full", "by_chunk"):
        size = record[windows_of]["n_window"]
        rows = sum((record[windows_of][kind] for kind in ("figures", "ratios", "thresholds", "crossings")), [])
        assert {row["n_windows"] for row in rows} == {245 - size + 1}
        for row in rows:
            hits = row["covered"] * row["n_windows"]
            assert hits == pytest.approx(round(hits), abs=1e-6) and 0 <= hits <= row["n_windows"]
            assert row["lowest"] <= row["median"] <= row["highest"] and row["lowest"] <= row["quick"] <= row["highest"]


def test_on_the_kept_text_documents_cover_more_often_than_chunks_do():
    (record,) = kept()
    by_document, by_chunk = (record[kind]["figures"][0] for kind in ("full", "by_chunk"))
    assert by_document["what"] == by_chunk["what"] == "ppl"
    assert by_document["covered"] > by_chunk["covered"] + 0.2


def test_what_is_shown_of_the_kept_coverage():
    (record,) = kept()
    shown = windows.kept(record, {"file": "x"})
    assert (shown["n_chunks"], shown["n_documents"], shown["about"]) == (245, 41, {"file": "x"})
    for found, name, size in zip(shown["windows"], ("quick", "full", "by_chunk"), (2, 64, 64), strict=True):
        assert (found["name"], found["n_window"], found["n_disjoint"]) == (name, size, 245 // size)
        heads = [row["covered"] for row in record[name]["figures"] if row["what"] != "ppl"]
        rows = {"ppl": [record[name]["figures"][0]["covered"]], "zero": heads} | {
            kind: [row["covered"] for row in record[name][key]]
            for kind, key in (("ratio", "ratios"), ("thresholds", "thresholds"), ("crossings", "crossings"))
        }
        assert [row["kind"] for row in found["kinds"]] == list(rows)
        for row in found["kinds"]:
            own = rows[row["kind"]]
            assert (row["n"], row["lowest"], row["highest"]) == (len(own), min(own), max(own))
            assert row["mean"] == pytest.approx(np.mean(own))
