"""Every figure draws, in both languages, without a word left in the other one."""

import io
import json
import re
from itertools import combinations

import numpy as np
import pytest
from PIL import Image
from synthetic import HOSTILE, all_charts, results

from lib.errors import InputError
from report.book import COLUMN, lowered
from report.charts import render, style, validation

CHARTS = all_charts()
SHOWN = ("title", "text", "label")


def strings(node, key=None):
    """Titles, scale domains and data strings of a specification: what a reader sees of it."""
    if isinstance(node, dict):
        for k, v in node.items():
            if key in ("datasets", "data") and isinstance(v, list):
                yield from (s for row in v for s in row.values() if isinstance(s, str))
            else:
                yield from strings(v, k)
    elif isinstance(node, list):
        for v in node:
            if key == "domain" and isinstance(v, str):
                yield v
            yield from strings(v, key)
    elif isinstance(node, str) and key in SHOWN:
        yield node


@pytest.mark.parametrize("name", CHARTS)
def test_chart_draws_in_both_languages(name):
    for lang in ("ja", "en"):
        picture = render.svg(render.localise(CHARTS[name], lang))
        assert picture.startswith("<svg")
        assert len(re.findall(r"<path|<line|<rect", picture)) > 3
        assert "NaN" not in picture
        assert "aria-label" not in picture


@pytest.mark.parametrize("name", CHARTS)
def test_japanese_twin_has_no_english_words(name):
    found = set(strings(render.localise(CHARTS[name], "ja")))
    english = {s for s in found if re.search(r"[a-z]{4,}", s) and not re.search("[ぁ-んァ-ヶ一-龠]", s)}
    assert english - {"attention", "SDPA", HOSTILE} == set()


@pytest.mark.parametrize("name", CHARTS)
def test_english_chart_has_no_japanese(name):
    assert not re.search("[ぁ-んァ-ヶ一-龠]", json.dumps(render.localise(CHARTS[name], "en"), ensure_ascii=False))


def test_a_string_without_translation_stops():
    chart = validation.baseline(results()["V1"]).to_dict() | {"title": "a new title"}
    with pytest.raises(InputError, match="a new title"):
        render.localise(chart, "ja")
    assert render.localise(chart, "ja", {"a new title": "新しい題"})["title"] == "新しい題"


def test_filters_compare_translated_data():
    spec = render.localise(CHARTS["zero_and_mean"], "ja")
    assert style.PUBLISHED not in json.dumps(spec, ensure_ascii=False)
    picture = render.svg(spec)
    assert picture.count("<path") == render.svg(render.localise(CHARTS["zero_and_mean"], "en")).count("<path")


def test_conditions_keep_their_colour_in_every_chart():
    seen = {}
    for chart in CHARTS.values():
        scales = re.findall(r'"scale": (\{"domain": \[[^\]]*\], "range": \[[^\]]*\]\})', json.dumps(chart.to_dict()))
        for scale in scales:
            pair = json.loads(scale)
            if all(isinstance(c, str) and c.startswith("#") for c in pair["range"]):
                for name, colour in zip(pair["domain"], pair["range"], strict=True):
                    if name in style.NAMES.values() or "heads" in name:
                        seen.setdefault(name, set()).add(colour)
    assert seen
    assert {name: colours for name, colours in seen.items() if len(colours) > 1} == {}


@pytest.mark.parametrize("colour", sorted(set(style.COLOURS.values())))
def test_colours_stand_out_on_light_and_dark(colour):
    def luminance(code):
        parts = [int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for paper in ("#fdfdfc", "#15181c"):
        light, dark = sorted((luminance(colour), luminance(paper)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3


# Viénot, Brettel & Mollon (1999) for red and green, and the achromat's grey: how four kinds of eyes see a colour.
SEEN_AS = {
    "normal": np.eye(3),
    "protan": np.array([[0.11238, 0.88762, 0.0], [0.11238, 0.88762, -0.0], [0.00401, -0.00401, 1.0]]),
    "deutan": np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, -0.0], [-0.02234, 0.02234, 1.0]]),
    "achromat": np.tile([0.2126, 0.7152, 0.0722], (3, 1)),
}


