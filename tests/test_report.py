"""The assembled report: one page and two books, alike to the byte, whole or not at all, with nothing that acts."""

import base64
import copy
import csv
import gzip
import hashlib
import html.parser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import markupsafe
import nbformat
import numpy as np
import pytest
from PIL import Image
from synthetic import HOSTILE, hostile_report, results

from lib.errors import InputError
from report import book, citation, document, markdown, page, reproducibility, tables
from report.assemble import assemble
from report.results_view import view
from report.words import LANGUAGES, PARTS, TITLE, WORDS, word

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def built():
    return hostile_report()


@pytest.fixture(scope="module")
def source(built):
    return (built / "report" / "report.html").read_text(encoding="utf-8")


class Elements(html.parser.HTMLParser):
    """All start tags with their attributes, and the text outside of script and style."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self._skip = [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._skip += tag in ("script", "style")

    def handle_endtag(self, tag):
        self._skip -= tag in ("script", "style")

    def handle_data(self, data):
        if not self._skip:
            self.text.append(data)


@pytest.fixture(scope="module")
def elements(source):
    return Elements(source)


@pytest.fixture
def copied(built, tmp_path):
    """Notebooks and results that a test may spoil."""
    for name in ("notebooks", "results"):
        shutil.copytree(built / name, tmp_path / name)
    return tmp_path


def edit(folder, name, change):
    """Applies `change` to the cells of an executed notebook."""
    path = folder / "notebooks" / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    change(notebook.cells)
    nbformat.write(notebook, path)


def say_all_again(cells):
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    cells.append(nbformat.v4.new_code_cell("again", outputs=outputs))


def test_command_writes_three_files_of_allowed_size(built, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "report.assemble",
            "--notebooks",
            built / "notebooks",
            "--results",
            built / "results",
            "--out",
            tmp_path / "out",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()}
    assert set(sizes) == {"report.html", "report.ja.pdf", "report.en.pdf"}
    assert sizes["report.html"] <= 4 * 2**20
    assert max(sizes["report.ja.pdf"], sizes["report.en.pdf"]) <= 3 * 2**20
    for name in sizes:
        first, second = ((folder / name).read_bytes() for folder in (built / "report", tmp_path / "out"))
        assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest(), f"{name} differs between two builds"


def test_failure_leaves_the_good_report_standing(copied):
    (copied / "report").mkdir()
    (copied / "report" / "report.html").write_text("good")
    edit(copied, "V1", lambda cells: cells.append(nbformat.v4.new_markdown_cell("see [x](#fig-nowhere)")))
    with pytest.raises(InputError, match="V1: refers to the figure 'nowhere'; there are "):
        assemble(copied / "notebooks", copied / "results", copied / "report")
    assert [p.name for p in (copied / "report").iterdir()] == ["report.html"]
    assert (copied / "report" / "report.html").read_text() == "good"


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (
            lambda f: edit(f, "V1", lambda c: c.append(nbformat.v4.new_markdown_cell("PPL is {V1.ppl_full:.2f}"))),
            "left unfilled",
        ),
        (lambda f: (f / "results/data/sections/V1.json").write_text("{"), "V1.json: damaged"),
        (lambda f: shutil.rmtree(f / "results/data/sections"), "no results of sections"),
        (lambda f: shutil.rmtree(f / "notebooks"), "as an executed notebook"),
        (lambda f: (f / "notebooks/V1.ipynb").write_text('{"cells": ['), "V1.ipynb: no notebook"),
        (lambda f: (f / "notebooks/V1.ipynb").write_text("[1]"), "V1.ipynb: no notebook"),
        (lambda f: (f / "notebooks/V1.ipynb").write_bytes(b"\xff\xfe{}"), "V1.ipynb: no notebook"),
        (lambda f: edit(f, "V1", lambda c: c[0].metadata.update(name="two\nlines")), "V1.ipynb: no notebook"),
        (lambda f: edit(f, "V2", say_all_again), "two figures are called"),
        (lambda f: edit(f, "V2", lambda c: c.append(nbformat.v4.new_markdown_cell("[x](#sec-V9)"))), "section 'V9'"),
    ],
)
def test_bad_input_stops_with_one_line(copied, spoil, complaint):
    spoil(copied)
    with pytest.raises(InputError, match=complaint) as caught:
        document.load(copied / "notebooks", copied / "results")
    assert "\n" not in str(caught.value)


def test_the_head_says_what_the_page_is(elements, source):
    named = {
        a.get("name") or a.get("property"): a["content"] for tag, a in elements.tags if tag == "meta" and "content" in a
    }
    assert {"description", "author", "og:title", "og:description", "og:type"} <= set(named)
    data = json.loads(re.search(r'<script type="application/ld\+json">(.*?)</script>', source, re.S).group(1))
    assert data["@type"] == "ScholarlyArticle"
    assert [author["name"] for author in data["author"]] == citation.authors()


def test_a_work_that_is_not_in_the_list_is_refused(copied):
    edit(copied, "V1", lambda cells: cells.append(nbformat.v4.new_markdown_cell("see [x](#ref-nobody)")))
    with pytest.raises(InputError, match="V1: refers to the work 'nobody'; there are study, "):
        document.load(copied / "notebooks", copied / "results")


def test_page_asks_for_nothing(elements, source):
    loading = {"src", "srcset", "poster", "background", "action", "formaction", "ping", "data"}
    for tag, attributes in elements.tags:
        for name in loading & set(attributes):
            assert attributes[name].startswith("data:"), (tag, name)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert "style" not in attributes, (tag, attributes)
        if tag == "a":
            assert re.match(r"#|https?://|\.\./", attributes["href"]), attributes
    assert not re.search(r"url\((?!data:)", "".join(re.findall(r"<style>.*?</style>", source, re.S)))


def test_policy_names_exactly_the_pages_own_scripts_and_style(source):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', source).group(1)
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; ")
    packed = re.search(r'<script type="text/plain" id="vega">(.*?)</script>', source)[1]
    scripts = [*re.findall(r"<script>(.*?)</script>", source, re.S), gzip.decompress(base64.b64decode(packed)).decode()]
    styles = re.findall(r"<style>(.*?)</style>", source, re.S)
    assert set(re.findall(r"'sha256-[^']+'", policy)) == {page.source_hash(text) for text in scripts + styles}
    assert source.index("Content-Security-Policy") < source.index("<style>")


def test_ids_are_unique_and_every_inner_link_arrives(elements):
    ids = [attributes["id"] for _, attributes in elements.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {
        attributes["href"][1:]
        for tag, attributes in elements.tags
        if tag == "a" and attributes.get("href", "").startswith("#")
    }
    assert targets - set(ids) == set()


def test_every_computed_number_leads_to_its_result_and_cell(elements, source):
    links = [attributes for tag, attributes in elements.tags if tag == "a" and attributes.get("class") == "n"]
    paths = {attributes["href"][1:] for attributes in links}
    assert {"V1.ppl_full", "V1.ppl_full_ci", "V4.thresholds_full.1.1", "V4.cumulative.3.ppl"} <= paths
    assert all(attributes["title"] and "=" not in re.sub(r"\[.*?\]", "", attributes["title"]) for attributes in links)
    row = re.search(r'<tr[^>]* id="V1.ppl_full"[^>]*>.*?<td>([^<]*)</td>', source, re.S)
    assert float(row.group(1)) == results()["V1"]["ppl_full"]
    for name in results():
        assert f"results/data/sections/{name}.json" in source
        assert re.search(rf'written by cell</span> <a href="#cell-{name}-2">{name} · 2</a>', source), name


def test_figures_and_tables_are_numbered_alike_in_both_languages(source):
    for kind, ja, en in (("fig", "図", "Figure"), ("tab", "表", "Table")):
        numbers = {}
        for lang, kind_word in (("ja", ja), ("en", en)):
            pattern = rf'id="{kind}-(\w+)-{lang}".*?<b>{kind_word}[\xa0 ](\d+)</b>'
            numbers[lang] = re.findall(pattern, source, re.S)
        assert numbers["ja"] == numbers["en"]
        assert [int(n) for _, n in numbers["ja"]] == list(range(1, len(numbers["ja"]) + 1))
    assert re.search(r'href="#fig-baseline-ja">図\xa07</a>', source)
    assert re.search(r'href="#tab-baseline-en">Table\xa01</a>', source)


def test_parts_come_in_reading_order(built, elements):
    sections = [attributes["id"] for tag, attributes in elements.tags if tag == "section"]
    wanted = ["summary"]
    for part in PARTS:
        there = [name for name in part.notebooks if (built / "notebooks" / f"{name}.ipynb").is_file()]
        if there:
            wanted += ([part.name] if len(part.notebooks) > 1 else []) + [f"sec-{name}" for name in there]
        wanted += ["explorer"] if part.name == "validation" else []
    assert sections == [*wanted, "references", "reproducibility", "files"]


def test_each_language_has_headings_in_order(elements):
    for lang in LANGUAGES:
        levels = [
            int(tag[1])
            for tag, attributes in elements.tags
            if re.fullmatch(r"h[1-6]", tag) and attributes.get("lang", lang) == lang
        ]
        assert levels[0] in (1, 2)
        assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


def test_hostile_strings_stand_in_the_page_as_words(elements):
    assert not any(tag == "img" and attributes.get("src") == "x" for tag, attributes in elements.tags)
    text = re.sub(r"[“”]", '"', " ".join("".join(elements.text).split()))
    assert text.count(HOSTILE) >= 4


def test_data_blocks_cannot_end_their_script():
    text = page.script_json({"x": "</script><!--\u2028&"})
    assert "<" not in text
    assert "\u2028" not in text
    assert json.loads(text) == {"x": "</script><!--\u2028&"}


def test_each_place_that_a_text_names_has_a_line_of_its_own():
    data = {"a": [1.5, 2.5], "b": {"1.1": 3, "c<": "</pre>"}, "long": list(range(60))}
    text = view("V1", data, {"V1.a", "V1.b.1.1", "V1.b.c_"})
    lines = re.findall(r'<tr id="([^"]*)" class="r"><th scope="row"><code>[^<]*</code></th><td>([^<]*)</td></tr>', text)
    assert [(name, json.loads(html.unescape(value))) for name, value in lines] == [
        ("V1.a", [1.5, 2.5]),
        ("V1.b.1.1", 3),
        ("V1.b.c_", "</pre>"),
    ]
    assert view("V1", data, set()) == ""


def blocks_of(text):
    [blocks] = markdown.read([markdown.Text(text, "en", "V1", "cell-V1-1")])
    return markdown.clean(
        blocks,
        lambda target, title, inlines: inlines,
        lambda depth, inlines: {"t": "Header", "c": [depth, markdown.NO_ATTRIBUTES, inlines]},
    )


def test_japanese_has_one_spacing_whatever_was_typed():
    text = "## V1 全トークン\n\n2K の トークンで `tokens.npy` を\nPPL 比 $r$ の GPT-2 small と"
    expected = "## V1 全トークン\n\n2Kの トークンで`tokens.npy`をPPL比 $r$ のGPT-2 smallと"
    assert markdown.without_typed_spaces(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        '<b onclick="x()">x</b>',
        "```{=typst}\n#panic()\n```",
        "`#panic()`{=typst}",
        "![x](http://example.org/x.png)",
        "@someone",
        '[x](y){onclick="x()"}',
        "# x {#fig-a .b}",
        "::: {.x onclick=y}\nz\n:::",
        "\\clearpage",
        "[x]{style=color:red}",
        "| a |\n|--:|\n| 1 |\n",
        "---\ntitle: x\n---\n\ntext",
    ],
)
def test_nothing_in_markdown_acts(text):
    blocks = blocks_of(text)
    [page_html] = markdown.to_html([blocks])
    assert not re.search(r"<(?!/?(p|code|pre|h1|div|em|strong|table|thead|tbody|tr|th|td|hr)\b)", page_html), page_html
    assert not re.search(r"<[^>]*\s(style|class|on\w+|src|id)=", page_html), page_html
    [typst_text] = markdown.to_typst([blocks])
    assert not re.search(
        r"(?<!\\)#(panic|image|link|cite|ref)", re.sub(r"`[^`]*`|```.*?```", "", typst_text, flags=re.S)
    )


def test_an_open_fence_ends_with_its_own_text():
    texts = [markdown.Text(source, "en", "V1", "c") for source in ("```\nopen", "after")]
    groups = markdown.read(texts)
    assert markdown.plain(groups[1]) == "after"


def test_typst_strings_cannot_be_left():
    assert book.quoted('a"b\\c\nd#x') == '"a\\"b\\\\c\\nd#x"'


@pytest.mark.parametrize(
    ("lang", "words"),
    [
        (
            "ja",
            [
                TITLE["ja"],
                "目次",
                "要約",
                "楽観的",
                "31.04",
                "図7",
                "公表値",
                "P4: 文脈長",
                "make report PROFILE=synthetic",
            ],
        ),
        (
            "en",
            [
                TITLE["en"],
                "Contents",
                "Summary",
                "optimistic",
                "31.04",
                "Figure 7",
                "published",
                "P4: Context length",
                "make report PROFILE=synthetic",
            ],
        ),
    ],
)
@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="pdftotext (poppler-utils) is not installed")
def test_books_speak_their_language(built, lang, words):
    path = built / "report" / f"report.{lang}.pdf"
    text = subprocess.run(["pdftotext", path, "-"], capture_output=True, text=True, check=True).stdout
    bare = re.sub(r"\s", "", text)
    for wanted in words:
        assert re.sub(r"\s", "", wanted) in bare, wanted
    assert re.sub(r"\s", "", HOSTILE) in bare.replace("“", '"').replace("”", '"')
    if lang == "en":
        assert not re.search("[ぁ-んァ-ヶ]", text)
    fonts = subprocess.run(["pdffonts", path], capture_output=True, text=True, check=True).stdout.splitlines()[2:]
    assert fonts
    assert all(re.search(r"\byes\s+(yes|no)\s+(yes|no)\s+\d+\s+\d+$", line) for line in fonts), fonts


def test_books_have_links_contents_and_no_build_time(built):
    for lang in LANGUAGES:
        content = (built / "report" / f"report.{lang}.pdf").read_bytes()
        assert content.startswith(b"%PDF-")
        assert b"/Outlines" in content
        assert b"/Link" in content
        assert not re.search(rb"/CreationDate \(D:20[2-9]", content)


def test_a_table_of_long_words_counts_its_lines():
    """Rows that wrap fill a page as many rows do: such a table stands in the appendix, over several pages."""
    columns = [{"text": name, "numeric": False, "ghost": False} for name in ("claim", "evidence")]
    short = {"columns": columns, "rows": [[{"text": "V1"}, {"text": "0.1", "interval": "[0, 1]"}] for _ in range(6)]}
    assert book.Layout.of(short) == book.Layout("auto, auto", 9, 12)
    words = [[{"text": "この主張は成り立つ。" * 3}, {"text": "evidence " * 60}] for _ in range(6)]
    long = book.Layout.of({"columns": columns, "rows": words})
    assert long.lines >= 6 * 60 * 9 / 2 / book.EMS
    assert long.lines > book.LINES_IN_TEXT
    assert all(track.endswith("fr") for track in long.tracks.split(", "))


def test_a_table_of_many_columns_starves_none():
    """Where the narrow columns leave too little for a wide one, all of them share the page as Typst has it."""
    columns = [{"text": f"figure {i}", "numeric": True, "ghost": False} for i in range(13)]
    row = [{"text": "a long name of an arm"}, *({"text": "0.123", "interval": "[0.1, 0.2]"} for _ in columns[1:])]
    assert book.Layout.of({"columns": columns, "rows": [row] * 3}) == book.Layout(", ".join(["auto"] * 13), 7, 6)


def test_a_standing_note_is_said_once(copied):
    def again(cells):
        tables = [copy.deepcopy(o) for cell in cells for o in cell.get("outputs", []) if "table" in o.metadata]
        for table in tables:
            table.metadata["table"] += "_again"
        cells.append(nbformat.v4.new_code_cell("again", outputs=tables))

    edit(copied, "V1", again)
    found = document.load(copied / "notebooks", copied / "results")
    for lang in LANGUAGES:
        tables = [
            o.metadata.report for o in document.outputs(found) if "note" in o.get("metadata", {}).get("report", {})
        ]
        notes = {table.name: markdown.plain(table.note) for table in tables if table.lang == lang}
        assert "GPT-2 small" in notes["baseline"]
        assert "GPT-2 small" not in notes["baseline_again"]


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="pdftotext (poppler-utils) is not installed")
@pytest.mark.parametrize(("lang", "kind"), [("ja", "図"), ("ja", "表"), ("en", "Figure"), ("en", "Table")])
def test_the_book_numbers_as_the_page_does(built, lang, kind):
    """Wherever the book puts a figure or table, its caption bears the number that the text refers to."""
    numbers = document.load(built / "notebooks", built / "results").numbers
    own = {"図": "fig", "Figure": "fig"}.get(kind, "tab")
    path = built / "report" / f"report.{lang}.pdf"
    text = subprocess.run(["pdftotext", path, "-"], capture_output=True, text=True, check=True).stdout
    wanted = {number for (k, _), number in numbers.items() if k == own}
    assert {int(n) for n in re.findall(rf"^{kind}[ \u00a0]?(\d+)\b", text, re.M)} == wanted


@pytest.mark.skipif(shutil.which("pdftoppm") is None, reason="pdftoppm (poppler-utils) is not installed")
@pytest.mark.parametrize("lang", LANGUAGES)
def test_no_page_of_the_book_has_a_hole(built, tmp_path, lang):
    """No blank of a tenth of a page between the first and the last print of any page, the cover apart; nor at its foot,
    except before a part, whose two headings with two lines of text need a sixth, before the appendix, and at the end.
    """
    path = built / "report" / f"report.{lang}.pdf"
    subprocess.run(["pdftoppm", "-r", "30", "-png", path, tmp_path / "p"], check=True)
    texts = subprocess.run(["pdftotext", path, "-"], capture_output=True, text=True, check=True).stdout.split("\f")
    titles = [part.ja if lang == "ja" else part.en for part in PARTS]
    opens = [any(len(re.findall(rf"{re.escape(title)}$", text, re.M)) > 1 for title in titles) for text in texts]
    pages = [np.asarray(Image.open(path).convert("L")) < 245 for path in sorted(tmp_path.glob("p*.png"))]
    assert len(pages) > 5 and 1 < sum(opens) < len(pages) - 1
    for number, inked in enumerate(pages[1:-1], 2):
        top, foot = int(0.09 * len(inked)), int(0.92 * len(inked))
        printed = np.flatnonzero(inked[top:foot].any(axis=1))
        assert np.diff(printed).max() / len(inked) < 0.1, f"page {number}"
        if word("appendix", lang) not in texts[number]:
            left = (foot - top - printed[-1]) / len(inked)
            assert left < (1 / 6 if opens[number] else 0.1), f"foot of page {number}"


def read_csv(path):
    """`(lines before the head, rows)` of a table's file."""
    lines = path.read_bytes().decode("utf-8-sig").split("\r\n")
    heads = [line for line in lines if line.startswith("# ")]
    return dict(line[2:].split(": ", 1) for line in heads), list(csv.reader(lines[len(heads) : -1]))


