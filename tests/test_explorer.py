"""The explorer's ladders: what the results hold, sections that are missing, and the arithmetic beside them."""

import pytest
from synthetic import results

from lib.analysis import flops
from lib.errors import InputError
from report import explorer, prose

GPT2 = flops.Shape(12, 12, 12, 64, 768, 3072, 50257)


def sections(*names, **changed):
    found = {name: data for name, data in results().items() if name in names}
    parameters = {"prompt_tokens": 128, "new_tokens": 64}
    return {name: {"data": data | changed.get(name, {}), "parameters": parameters} for name, data in found.items()}


def offered(found):
    return {(ladder["mode"], ladder["tokens"]) for ladder in explorer.ladders(found)}


def test_only_what_was_measured_is_offered():
    quick = {(mode, "2k") for mode in ("relu", "mix", "factored", "mean", "zero")}
    assert offered(sections("setup", "phases")) == quick
    v4 = {("relu", "full"), ("relu", "2k"), ("factored", "full")}
    assert offered(sections("setup", "V4", V4={"controls": None})) == v4
    assert offered(sections("phases", "V4")) == set()
    assert offered(sections("setup", "V1")) == set()


def test_controls_stand_by_themselves_and_only_where_they_were_measured():
    spread = {(mode, "spread") for mode in ("relu", "mean", "zero", "uniform")}
    with_controls, without = sections("setup", "V4"), sections("setup", "V4", V4={"controls": None})
    assert offered(with_controls) - offered(without) == spread
    assert explorer.for_page(explorer.ladders(with_controls))["tokens"] == ["full", "2k", "spread"]
    assert explorer.for_page(explorer.ladders(without))["tokens"] == ["full", "2k"]
    rows = next(row for row in results()["V4"]["controls"]["rows"] if row["control"] == "uniform")["cumulative"]
    found = explorer.ladders(with_controls)
    shown = next(ladder for ladder in found if (ladder["mode"], ladder["tokens"]) == ("uniform", "spread"))["rows"]
    assert [(row["n"], row["ratio"]) for row in shown] == [(row["n"], row["ratio"]) for row in rows]


def test_where_the_2k_holds_too_few_documents_its_intervals_say_so():
    setup = results()["setup"]
    few = setup["documents"] | {"resampled_quick": setup["documents"]["resampled_quick"] | {"scope": "these_chunks"}}
    found = explorer.ladders(sections("setup", "V4", setup={"documents": few}))
    assert {row["tokens"] for row in found if row["alone"]} == {"2k"}
    told = explorer.for_page(found)["words"]
    enough = explorer.for_page(explorer.ladders(sections("setup", "V4")))["words"]
    for lang, words in prose.QUICK_ALONE.items():
        assert told["note"][lang].endswith(words) and words not in enough["note"][lang]
        assert told["2k"][lang] != enough["2k"][lang] == told["in_table"][lang]


def test_a_ladder_holds_the_results_and_the_counts():
    found = explorer.ladders(sections("setup", "phases", "V4", "P3"))
    zero = next(ladder for ladder in found if (ladder["mode"], ladder["tokens"]) == ("zero", "2k"))["rows"]
    for row, measured in zip(zero, results()["phases"]["zero"]["cumulative"], strict=True):
        assert {key: row[key] for key in measured} == measured
        gone = row["n"] / 144
        assert row["saved_attention"] == pytest.approx(gone)
        assert row["saved_model"] == pytest.approx(gone * flops.attention_share(GPT2, 1024))
        assert row["extra_attention"] == int(64 / (1 - gone)) - 64
    factored = next(ladder for ladder in found if (ladder["mode"], ladder["tokens"]) == ("factored", "full"))["rows"]
    for row in factored:
        counted = flops.equal_flops(GPT2, row["n"], 128, 64)
        assert row["extra_attention"] == counted["extra_attention"]
        assert row["extra_model"] == counted["extra_model_factored"]


def test_tokens_are_not_counted_without_generation_nor_without_end():
    row = explorer.counter(results()["setup"], {})("relu", 30)
    assert row["extra_attention"] is None and row["extra_model"] is None
    assert row["saved_attention"] == flops.published_saving(30, 144)
    all_gone = explorer.counter(results()["setup"], {"prompt_tokens": 128, "new_tokens": 64})("zero", 144)
    assert all_gone["extra_attention"] is None and all_gone["extra_model"] > 0


def test_data_beyond_the_limit_is_refused():
    found = explorer.ladders(sections("setup", "phases"))
    assert explorer.for_page(found)["modes"]["zero"] == {"ja": "ゼロ置換", "en": "zero"}
    with pytest.raises(InputError, match="the explorer's data: .* allowed: 307,200"):
        explorer.for_page(found * 40)
