"""Sentences, tables and figures: numbers come from results, hostile strings stay words, both languages say the same."""

import ast
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from synthetic import HOSTILE, results

from lib.errors import InputError
from report import markdown, prose
from report.charts import validation

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.fixture
def shown(monkeypatch, tmp_path):
    """What the calls displayed, as `(bundle, metadata)`; the bound run's results are the synthetic ones."""
    outputs = []
    monkeypatch.setattr(prose, "show", lambda bundle, metadata: outputs.append((bundle, metadata)))
    monkeypatch.setattr(prose, "_run", None)
    prose.bind(SimpleNamespace(results=results(model_name=HOSTILE), figures=tmp_path, slug="tiny", section="V1"))
    return outputs


def sentence(shown, ja, en=None, **values):
    """The two plain texts of one `say`."""
    shown.clear()
    prose.say(ja, en if en is not None else ja, **values)
    assert [m["lang"] for _, m in shown] == ["ja", "en"]
    return tuple(bundle["text/plain"] for bundle, _ in shown)


def test_a_2k_interval_says_where_it_stands_that_it_speaks_of_its_chunks_alone(shown):
    scope = prose.bound().results["setup"]["documents"]["resampled_quick"]
    scope["scope"] = "other_text"
    assert prose.quick_note("甲。", "One.") == {"note_ja": "甲。", "note_en": "One."}
    scope["scope"] = "these_chunks"
    note = prose.quick_note("甲。", "One.")
    assert note["note_ja"].startswith("甲。2K") and note["note_en"].startswith("One. The 2K")
    assert note["note_en"].endswith("chunks alone.")
    prose.table(
        "t", "表", "Table", columns=[("a", "甲", "A", "d ci")], rows=[{"a": 1, "a_ci": [0, 2]}], **prose.quick_note()
    )
    texts = [json.dumps(bundle, ensure_ascii=False) for bundle, _ in shown]
    assert prose.QUICK_ALONE["ja"] in texts[0] and prose.QUICK_ALONE["en"] in texts[1]


@pytest.mark.parametrize(
    ("mark", "ja", "en"),
    [
        ("{V1.ppl_full:.2f}", "31.04", "31.04"),
        ("{V1.ppl_full_ci:.1f}", "[30.0, 32.1]", "[30.0, 32.1]"),
        ("{V4.cumulative[n_linearized=30].n_linearized}", "30", "30"),
        ("{V4.cumulative[n_linearized=n].n_linearized}", "30", "30"),
        ("{V4.cumulative[-1].n_linearized}", "132", "132"),
        ("{V4.thresholds_full[1.1]}", "20", "20"),
        ("{V2.top10[layer=1,head=5].delta_ppl_2k:+.1%}", "+84.9%", "+84.9%"),
        ("{V2.top10[0]:head}", "L0H0", "L0H0"),
        ("{first.rank_full}", "1", "1"),
        ("{V5.bias:term}", "楽観的", "optimistic"),
        ("{V5.conclusions_maintained:term}", "はい", "yes"),
        ("{setup.relu_counts:list}", "30、70", "30, 70"),
        ("{phases.ranking[0]:head}", "L1H0", "L1H0"),
        ("{n:d}", "30", "30"),
        ("{negative:.1f}", "−2.5", "−2.5"),
        ("{nothing:.2f}", "—", "—"),
        ("{words}", "語", "word"),
    ],
)
def test_marks_print_what_results_hold(shown, mark, ja, en):
    values = {
        "n": 30,
        "negative": -2.5,
        "nothing": None,
        "words": {"ja": "語", "en": "word"},
        "first": prose.at("V2.top10[0]"),
    }
    used = {k: v for k, v in values.items() if k in mark}
    assert sentence(shown, mark, **used) == (ja, en)


def test_each_number_links_to_its_result_and_shows_it_exactly(shown):
    template = "{V4.cumulative[n_linearized=30].ratio:.1f} {share:.0%}"
    prose.say(template, template, share=0.256)
    exact = results()["V4"]["cumulative"][3]["ratio"]
    text = shown[0][0]["text/markdown"]
    assert f'(#V4.cumulative.3.ratio "V4.cumulative.3.ratio = {exact!r}")' in text
    assert '[26%](#cell "share = 0.256")' in text


