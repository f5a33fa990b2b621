"""The page in headless Chromium: silent, offline, drawn, in one language at a time, and deaf to hostile strings."""

import json
import re
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import ROOT
from synthetic import FIGURES, HOSTILE, hostile_report, results

from lib.analysis import flops, head_effects
from report.words import TITLE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
AXE = find_spec("axe_playwright_python")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian's package `chromium`)")

DRAWN = """(() => {
  const plots = [...document.querySelectorAll('.plot')].filter(plot => plot.checkVisibility());
  return document.documentElement.dataset.lang && plots.every(plot => plot.querySelector('svg'))
    && !document.querySelector('noscript');
})()"""
JAPANESE = re.compile("[ぁ-んァ-ヶ一-龠]")
# Words that are the same in both languages: numbers, names, code, and the names of the languages themselves.
NEUTRAL = re.compile(
    r"日本語|English|[^A-Za-zぁ-んァ-ヶ一-龠]*|\d+[GTMk]|PPL|(ReLU|L1)( · [^A-Za-z]*)?|L\d+H\d+.*|"
    r"(phases|setup|conclusions|[VPK]\d?)( · \d+)?|"
    r"Experiment 10.*|(baseline|relu_\d+)|attention|SDPA|The Experiment 10 authors"
)
EXACT = "[...document.querySelectorAll('#tab-baseline-en tbody [data-exact]')].map(cell => cell.dataset.exact)"
GPT2 = flops.Shape(12, 12, 12, 64, 768, 3072, 50257)  # the shape that the synthetic set-up states
VISIBLE_TEXT = """() => {
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    if (parent.closest('script, style, pre, code, dd, math, .files th, .reference')) continue;
    if (node.data.trim() && parent.checkVisibility({visibilityProperty: true})) found.push(node.data.trim());
  }
  return found;
}"""