def lab(code, eyes):
    """CIE L*a*b* (D65) of a colour as these eyes see it."""
    parts = np.array([int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.clip(SEEN_AS[eyes] @ np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4), 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    f = np.cbrt(np.maximum(xyz / [0.95047, 1.0, 1.08883], 216 / 24389))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("eyes", SEEN_AS)
@pytest.mark.parametrize("name", CHARTS)
def test_four_kinds_of_eyes_tell_the_lines_apart(name, eyes):
    for layer in layers_of(CHARTS[name].to_dict()):
        encoding = layer.get("encoding", {})
        scale = encoding.get("color", {}).get("scale", {})
        kind = layer["mark"]["type"] if isinstance(layer.get("mark"), dict) else layer.get("mark")
        if kind != "line" or "strokeDash" in layer["mark"] or not scale.get("domain"):
            continue
        shapes = shapes_beside(CHARTS[name].to_dict(), scale["domain"])
        for a, b in combinations(range(len(scale["domain"])), 2):
            apart = np.linalg.norm(lab(scale["range"][a], eyes) - lab(scale["range"][b], eyes))
            assert apart >= 20 or shapes.get(scale["domain"][a]) != shapes.get(scale["domain"][b]), (
                scale["domain"][a],
                scale["domain"][b],
            )


def layers_of(spec):
    yield spec
    for key in ("layer", "hconcat", "vconcat"):
        for inner in spec.get(key, []):
            yield from layers_of(inner)


def shapes_beside(spec, domain):
    """`{name: shape}` of the points that stand on the lines of this domain."""
    for layer in layers_of(spec):
        scale = layer.get("encoding", {}).get("shape", {}).get("scale", {})
        if scale.get("domain") == domain:
            return dict(zip(domain, scale["range"], strict=True))
    return {}


def test_published_conditions_take_the_place_of_this_models():
    assert style.condition_name("relu_30", ["baseline", "relu_8", "relu_20"]) == "ReLU, 8 heads"
    assert style.condition_name("relu_70", ["baseline", "relu_8", "relu_20"]) == "ReLU, 20 heads"
    assert style.condition_name("relu_30", ["baseline", "relu_30", "relu_70"]) == "ReLU, 30 heads"


@pytest.mark.parametrize(
    "change",
    [
        {"mean_delta_ppl_full": -0.02, "mean_delta_ppl_full_ci": [-0.03, 0.01]},
        {"zero_delta_ppl_2k": 0.0},
        {"mean_delta_ppl_2k_ci": None},
    ],
)
def test_signs_zeros_and_missing_intervals_are_drawn(change):
    assert "NaN" not in render.svg(render.localise(validation.zero_and_mean(results()["V3"] | change), "ja"))


def test_png_is_on_white_and_holds_japanese_glyphs():
    spec = render.localise(CHARTS["baseline"], "ja")
    blank = render.localise(CHARTS["baseline"], "en")
    drawn = Image.open(io.BytesIO(render.png(spec)))
    assert drawn.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)
    sides = re.findall(r' (?:width|height)="(.+?)"', render.svg(spec))[:2]
    assert drawn.size == tuple(2 * float(side) for side in sides)
    assert render.png(spec) != render.png(blank)


def test_a_zoomed_line_ends_beyond_the_picture_and_its_data_stay():
    """What lies farther off is not drawn; the axis reaches as far, and the data are all there to be downloaded."""
    far = [{"n": 10 * n, "ratio": ratio} for n, ratio in enumerate([1.0, 2.0, 50.0, 500.0, 5000.0])]
    spec = validation.cumulative({"relu": far}, None, [], "linearized heads").to_dict()
    assert json.dumps(spec).count('"ratio": 5000.0') >= 1
    text = render.svg(spec)
    lines = re.findall(r'<path d="(M[^"]*)"[^>]* stroke-width="2"', text)
    assert [line.count(",") for line in lines] == [3]
    assert {"0", "40"} <= set(re.findall(r"<text[^>]*>(\d+)</text>", text))


def test_a_zoomed_line_that_comes_back_is_drawn_whole():
    """And a band whose lower edge stays in the picture, whatever its line does."""
    ratios = [1.0, 50.0, 500.0, 50.0, 2.0, 1.5]
    rows = [{"n": 10 * n, "ratio": r, "ratio_ci": [1.0, 2 * r]} for n, r in enumerate(ratios)]
    text = render.svg(validation.cumulative({"relu": rows}, None, [], "linearized heads").to_dict())
    (line,) = re.findall(r'<path d="(M[^"]*)"[^>]* stroke-width="2"', text)
    (band,) = re.findall(r'<path d="(M[^"]*)"[^>]* opacity="0.18"', text)
    assert line.count(",") == 5  # all but the one whose neighbours lie beyond the picture too
    assert band.count(",") == 2 * len(rows)


def test_a_narrow_figure_is_as_wide_as_a_column_of_the_book():
    spec = render.localise(CHARTS["curves"], "en")
    assert lowered(spec, narrow=True)["height"] < spec["height"]
    assert re.search(rf'^<svg[^>]* width="{COLUMN}"', render.svg(lowered(spec, narrow=True)))