@pytest.mark.parametrize(
    ("ja", "en", "complaint"),
    [
        ("頭は5個", "heads", "typed digit"),
        ("全角の３", "three", "typed digit"),
        ("PPL", "PPL of 31.04", "typed digit"),
        ("{V1.ppl_full:.2f}", "PPL", "same marks"),
        ("{V1.ppl_full:.2f}", "{V1.ppl_2k:.2f}", "same marks"),
        ("{V1.nothing}", "{V1.nothing}", "no 'nothing'"),
        ("{V9.ppl}", "{V9.ppl}", "no value or section 'V9'"),
        ("{V4.cumulative[n_linearized=31].ppl}", "{V4.cumulative[n_linearized=31].ppl}", "no row"),
        ("{V4.cumulative[99].ppl}", "{V4.cumulative[99].ppl}", "no \\[99\\]"),
        ("{V1.ppl_full", "{V1.ppl_full", "stray brace"),
        ("{V1.ppl_full:.2q}", "{V1.ppl_full:.2q}", "does not fit"),
        ("{V1}", "{V1}", "go on to one of"),
        ("{V5.conclusions_maintained}", "{V5.conclusions_maintained}", "truth value"),
        ("{V5.max_threshold_shift:term}", "{V5.max_threshold_shift:term}", "no term"),
    ],
)
def test_bad_templates_stop_with_one_line(shown, ja, en, complaint):
    with pytest.raises(InputError, match=complaint) as caught:
        prose.say(ja, en)
    assert "\n" not in str(caught.value)
    assert shown == []


@pytest.mark.parametrize(
    "name",
    [
        "GPT-2",
        "WikiText-2",
        "V1",
        "P4",
        "2K",
        "Phase 1.5",
        "フェーズ2",
        "L1",
        "bfloat16",
        "95 %",
        "仮説5",
        "hypothesis 5",
        "4-gram",
        "$O(T^2 d)$",
        "`exp10v_validation`",
    ],
)
def test_names_with_digits_are_names(shown, name):
    assert sentence(shown, name) is not None


@pytest.mark.parametrize("number", ["GPT-3", "V6", "12K", "L0H8", "P10", "96 %"])
def test_other_words_with_digits_are_numbers(shown, number):
    with pytest.raises(InputError, match="typed digit"):
        prose.say(number, number)


def test_hostile_strings_come_out_as_their_own_words(shown):
    prose.say("{setup.model.name}", "{setup.model.name}")
    source = shown[0][0]["text/markdown"]
    [blocks] = markdown.read([markdown.Text(source, "ja", "V1", "cell-V1-1")])
    kinds = set(re.findall(r'"t": "(\w+)"', json.dumps(blocks)))
    assert kinds <= {"Para", "Str", "Space", "Quoted", "DoubleQuote"}
    assert markdown.plain(blocks).replace("“", '"').replace("”", '"') == HOSTILE


def test_invisible_characters_are_dropped(shown):
    assert sentence(shown, "{x}", x="a\u202eb\u200bc\x07d\ne") == ("abcd e", "abcd e")


def test_each_gives_one_line_per_row(shown):
    prose.say("- {row.n_linearized}", "- {row.n_linearized}", each="V4.cumulative")
    assert shown[1][0]["text/plain"].splitlines()[:3] == ["- 0", "- 10", "- 20"]


def test_table_has_ghosts_intervals_and_paths(shown):
    rows = prose.bound().results["V4"]["cumulative"]
    prose.table(
        "ladder",
        "段。",
        "Steps.",
        [("n_linearized", "数", "heads", "d"), ("ppl", "PPL", "PPL", ".2f ci")],
        rows,
        published={"ppl": [24.27] + [None] * 11},
    )
    content = shown[1][0][prose.TABLE_MIME]
    assert [c["text"] for c in content["columns"]] == ["heads", "PPL", "published†"]
    assert [c["ghost"] for c in content["columns"]] == [False, False, True]
    assert content["rows"][0][2]["text"] == "24.27"
    assert content["rows"][1][2]["text"] == "—"
    assert content["rows"][3][1]["path"] == "V4.cumulative.3.ppl"
    low, high = rows[3]["ppl_ci"]
    assert content["rows"][3][1]["interval"] == f"[{low:.2f}, {high:.2f}]"
    assert "GPT-2 small" in content["note"]


def test_published_figures_of_the_same_model_bear_no_mark(shown, monkeypatch):
    monkeypatch.setitem(prose.bound().results["setup"]["model"], "is_gpt2_small", True)
    prose.table(
        "ladder", "段。", "Steps.", [("ppl", "PPL", "PPL", ".2f")], "V4.cumulative", published={"ppl": lambda row: 1.0}
    )
    content = shown[0][0][prose.TABLE_MIME]
    assert content["columns"][1]["text"] == "公表値"
    assert content["note"] == ""


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"published": {"ratio": []}}, "not among its columns"),
        ({"published": {"ppl": [1.0]}}, "1 published figures for 12 rows"),
        ({"columns": [("pppl", "PPL", "PPL", ".2f")]}, "the row has only"),
    ],
)
def test_bad_tables_stop(shown, arguments, complaint):
    given = {"columns": [("ppl", "PPL", "PPL", ".2f")], "rows": "V4.cumulative"} | arguments
    with pytest.raises(InputError, match=complaint):
        prose.table("x", "段。", "Steps.", **given)