def test_every_table_is_a_csv_of_exact_numbers(built, source):
    folder = built / "results" / "tables"
    names = {name for name, _ in re.findall(r'id="tab-(\w+)-(ja|en)" data-name', source)}
    assert {path.name for path in folder.iterdir()} == {f"exp10_{n}_{lang}.csv" for n in names for lang in LANGUAGES}
    about, (head, *rows) = read_csv(folder / "exp10_baseline_en.csv")
    assert about["item"] == "baseline" and about["profile"] == "synthetic" and about["commit"] == "0123abc"
    assert about["again"].startswith("make report PROFILE=synthetic")
    assert head == ["heads", "PPL", "PPL [95%] from", "PPL [95%] to", "published†", "ratio"]
    wanted = [
        [row["n_linearized"], row["ppl"], *row["ppl_ci"], 24.0, row["ratio"]]
        for row in results(model_name=HOSTILE)["V4"]["cumulative"]
    ]
    assert [[float(cell) for cell in row] for row in rows] == wanted
    for path in folder.iterdir():
        for row in read_csv(path)[1][1:]:
            assert not [cell for cell in row if cell[:1] in "=+@\t" and cell and not re.fullmatch(r"[+-].*\d", cell)]


def test_a_table_that_is_no_longer_shown_goes(copied):
    (copied / "results" / "tables" / "exp10_gone_en.csv").write_text("# item: gone\r\n")
    before = {path.name for path in (copied / "results" / "tables").iterdir()}
    assemble(copied / "notebooks", copied / "results", copied / "report")
    assert {path.name for path in (copied / "results" / "tables").iterdir()} == before - {"exp10_gone_en.csv"}