def until(page, condition, seconds=20):
    """Waits until the expression is true; asked from outside, for the page's policy forbids evaluating within."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, f"never true: {condition}"
        page.wait_for_timeout(50)


def enliven(page, plot):
    """Points at a chart and waits until it is alive."""
    plot.scroll_into_view_if_needed()
    plot.hover()
    until(page, f"document.querySelector('[data-chart={plot.get_attribute('data-chart')}]').dataset.drawn === 'yes'")


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address():
    return (hostile_report() / "report" / "report.html").as_uri()


@pytest.fixture
def visit(chromium, address):
    """Opens the page with the given query or hash and context options; `.told` collects what it does to the outside."""
    contexts = []

    def open_page(suffix="", wait=True, **options):
        context = chromium.new_context(**{"viewport": {"width": 1200, "height": 900}, "locale": "en-US"} | options)
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        page.told = []
        page.on("console", lambda message: page.told.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: page.told.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (page.told.append("dialog"), dialog.dismiss()))
        page.on(
            "request",
            lambda request: (
                page.told.append(f"request: {request.url[:100]}")
                if not request.url.startswith((address, "data:"))
                else None
            ),
        )
        page.goto(address + suffix)
        if wait:
            until(page, DRAWN)
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("lang", ["ja", "en"])
def test_page_is_silent_and_every_chart_drawn(visit, lang):
    page = visit(f"?lang={lang}")
    charts = page.locator(f".{lang}.chart .plot")
    assert charts.count() == sum(map(len, FIGURES.values()))
    counted = "plots => plots.map(p => p.querySelectorAll('svg path, svg line, svg text').length)"
    assert min(charts.evaluate_all(counted)) > 10
    for i in range(charts.count()):
        enliven(page, charts.nth(i))
    assert min(charts.evaluate_all(counted)) > 10
    assert page.told == []


def test_switch_changes_every_visible_string(visit):
    page = visit("?lang=ja")
    japanese = page.evaluate(VISIBLE_TEXT)
    page.get_by_role("button", name="English").click()
    until(page, DRAWN)
    english = page.evaluate(VISIBLE_TEXT)
    assert len(japanese) > 300
    assert len(english) > 300
    assert [text for text in english if JAPANESE.search(text) and text != "日本語"] == []
    same = set(japanese) & set(english)
    assert sorted(text for text in same if not NEUTRAL.fullmatch(text) and HOSTILE[:9] not in text) == []
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.title() == TITLE["en"]
    assert page.url.endswith("lang=en")
    assert page.told == []


@pytest.mark.parametrize(
    ("suffix", "locale", "lang"),
    [
        ("", "ja-JP", "ja"),
        ("", "en-GB", "en"),
        ("?lang=ja", "en-US", "ja"),
        ("#lang=ja", "en-US", "ja"),
        ("?lang=xx", "ja-JP", "ja"),
    ],
)
def test_language_comes_from_address_then_reader(visit, suffix, locale, lang):
    page = visit(suffix, wait=False, locale=locale)
    until(page, "document.documentElement.dataset.lang")
    assert page.evaluate("document.documentElement.dataset.lang") == lang
    assert page.get_by_role("button", name="日本語").get_attribute("aria-pressed") == str(lang == "ja").lower()


def test_choices_are_remembered(visit, address):
    page = visit("")
    page.get_by_role("button", name="日本語").click()
    page.locator("#theme").click()
    theme = page.evaluate("document.documentElement.dataset.theme")
    page.goto(address)
    until(page, "document.documentElement.dataset.lang")
    assert page.evaluate("[document.documentElement.dataset.lang, document.documentElement.dataset.theme]") == [
        "ja",
        theme,
    ]


def test_without_scripts_both_languages_and_all_charts_show(visit):
    page = visit("", wait=False, java_script_enabled=False)
    assert page.get_by_role("heading", name="V1: 全トークンのベースライン").is_visible()
    assert page.get_by_role("heading", name="V1: Baseline on all tokens").is_visible()
    pictures = page.locator(".plot svg")
    assert pictures.count() == 2 * sum(map(len, FIGURES.values()))
    assert pictures.first.is_visible()
    assert page.locator(".controls").is_hidden()
    assert page.locator("main").bounding_box()["width"] > 600


@pytest.mark.parametrize("lang", ["ja", "en"])
def test_hostile_strings_stay_words(visit, lang):
    page = visit(f"?lang={lang}")
    page.locator("#all-code").click()
    enliven(page, page.locator(f"#fig-speed-{lang} .plot"))
    marks = page.locator(f"#fig-speed-{lang} svg .mark-symbol path")
    assert marks.count() > 3
    for index in (1, 2):
        marks.nth(index).hover(force=True)
        tooltip = page.locator("#vg-tooltip-element.visible")
        tooltip.wait_for()
        assert HOSTILE in re.sub(r"\s+", " ", tooltip.inner_text())
        assert tooltip.locator("img, script, a").count() == 0
    assert HOSTILE in page.locator(f"#sec-P2 .quote.{lang} pre").inner_text()
    assert HOSTILE in page.locator(f"#tab-samples-{lang} tbody").inner_text()
    assert page.evaluate("window.fired") is None
    assert page.locator("img").count() == 0
    assert page.told == []


@pytest.mark.parametrize("lang", ["ja", "en"])
def test_nothing_overflows_a_narrow_screen(visit, lang):
    page = visit(f"?lang={lang}", viewport={"width": 360, "height": 740})
    page.locator("#all-code").click()
    page.locator("details.data").evaluate_all("all => all.forEach(d => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    wide = page.evaluate("""() => [...document.querySelectorAll('main *, header *, footer *, nav *')]
      .filter(e => e.getBoundingClientRect().right > 361 && !e.closest('.scroll, pre, math, .unseen, svg'))
      .map(e => e.outerHTML.slice(0, 80))""")
    assert wide == []


@pytest.mark.parametrize("lang", ["ja", "en"])
def test_the_date_under_the_title_stands_in_one_line(visit, lang):
    page = visit(f"?lang={lang}", viewport={"width": 360, "height": 740})
    lines = page.evaluate(f"""() => {{
      const line = document.querySelector('.title .{lang} .run');
      return Array.from({{length: 240}}, (_, i) => {{
        line.style.width = `${{90 + i}}px`;
        return line.querySelector('time').getClientRects().length;
      }});
    }}""")
    assert set(lines) == {1}


@pytest.mark.skipif(AXE is None, reason="axe-core is not installed (`pip install axe-playwright-python`)")
@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize(("lang", "scheme"), [("ja", "light"), ("en", "dark")])
def test_axe_finds_nothing(visit, lang, scheme, opened):
    page = visit(f"?lang={lang}", color_scheme=scheme)
    page.locator("details").evaluate_all(f"all => all.forEach(d => {{ d.open = {json.dumps(opened)}; }})")
    assert violations(page) == []


def violations(page):
    """What axe-core finds wrong with the page as it stands after a frame: rule, first place, number of places."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.evaluate((Path(AXE.origin).parent / "axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [(v["id"], v["nodes"][0]["html"][:160], len(v["nodes"])) for v in found["violations"]]