def test_figure_leaves_a_picture_per_language_named_after_its_section(shown, tmp_path):
    prose.figure("baseline", validation.baseline(results()["V1"]), "説明{n}", "caption {n}", "代替", "alternative", n=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["exp10v_baseline_ja_tiny.png", "exp10v_baseline_tiny.png"]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in tmp_path.iterdir())
    bundle, metadata = shown[1]
    assert metadata["figure"] == "baseline"
    assert metadata["alt"] == "alternative"
    assert prose.VEGALITE_MIME in bundle


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ("V4", "exp10v_x_tiny.png"),
        ("P1", "exp10p1_x_tiny.png"),
        ("P4", "exp10p4_x_tiny.png"),
        ("K", "exp10k_x_tiny.png"),
        ("phases", "exp10_x_tiny.png"),
    ],
)
def test_figure_files_are_named_by_part(shown, section, name):
    prose.bound().section = section
    assert prose.figure_path("x", "en").name == name


def test_quoted_text_is_data_and_not_markup(shown):
    prose.quote(HOSTILE)
    for bundle, metadata in shown:
        assert set(bundle) == {prose.QUOTE_MIME, "text/plain"}
        assert bundle[prose.QUOTE_MIME]["text"] == HOSTILE
        assert metadata["lang"] in ("ja", "en")


def test_a_long_quotation_is_cut_after_its_first_lines(shown):
    prose.quote(
        "\n".join(map(str, range(50))),
        ja="冒頭（{row.condition:condition}）",
        en="Start ({row.condition:condition})",
        row={"condition": "relu_30"},
    )
    contents = [bundle[prose.QUOTE_MIME] for bundle, _ in shown]
    assert [content["label"] for content in contents] == ["冒頭（ReLU 30ヘッド）", "Start (ReLU 30 heads)"]
    assert all(content["text"].split("\n") == [*map(str, range(prose.QUOTED_LINES)), "…"] for content in contents)


def test_a_column_can_give_each_row_its_own_format(shown):
    rows = [{"what": "a", "value": 0.5, "form": "+.0%"}, {"what": "b", "value": 2.0, "form": ".2f"}]
    columns = [("what", "名", "Name", "s"), ("value", "値", "Value", lambda row: row["form"])]
    prose.table("t", "表。", "Table.", columns=columns, rows=rows, published={"value": [0.25, None]})
    texts = [[cell["text"] for cell in row] for row in shown[1][0][prose.TABLE_MIME]["rows"]]
    assert texts == [["a", "+50%", "+25%"], ["b", "2.00", "—"]]


def test_glossary_has_both_languages_and_no_term_avoids_another():
    for name, term in prose.glossary().items():
        assert term["ja"], name
        assert term["en"], name
        for lang in prose.LANGUAGES:
            avoided = term.get(f"avoid_{lang}", [])
            clashes = [(a, t[lang]) for a in avoided for t in prose.glossary().values() if a in t[lang]]
            assert clashes == [], name


def texts_of(path):
    """`(language, text)` of a notebook's Markdown cells and of the texts that its calls state."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            tags = cell["metadata"].get("tags", [])
            yield from ((lang, source) for lang in prose.LANGUAGES if lang in tags or f"lang-{lang}" in tags)
        elif cell["cell_type"] == "code":
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.keyword) and node.arg:
                    lang = node.arg.removeprefix("caption_").removeprefix("alt_").removeprefix("note_")
                    words = [
                        n.value
                        for n in ast.walk(node.value)
                        if isinstance(n, ast.Constant) and isinstance(n.value, str)
                    ]
                    if lang in prose.LANGUAGES:
                        yield from ((lang, word) for word in words)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_keep_to_the_glossary(path):
    broken = [
        (lang, avoided, name)
        for lang, text in texts_of(path)
        for name, term in prose.glossary().items()
        for avoided in term.get(f"avoid_{lang}", [])
        if avoided in text
    ]
    assert broken == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_markdown_cells_come_in_pairs(path):
    languages = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        tags = cell["metadata"].get("tags", [])
        if cell["cell_type"] == "markdown":
            languages += [lang for lang in prose.LANGUAGES if lang in tags or f"lang-{lang}" in tags]
    assert languages == ["ja", "en"] * (len(languages) // 2)