def test_a_cell_is_no_formula():
    content = {
        "columns": [{"text": "=1+1"}, {"text": "b"}],
        "rows": [[{"text": '=HYPERLINK("x")'}, {"text": "1.5", "exact": "1.5000001", "interval_exact": [-1.0, None]}]],
    }
    content["rows"][0][1]["interval"] = "[−1, —]"
    lines = tables.csv_of(content, {"model": "two\nlines"}).split("\r\n")
    assert lines[0] == "# model: two lines"
    assert next(csv.reader(lines[1:2])) == ["'=1+1", "b", "b [95%] from", "b [95%] to"]
    assert next(csv.reader(lines[2:3])) == ['\'=HYPERLINK("x")', "1.5000001", "-1.0", ""]


def test_a_section_without_results_stands_as_not_measured(copied):
    merged = document.load(copied / "notebooks", copied / "results", ["V2"])
    assert "V2" not in merged.sections
    shown = page.write(merged, [])
    for sentence in WORDS["unmeasured"]:
        assert shown.count(sentence.split("`")[0]) == 1
    assert 'id="sec-V2"' in shown and 'id="tab-top10-en"' not in shown


def test_the_page_answers_on_reproducibility(elements, source):
    part = source[source.index('<section id="reproducibility">') : source.index('<section id="files">')]
    for lang in LANGUAGES:
        for one in reproducibility.answers(results()):
            assert markupsafe.escape(one.name[lang]) in part
            assert all(test in part for test in one.tests)
    assert part.count("<td>no</td>") >= 3 and part.count("<td>いいえ</td>") == part.count("<td>no</td>")