def test_a_number_leads_to_its_result_and_on_to_its_cell(visit):
    page = visit("?lang=en")
    number = page.locator("#sec-V1 .en a.n", has_text="31.04").first
    assert number.get_attribute("title") == "V1.ppl_full"
    number.focus()
    page.keyboard.press("Enter")
    target = page.locator("[id='V1.ppl_full']")
    target.wait_for(state="visible")
    assert target.locator("td").text_content() == str(results()["V1"]["ppl_full"])
    page.locator("#sec-V1 details.data a[href^='#cell']").click()
    cell = page.locator("#cell-V1-2 .highlight")
    cell.wait_for(state="visible")
    assert "run.finish(data)" in cell.inner_text()
    page.locator("#fig-ladder-en .menu > summary").click()
    page.locator("#fig-ladder-en a.source").click()
    page.locator("#cell-V4-4 .highlight").wait_for(state="visible")


@pytest.mark.parametrize("kind", ["csv", "json", "png", "svg"])
def test_a_figure_can_be_taken_along(visit, kind):
    page = visit("?lang=en")
    content = saved(page, "#fig-ladder-en", kind)
    if kind == "png":
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        return
    text = content.decode("utf-8-sig")
    assert "item" in text and "ladder" in text
    if kind == "csv":
        lines = text.split("\r\n")
        assert lines[0] == "# report: Experiment 10"
        assert any(line.startswith("# model: ") for line in lines)
        table = [line for line in lines if line and not line.startswith("#")]
        assert len(table) > len(results()["V4"]["cumulative"])
    if kind == "json":
        found = json.loads(text)
        assert found["about"]["item"] == "ladder"
        assert len(found["rows"]) >= len(results()["V4"]["cumulative"])
    if kind == "svg":
        assert text.startswith("<svg") and "<script" not in text
    assert page.told == []


def test_a_table_is_taken_along_with_exact_numbers(visit):
    page = visit("?lang=en")
    rows = json.loads(saved(page, "#tab-baseline-en", "json"))["rows"]
    exact = [float(value) for value in page.evaluate(EXACT)]
    assert len(exact) > 1
    assert [value for row in rows for value in row.values() if isinstance(value, int | float)] == exact


def test_a_formula_in_a_text_stays_a_text(visit):
    page = visit("?lang=en")
    page.evaluate("document.querySelector('#tab-samples-en tbody td:last-child').textContent = '=1+2'")
    assert "'=1+2" in saved(page, "#tab-samples-en", "csv").decode()


def saved(page, figure, kind):
    """What a figure's menu saves, as bytes."""
    page.locator(f"{figure} .menu > summary").click()
    with page.expect_download() as download:
        page.locator(f"{figure} [data-save={kind}]").click()
    assert download.value.suggested_filename.endswith(f".{kind}")
    return Path(download.value.path()).read_bytes()


def test_a_reference_shows_what_it_names(visit):
    page = visit("?lang=en")
    link = page.locator("main .en a[href='#tab-baseline-en']").first
    link.evaluate("link => link.scrollIntoView({behavior: 'instant', block: 'center'})")
    link.hover()
    card = page.locator("#preview:not([hidden])")
    card.wait_for()
    assert "PPL by step" in card.inner_text()
    assert page.locator("[id='tab-baseline-en']").count() == 1
    page.keyboard.press("Escape")
    until(page, "document.getElementById('preview').hidden")


def test_search_finds_and_leads_there(visit):
    page = visit("?lang=en")
    page.locator("#search").fill("PPL")
    hits = page.locator("#found button")
    hits.first.wait_for()
    hits.first.click()
    assert page.locator(".hit").count() == 1
    page.locator("#search").fill("zzzz")
    assert page.locator("#found").inner_text() == "Nothing found"


def test_loading_is_within_its_limits(address):
    program = "import json, sys; from report.loading import *; print(json.dumps(measure(Path(sys.argv[1]))))"
    words = [sys.executable, "-c", program, address.removeprefix("file://")]
    measured = json.loads(subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert measured["layout_shift"] < 0.02
    assert measured["tab_stops"] < 250
    assert measured["megabytes"] < 4
    assert measured["first_chart_ms"] > 0
    assert 0 < measured["longest_task_ms"] < 200
    assert 0 < measured["switch_ms"] < 100


def test_every_chart_has_its_place_before_its_drawing_is_read(address):
    html = Path(address.removeprefix("file://")).read_text(encoding="utf-8")
    charts = re.findall(r'<div class="plot"[^>]*? data-chart="([\w-]+)">', html)
    sizes = dict(
        re.findall(
            r'\[data-chart="([\w-]+)"\]:not\(\[data-drawn\]\)\{width:min\(100%,[\d.]+px\);aspect-ratio:([\d.]+/[\d.]+)\}',
            html,
        )
    )
    drawn = dict(re.findall(r' data-chart="([\w-]+)">(?:<noscript>)?<svg[^>]*? viewBox="0 0 ([\d.]+ [\d.]+)"', html))
    assert charts and sorted(charts) == sorted(sizes)
    assert {name: size.replace("/", " ") for name, size in sizes.items()} == drawn


def test_a_head_that_is_pointed_at_lights_up_in_every_figure(visit):
    page = visit("?lang=en", viewport={"width": 1200, "height": 1600})
    shown = {name: page.locator(f"#fig-{name}-en .plot") for name in ("zero_map", "rank_law")}
    shown["zero_map"].hover()
    cell = page.locator("#fig-zero_map-en .plot[data-drawn=yes] .mark-rect.role-mark").first.locator("path").nth(5)
    cell.hover(force=True)
    until(page, "document.querySelector('.lit').textContent === 'L0H5 ✕'")
    ring = "#fig-rank_law-en .plot[data-drawn=yes]  path[stroke-width='2.5']"
    until(page, f"document.querySelectorAll({ring!r}).length === 1")
    page.keyboard.press("Escape")
    until(page, f"document.querySelectorAll({ring!r}).length === 0")
    assert page.locator(".lit").is_hidden()
    assert page.told == []


@pytest.mark.parametrize("lang", ["ja", "en"])
def test_every_entry_of_the_contents_leads_to_its_heading(visit, lang):
    """Sections out of view have not been laid out; a jump into them arrives all the same."""
    page = visit(f"?lang={lang}")
    links = page.locator(f".toc.{lang} a")
    links.last.wait_for()
    for link in links.all():
        page.evaluate("scrollTo(0, 0)")
        link.click()
        page.wait_for_timeout(120)
        heading = page.locator(f"[id='{link.get_attribute('href')[1:]}']")
        at_end = page.evaluate("scrollY + innerHeight >= document.documentElement.scrollHeight - 2")
        assert at_end or 0 <= heading.bounding_box()["y"] < 130, link.inner_text()


def test_what_is_folded_unfolds_when_it_is_asked_for(visit, address):
    html = Path(address.removeprefix("file://")).read_text(encoding="utf-8")
    page = visit("?lang=en#V1.ppl_full", wait=False)
    page.locator("[id='V1.ppl_full']:target").wait_for(state="visible")
    assert html.count("<noscript>") > 20
    until(page, "!document.querySelector('noscript')")
    assert page.locator(".plot svg").count() == 2 * sum(map(len, FIGURES.values()))
    assert page.told == []


def test_contents_follow_the_reader(visit):
    page = visit("?lang=en")
    scrolled = "document.getElementById('sec-P3').scrollIntoView({behavior: 'instant'})"  # again once sections unfold
    until(
        page,
        f"({scrolled}, (document.querySelector('.toc.en a[aria-current]') || {{}}).textContent) === 'P3: Best-of-N'",
    )
    page.locator(".toc.en a", has_text="V1: Baseline").click()
    until(page, "(document.querySelector('.toc.en a[aria-current]') || {}).textContent.startsWith('V1')")


def test_keyboard_reaches_text_and_switch(visit):
    page = visit("?lang=en")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.documentElement.dataset.lang") == "ja"


def test_dark_and_light_differ_and_print_is_light(visit):
    page = visit("?lang=en", color_scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    page.locator("#theme").click()
    assert page.evaluate(paper) != dark
    page.evaluate("delete document.documentElement.dataset.theme")
    page.emulate_media(media="print")
    assert page.evaluate(paper) != dark
    assert page.locator(".toc.en").is_hidden()
    assert page.locator("details.code").first.is_hidden()


def figure_of(page, key):
    """What the explorer shows for a figure: its exact value."""
    return page.locator(f"#explore [data-figure={key}] [data-exact]").get_attribute("data-exact")


def pressed(page, slider, key, times):
    page.locator(slider).focus()
    for _ in range(times):
        page.keyboard.press(key)


def test_explorer_shows_what_the_results_hold(visit):
    page = visit("?lang=en#explore=relu,full,0,1.10")
    ladder = results()["V4"]["cumulative"]
    ns, ratios = [row["n_linearized"] for row in ladder], [row["ratio"] for row in ladder]
    for row in ladder:
        assert float(figure_of(page, "ppl")) == row["ppl"]
        assert float(figure_of(page, "ratio")) == row["ratio"]
        assert figure_of(page, "rung") == str(head_effects.thresholds(ns, ratios, [1.1])["1.1"])
        assert float(figure_of(page, "crossing")) == pytest.approx(head_effects.crossings(ns, ratios, [1.1])["1.1"])
        counted = flops.equal_flops(GPT2, row["n_linearized"], 128, 64)
        assert figure_of(page, "extra_attention") == str(counted["extra_attention"])
        assert figure_of(page, "extra_model") == str(counted["extra_model"])
        assert float(figure_of(page, "saved_model")) == pytest.approx(
            1 - 1 / flops.prefill_speedup(GPT2, 1024, row["n_linearized"]), abs=1e-12
        )
        pressed(page, "#explore-heads", "ArrowRight", 1)
    pressed(page, "#explore-limit", "ArrowRight", 15)
    limit = float(page.locator("#explore-limit").input_value())
    assert limit == pytest.approx(1.25)
    assert float(figure_of(page, "crossing")) == pytest.approx(head_effects.crossings(ns, ratios, [limit])[str(limit)])
    assert page.told == []


def test_explorer_is_restored_from_the_address(visit):
    page = visit("?lang=en")
    page.locator("#explore input[value=relu]").focus()
    pressed(page, "#explore input[value=relu]", "ArrowRight", 2)
    assert page.locator("#explore input[value=factored]").is_checked()
    pressed(page, "#explore-heads", "End", 1)
    pressed(page, "#explore-limit", "ArrowLeft", 4)
    until(page, "location.hash === '#explore=factored,full,132,1.06'")
    said = page.locator("#explore-said").inner_text()
    assert said.startswith("factored, 132 heads, all tokens") and "beyond the limit of 1.06" in said
    page.reload()
    until(page, DRAWN)
    assert page.locator("#explore-said").inner_text() == said
    assert float(figure_of(page, "ratio")) == results()["V4"]["factored"][-1]["ratio"]
    page.get_by_role("button", name="日本語").click()
    until(page, "document.getElementById('explore-said').textContent.startsWith('分解形、132ヘッド')")
    page.locator("#explore input[value=zero]").check()
    assert page.locator("#explore input[value=full]").is_disabled()
    assert page.told == []


@pytest.mark.parametrize("state", ["constructor,full,0,1", "relu,full,x,y", "zero,full,-3,99", "relu"])
def test_explorer_survives_any_address(visit, state):
    page = visit(f"?lang=en#explore={state}")
    page.locator("#explorer").scroll_into_view_if_needed()
    until(page, "document.getElementById('explore-said').innerText.split('heads').length === 2")
    assert page.told == []


def test_explorer_is_a_table_without_scripts(visit):
    page = visit("", wait=False, java_script_enabled=False)
    assert page.locator("#explore").is_hidden()
    page.locator("#explorer details.data > summary").click()
    wanted = sum(len(curve) for curve in ladders_of(results()))
    assert page.locator("#explorer .rungs tbody tr").count() == wanted


def ladders_of(found):
    """The ladders that the explorer has to offer."""
    yield from (found["V4"]["cumulative"], found["V4"]["factored"])
    yield from (found["phases"][mode]["cumulative"] for mode in ("relu", "mix", "factored", "mean", "zero"))
    named = ("relu", "mean", "zero", "uniform")
    yield from (row["cumulative"] for row in found["V4"]["controls"]["rows"] if row["control"] in named)
