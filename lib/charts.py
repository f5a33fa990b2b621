"""The report's figures: one function each, taking sections' data and returning an Altair chart in English.

One colour per condition throughout, intervals as bars or bands, published figures as faded dashed ghosts beside the
measured ones, exact numbers in the tooltips. Inks are `currentColor` and mid-tones, so a chart stands on a light and
on a dark page. `localise` turns a chart into its Japanese twin, `png` and `svg` draw it without a browser.
"""

import copy
import json
import math
import re
from functools import cache, lru_cache
from pathlib import Path

import altair as alt
import matplotlib_fontja
import vl_convert

from lib.errors import InputError

FONT = "IPAexGothic"
WIDTH = 640
PUBLISHED = "published (GPT-2 small)"
PUBLISHED_LITERAL = repr(PUBLISHED)
MEASURED = "measured"
COLOURS = {
    "baseline": "#7a8290",
    "fewer": "#2f86d1",
    "more": "#d9662b",
    "zero": "#d0475a",
    "mean": "#8b68d0",
    "relu": "#12907f",
    "l1": "#a8801c",
    "identity": "#c2569b",
    "mix": "#6a9430",
    "factored": "#8f7660",
    "2K": "#b07d1a",
    "full": "#12907f",
    "published": "#8c8c8c",
}
NAMES = {
    "baseline": "baseline",
    "zero": "zero-ablation",
    "mean": "mean-ablation",
    "relu": "ReLU",
    "l1": "L1",
    "identity": "identity",
    "mix": "best per head",
    "factored": "factored ReLU",
    "2K": "first 2K tokens",
    "full": "all tokens",
}

# What a chart says, in Japanese. A text with numbers in it goes by the patterns below.
JAPANESE = {
    "baseline": "ベースライン",
    "zero-ablation": "ゼロ置換",
    "mean-ablation": "平均置換",
    "identity": "恒等",
    "best per head": "ヘッドごとの最良",
    "factored ReLU": "分解形ReLU",
    "first 2K tokens": "先頭2Kトークン",
    "all tokens": "全トークン",
    MEASURED: "実測値",
    PUBLISHED: "公表値(GPT-2 small)",
    "head": "ヘッド",
    "layer": "層",
    "rank": "順位",
    "condition": "条件",
    "source": "出典",
    "method": "方法",
    "change of PPL": "PPLの変化",
    "size of the change of PPL": "PPL変化の大きさ",
    "fit": "当てはめ",
    "PPL relative to the baseline": "ベースラインに対するPPL比",
    "PPL": "PPL",
    "tokens": "トークン",
    "interval from": "区間の下限",
    "interval to": "区間の上限",
    "linearized heads": "線形化したヘッド数",
    "changed heads": "置換したヘッド数",
    "attention FLOPs saved": "削減されるattentionのFLOPs",
    "mean change of PPL": "PPL変化の平均",
    "sign": "符号",
    "worse without it": "除くと悪化",
    "better without it": "除くと改善",
    "rank on 2K": "2Kでの順位",
    "rank on all": "全トークンでの順位",
    "statistic": "統計量",
    "median": "中央値",
    "one head": "ヘッド単独",
    "tokens per second": "毎秒トークン数",
    "ms per token": "1トークンあたりms",
    "protocol": "手順",
    "recomputed": "毎回再計算",
    "cached": "KVキャッシュ",
    "backend": "実装",
    "iteration": "反復",
    "PPL of the generated text": "生成文のPPL",
    "share of repeated 4-grams": "反復4-gramの割合",
    "distinct 2-grams": "異なり2-gramの割合",
    "value": "値",
    "samples N": "サンプル数 N",
    "smallest PPL of N": "N個中の最小PPL",
    "expected": "期待値",
    "first N": "先頭N個",
    "estimate": "推定",
    "context length": "文脈長",
    "speed-up": "速度比",
    "what": "対象",
    "theory as published": "公表された理論値",
    "Amdahl's bound": "アムダールの上限",
    "attention": "attention",
    "one layer": "1層",
    "whole model": "モデル全体",
    "prefill": "プリフィル",
    "decoding": "デコード",
    "layer of the model": "モデルの1層",
    "FLOP per byte": "FLOP/バイト",
    "FLOP per second": "FLOP/秒",
    "roofline": "ルーフライン",
    "kernel": "カーネル",
    "sequence length": "系列長",
    "training tokens": "学習トークン数",
    "loss": "損失",
    "device": "機器",
    "threshold": "閾値",
}
PATTERNS = [
    (re.compile(r"^ReLU, (\d+) heads$"), r"ReLU \1ヘッド"),
    (re.compile(r"^(.+), (\d+) heads$"), r"\1 \2ヘッド"),
    (re.compile(r"^(\d+) ReLU heads$"), r"ReLU \1ヘッド"),
]
_UNTRANSLATED = re.compile(r"^(PPL|ReLU|L1|SDPA|[A-Z]?\d[\d.,×x%]*|L\d+H\d+.*)$")


def localise(chart, lang, strings=None):
    """The chart's specification with every title, legend entry and label in `lang`; `strings` adds translations."""
    spec = copy.deepcopy(chart if isinstance(chart, dict) else chart.to_dict())
    return spec if lang == "en" else _localised(spec, JAPANESE | (strings or {}), None)


def png(spec, scale=2.0):
    """PNG bytes of a specification, on white."""
    return _converter().vegalite_to_png(on_white(spec), scale=scale, allowed_base_urls=[])


def svg(spec):
    """SVG text of a specification, without a background, and without descriptions of every mark."""
    return _svg(json.dumps(spec))


@lru_cache(maxsize=256)
def _svg(spec):
    text = _converter().vegalite_to_svg(spec, allowed_base_urls=[])
    text = re.sub(r' (?:aria-\w+|role|class)="[^"]*"', "", text)
    # Vega counts gradients and clips on from drawing to drawing; the same chart shall give the same bytes
    names = dict.fromkeys(re.findall(r'id="(\w+)"', text))
    for i, name in enumerate(names):
        text = re.sub(rf'(id="|#){name}\b', rf"\g<1>d{i}", text)
    return text


def on_white(spec):
    return spec | {"background": "white"}


def head_map(heads, value="delta", title="change of PPL"):
    """Heat map, layer by head, of `value` of `[{layer, head, delta, ppl, ...}]` on a symmetric log scale."""
    top = max(abs(h[value]) for h in heads)
    rows = [
        {"layer": h["layer"], "head": h["head"], "name": _name(h), "value": h[value], "ppl": h.get("ppl")}
        for h in heads
    ]
    scale = alt.Scale(
        type="symlog",
        constant=0.005,
        domain=[-top, -top / 30, 0, top / 30, top],
        range=["#1b5fae", "#7fb2e0", "#e9e7e2", "#eda26b", "#b4281e"],
    )
    chart = (
        _chart(rows)
        .mark_rect(stroke="#80808033", strokeWidth=0.5)
        .encode(
            x=alt.X("head:O", title="head", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("layer:O", title="layer"),
            color=alt.Color(
                "value:Q",
                title=title,
                scale=scale,
                legend=alt.Legend(format="+.0%", values=_legend_values(top), gradientLength=260),
            ),
            tooltip=[_tip("name:N", "head"), _tip("value:Q", title, "+.6%"), _tip("ppl:Q", "PPL", ".6f")],
        )
    )
    n_layers = len({h["layer"] for h in heads})
    return _house(chart, height=24 * n_layers)


def rank_law(heads, law, published=None):
    """|ΔPPL| against rank, both logarithmic, with `law` {alpha, C}; `published` is the law of the earlier write-up."""
    ordered = sorted((h for h in heads if h["delta"]), key=lambda h: -abs(h["delta"]))
    rows = [
        {
            "rank": i + 1,
            "size": abs(h["delta"]),
            "name": _name(h),
            "delta": h["delta"],
            "sign": "worse without it" if h["delta"] > 0 else "better without it",
        }
        for i, h in enumerate(ordered)
    ]
    least = rows[-1]["size"]
    lines = [{"source": "fit", **p} for p in _law_points(law, len(rows), least)]
    if published:
        lines += [{"source": PUBLISHED, **p} for p in _law_points(published, len(rows), least)]
    axes = {
        "x": alt.X("rank:Q", title="rank", scale=alt.Scale(type="log", nice=False)),
        "y": alt.Y(
            "size:Q", title="size of the change of PPL", scale=_log_scale([r["size"] for r in rows]), axis=_percent()
        ),
    }
    points = (
        _chart(rows)
        .mark_point(filled=True, size=42, opacity=0.85)
        .encode(
            **axes,
            color=alt.Color(
                "sign:N",
                title=None,
                scale=alt.Scale(
                    domain=["worse without it", "better without it"], range=[COLOURS["zero"], COLOURS["fewer"]]
                ),
            ),
            tooltip=[_tip("name:N", "head"), _tip("rank:Q", "rank"), _tip("delta:Q", "change of PPL", "+.6%")],
        )
    )
    law_lines = (
        _chart(lines)
        .mark_line(strokeWidth=1.8)
        .encode(
            **axes,
            strokeDash=_dash(["fit", PUBLISHED] if published else ["fit"]),
            opacity=_ghost_opacity("fit", 1),
            color=alt.value(COLOURS["published"]),
        )
    )
    return _house(law_lines + points, height=320)


def layer_means(zero, mean=None, published_zero=None):
    """Mean ΔPPL by layer of one or two ablations, each a list over layers."""
    series = {"zero": zero} | ({"mean": mean} if mean else {})
    rows = [
        {"layer": i, "value": v, "condition": NAMES[k], "source": MEASURED}
        for k, vs in series.items()
        for i, v in enumerate(vs)
    ]
    rows += [
        {"layer": i, "value": v, "condition": NAMES["zero"], "source": PUBLISHED}
        for i, v in enumerate(published_zero or [])
    ]
    base = _chart(rows).encode(
        x=alt.X("layer:O", title="layer", axis=alt.Axis(labelAngle=0)),
        y=alt.Y(
            "value:Q",
            title="mean change of PPL",
            axis=_percent(values=_signed_ticks([r["value"] for r in rows])),
            scale=_symlog_scale([r["value"] for r in rows], 0.005),
        ),
        xOffset=alt.XOffset("condition:N", sort=list(map(NAMES.get, series))),
        color=_colour(list(series)),
        tooltip=[
            _tip("layer:O", "layer"),
            _tip("condition:N", "condition"),
            _tip("source:N", "source"),
            _tip("value:Q", "mean change of PPL", "+.6%"),
        ],
    )
    bars = base.transform_filter(f"datum.source != {PUBLISHED_LITERAL}").mark_bar(opacity=0.9)
    layers = [bars]
    if published_zero:
        layers.append(_ghost_points(base))
    return _house(alt.layer(*layers), height=280)


def cumulative(curves, published=None, thresholds=(1.1, 1.5, 2.0)):
    """PPL ratio against the number of changed heads for every method, logarithmic, with bands and threshold lines.

    `curves` and `published` map a condition (`zero`, `mean`, `relu`, `mix`, `factored`, `2K`, `full`) to
    `[{n or n_linearized, ratio, ratio_ci?, ppl?}]`.
    """
    rows = [r for key, points in curves.items() for r in _curve(key, points, MEASURED)]
    ghosts = [r for key, points in (published or {}).items() for r in _curve(key, points, PUBLISHED)]
    keys = list(dict.fromkeys([*curves, *(published or {})]))
    x = alt.X("n:Q", title="changed heads")
    y = alt.Y(
        "ratio:Q",
        title="PPL relative to the baseline",
        scale=_log_scale(_reach(rows + ghosts, "ratio")),
        axis=alt.Axis(values=_ratio_ticks(rows + ghosts), format="~g"),
    )
    colour = _colour(keys)
    tips = [
        _tip("condition:N", "condition"),
        _tip("source:N", "source"),
        _tip("n:Q", "changed heads"),
        _tip("ratio:Q", "PPL relative to the baseline", ".6f"),
        _tip("ppl:Q", "PPL", ".6f"),
        *_interval_tips(".6f"),
    ]
    layers = [_thresholds(thresholds, "y"), *_curve_layers(rows, ghosts, x, y, colour, tips)]
    return _house(alt.layer(*layers), height=360)


def methods(heads, published=None):
    """ΔPPL of each head alone by method: ticks for heads, a diamond for the mean, a bar for the median.

    `heads` maps `relu`, `l1`, `identity`, ... to `[{layer, head, delta}]`; `published` maps them to {mean, median}.
    """
    keys = list(heads)
    rows = [{"method": NAMES[k], "value": h["delta"], "name": _name(h)} for k in keys for h in heads[k]]
    marks = []
    for k in keys:
        values = sorted(h["delta"] for h in heads[k])
        middle = (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2
        marks += [
            {"method": NAMES[k], "statistic": "mean", "value": sum(values) / len(values), "source": MEASURED},
            {"method": NAMES[k], "statistic": "median", "value": middle, "source": MEASURED},
        ]
    for k, figures in (published or {}).items():
        marks += [
            {"method": NAMES[k], "statistic": s, "value": figures[s], "source": PUBLISHED}
            for s in ("mean", "median")
            if figures.get(s) is not None
        ]
    for mark in marks:
        mark["statistic"] = {"mean": "mean change of PPL", "median": "median"}[mark["statistic"]]
    x = alt.X(
        "value:Q",
        title="change of PPL",
        scale=_symlog_scale([r["value"] for r in rows], 0.002),
        axis=_percent(values=_signed_ticks([r["value"] for r in rows])),
    )
    y = alt.Y("method:N", title=None, sort=[NAMES[k] for k in keys])
    ticks = (
        _chart(rows)
        .mark_tick(thickness=1.3, opacity=0.55, size=26)
        .encode(
            x=x,
            y=y,
            color=_colour(keys, field="method", legend=False),
            tooltip=[_tip("name:N", "head"), _tip("value:Q", "change of PPL", "+.6%")],
        )
    )
    shape = alt.Shape(
        "statistic:N",
        title=None,
        scale=alt.Scale(domain=["mean change of PPL", "median"], range=["diamond", "triangle-down"]),
    )
    spots = (
        _chart(marks)
        .transform_filter(f"datum.source != {PUBLISHED_LITERAL}")
        .mark_point(filled=True, size=110, yOffset=-22)
        .encode(x=x, y=y, shape=shape, color=_colour(keys, field="method", legend=False), tooltip=_statistic_tips())
    )
    layers = [ticks, spots]
    if published:
        layers.append(
            _chart(marks)
            .transform_filter(f"datum.source == {PUBLISHED_LITERAL}")
            .mark_point(filled=False, size=80, strokeWidth=1.5, yOffset=22)
            .encode(x=x, y=y, shape=shape, color=alt.value(COLOURS["published"]), tooltip=_statistic_tips())
        )
    return _house(alt.layer(*layers), height=70 * len(keys))


def flops_saved(saved, curves, thresholds=(1.1, 1.5, 2.0)):
    """PPL ratio against the share of attention FLOPs that the published count saves; `saved` is `[{n, saved}]`."""
    share = {row["n"]: row["saved"] for row in saved}
    rows = [
        r | {"saved": share[r["n"]]}
        for key, points in curves.items()
        for r in _curve(key, points, MEASURED)
        if r["n"] in share
    ]
    x = alt.X("saved:Q", title="attention FLOPs saved", axis=alt.Axis(format=".0%"))
    y = alt.Y(
        "ratio:Q",
        title="PPL relative to the baseline",
        scale=_log_scale(_reach(rows, "ratio")),
        axis=alt.Axis(values=_ratio_ticks(rows), format="~g"),
    )
    line = (
        _chart(rows)
        .mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=40))
        .encode(
            x=x,
            y=y,
            color=_colour(list(curves)),
            tooltip=[
                _tip("condition:N", "condition"),
                _tip("n:Q", "linearized heads"),
                _tip("saved:Q", "attention FLOPs saved", ".4%"),
                _tip("ratio:Q", "PPL relative to the baseline", ".6f"),
            ],
        )
    )
    return _house(_thresholds(thresholds, "y") + line, height=300)


def baseline(v1, published=None):
    """Baseline PPL on the first 2K and on all tokens, with intervals; `published` is {ppl_2k, ppl_full}."""
    rows = [
        _estimate({"tokens": NAMES[k], "source": MEASURED}, v1[f], v1.get(f"{f}_ci"))
        for k, f in (("2K", "ppl_2k"), ("full", "ppl_full"))
    ]
    if published:
        rows += [
            _estimate({"tokens": NAMES[k], "source": PUBLISHED}, published[f], None)
            for k, f in (("2K", "ppl_2k"), ("full", "ppl_full"))
        ]
    x = alt.X("value:Q", title="PPL", scale=alt.Scale(zero=False))
    y = alt.Y("tokens:N", title=None, sort=[NAMES["2K"], NAMES["full"]])
    tips = [
        _tip("tokens:N", "tokens"),
        _tip("source:N", "source"),
        _tip("value:Q", "PPL", ".6f"),
        *_interval_tips(".6f"),
    ]
    base = _chart(rows).encode(y=y, color=_colour(["2K", "full"], field="tokens", legend=False), tooltip=tips)
    return _house(alt.layer(*_points_with_intervals(base, x, rows)), height=110)


def top_heads(top10, published=None):
    """ΔPPL of zeroing each of the ten heads, 2K beside all tokens, in 2K order; `published` has the same form."""
    order = [_ranked_name(h) for h in top10]
    rows = []
    for source, heads in ((MEASURED, top10), (PUBLISHED, published or [])):
        names = {(h["layer"], h["head"]): _ranked_name(h) for h in top10}
        for h in heads:
            name = names.get((h["layer"], h["head"]))
            if name:
                rows += [
                    _estimate(
                        {
                            "name": name,
                            "tokens": NAMES[k],
                            "source": source,
                            "rank2": h.get("rank_2k"),
                            "rank": h.get("rank_full"),
                        },
                        h[f],
                        h.get(f"{f}_ci"),
                    )
                    for k, f in (("2K", "delta_ppl_2k"), ("full", "delta_ppl_full"))
                ]
    low = min(r["value"] for r in rows)
    rows = _clip_to_log(rows, low)
    reach = _reach(rows, "value")
    scale = _log_scale(reach) if low > 0 else _symlog_scale(reach, 0.005)
    x = alt.X(
        "value:Q", title="change of PPL", scale=scale, axis=_percent(values=_signed_ticks([r["value"] for r in rows]))
    )
    tips = [
        _tip("name:N", "head"),
        _tip("tokens:N", "tokens"),
        _tip("source:N", "source"),
        _tip("value:Q", "change of PPL", "+.6%"),
        *_interval_tips("+.6%"),
        _tip("rank2:Q", "rank on 2K"),
        _tip("rank:Q", "rank on all"),
    ]
    base = _chart(rows).encode(
        y=alt.Y("name:N", title=None, sort=order),
        yOffset=alt.YOffset("tokens:N", sort=[NAMES["2K"], NAMES["full"]]),
        color=_colour(["2K", "full"], field="tokens"),
        tooltip=tips,
    )
    return _house(alt.layer(*_points_with_intervals(base, x, rows)), height=30 * len(order))


def rank_slope(top10):
    """The ten heads' ranks on 2K tokens and on all tokens, joined."""
    rows = [
        {"name": _name(h), "tokens": NAMES[k], "rank": h[f]}
        for h in top10
        for k, f in (("2K", "rank_2k"), ("full", "rank_full"))
    ]
    base = _chart(rows).encode(
        x=alt.X(
            "tokens:N",
            title=None,
            sort=[NAMES["2K"], NAMES["full"]],
            axis=alt.Axis(labelAngle=0, domain=False, ticks=False),
            scale=alt.Scale(padding=0.3),
        ),
        y=alt.Y(
            "rank:Q",
            title="rank",
            scale=alt.Scale(reverse=True, type="log", domain=[0.92, 1.12 * max(r["rank"] for r in rows)]),
            axis=alt.Axis(values=sorted({r["rank"] for r in rows}), format="d", grid=False),
        ),
        detail="name:N",
        tooltip=[_tip("name:N", "head"), _tip("tokens:N", "tokens"), _tip("rank:Q", "rank")],
    )
    lines = base.mark_line(
        color=COLOURS["zero"], strokeWidth=1.6, point=alt.OverlayMarkDef(color=COLOURS["zero"], size=50)
    )
    label = {"color": "currentColor", "fontSize": 11}
    left = (
        base.transform_filter(f"datum.tokens == '{NAMES['2K']}'")
        .mark_text(align="right", dx=-10, **label)
        .encode(text="name:N")
    )
    right = (
        base.transform_filter(f"datum.tokens != '{NAMES['2K']}'")
        .mark_text(align="left", dx=10, **label)
        .encode(text="name:N")
    )
    return _house(lines + left + right, height=320, width=420)


def zero_and_mean(v3, published=None):
    """ΔPPL of the focus head under zero- and mean-ablation, 2K and all tokens, as bars with intervals."""
    rows = []
    for source, data in ((MEASURED, v3), (PUBLISHED, published)):
        rows += [
            _estimate(
                {"condition": NAMES[mode], "tokens": NAMES[k], "source": source},
                data[f"{mode}_delta_ppl_{suffix}"],
                data.get(f"{mode}_delta_ppl_{suffix}_ci"),
            )
            for mode in ("zero", "mean")
            for k, suffix in (("2K", "2k"), ("full", "full"))
            if data
        ]
    x = alt.X(
        "value:Q",
        title="change of PPL",
        scale=_symlog_scale(_reach(rows, "value"), 0.001),
        axis=_percent(values=_signed_ticks([r["value"] for r in rows])),
    )
    base = _chart(rows).encode(
        y=alt.Y("tokens:N", title=None, sort=[NAMES["2K"], NAMES["full"]]),
        yOffset=alt.YOffset("condition:N", sort=[NAMES["zero"], NAMES["mean"]]),
        color=_colour(["zero", "mean"]),
        tooltip=[
            _tip("condition:N", "condition"),
            _tip("tokens:N", "tokens"),
            _tip("source:N", "source"),
            _tip("value:Q", "change of PPL", "+.6%"),
            *_interval_tips("+.6%"),
        ],
    )
    measured = base.transform_filter(f"datum.source != {PUBLISHED_LITERAL}")
    layers = [measured.mark_bar(opacity=0.85).encode(x=x)]
    if any(r["lo"] is not None for r in rows):
        layers.append(
            measured.transform_filter("isValid(datum.lo)")
            .mark_rule(strokeWidth=1.6)
            .encode(x="lo:Q", x2="hi:Q", color=alt.value("currentColor"))
        )
    if published:
        layers.append(_ghost_points(base.encode(x=x)))
    return _house(alt.layer(*layers), height=150)


def ladder(v4, published=None, thresholds=(1.1, 1.5, 2.0)):
    """V4: PPL ratio by linearized heads on 2K and on all tokens; `published` maps `2K` and `full` to its rows."""
    curves = {"2K": v4["cumulative_2k"], "full": v4["cumulative"]}
    return cumulative(curves, published, thresholds)


def generation_speed(p1, published=None):
    """P1: tokens per second of each condition under each protocol; `published` is `[{condition, tok_per_s}]`."""
    several = len({(r["protocol"], r["backend"]) for r in p1["rows"]}) > len({r["protocol"] for r in p1["rows"]})
    figures = {r["condition"]: r["tok_per_s"] for r in published or []}
    first = p1["rows"][0]["protocol"]
    rows = []
    for r in p1["rows"]:
        condition = condition_name(r["condition"])
        place = " · ".join([r["protocol"], condition] + ([r["backend"]] if several else []))
        labels = {"place": place, "condition": condition, "protocol": r["protocol"], "backend": r["backend"]}
        rows.append(_estimate(
            labels | {"source": MEASURED, "ms": r["ms_per_tok"]}, r["tok_per_s"], r.get("tok_per_s_ci")))
        if r["protocol"] == first and figures.get(r["condition"]):
            rows.append(_estimate(labels | {"source": PUBLISHED, "ms": None}, figures.pop(r["condition"]), None))
    reach = _reach(rows, "value")
    x = alt.X("value:Q", title="tokens per second", scale=_log_scale(reach), axis=alt.Axis(format="~s", tickCount=6))
    base = _chart(rows).encode(
        y=alt.Y("place:N", title=None, sort=list(dict.fromkeys(r["place"] for r in rows))),
        color=_condition_colour(list(dict.fromkeys(r["condition"] for r in p1["rows"]))),
        tooltip=[
            _tip("condition:N", "condition"),
            _tip("protocol:N", "protocol"),
            _tip("backend:N", "backend"),
            _tip("source:N", "source"),
            _tip("value:Q", "tokens per second", ".4f"),
            _tip("ms:Q", "ms per token", ".4f"),
            *_interval_tips(".4f"),
        ],
    )
    places = len({r["place"] for r in rows})
    return _house(alt.layer(*_points_with_intervals(base, x, rows)), height=max(90, 26 * places))


def refinement(p2, published=None):
    """P2: PPL of the generated text by iteration; `published` maps a condition to its PPLs."""
    rows = _series(p2["conditions"], "ppl", range(1, 1000), published)
    return _lines(
        rows,
        [c["condition"] for c in p2["conditions"]],
        "iteration",
        "PPL of the generated text",
        y_scale=alt.Scale(zero=False),
        height=280,
    )


def degeneration(p2, field="repeated_4gram_share", title="share of repeated 4-grams"):
    """P2: how repetitive the texts are, by iteration where `field` is a list, else one bar per condition."""
    conditions = [c["condition"] for c in p2["conditions"]]
    if isinstance(p2["conditions"][0][field], list):
        rows = _series(p2["conditions"], field, range(1, 1000), None)
        return _lines(rows, conditions, "iteration", title, y_axis=alt.Axis(format=".0%"), height=240)
    rows = [
        _estimate({"condition": condition_name(c["condition"])}, c[field], c.get(f"{field}_ci"))
        for c in p2["conditions"]
    ]
    base = _chart(rows).encode(
        y=alt.Y("condition:N", title=None, sort=[condition_name(c) for c in conditions]),
        color=_condition_colour(conditions, legend=False),
        tooltip=[_tip("condition:N", "condition"), _tip("value:Q", title, ".6f"), *_interval_tips(".6f")],
    )
    bars = base.mark_bar(opacity=0.9).encode(x=alt.X("value:Q", title=title, axis=alt.Axis(format=".0%")))
    return _house(bars, height=40 * len(conditions))


def best_of_n(p3, published=None):
    """P3: expected smallest PPL of N samples with its band, the first N hollow, the baseline at N = 1 as a line."""
    counts = p3["n"]
    conditions = [c["condition"] for c in p3["conditions"]]
    rows = _series(p3["conditions"], "expected", counts, None)
    for c in p3["conditions"]:
        rows += [
            _estimate({"condition": condition_name(c["condition"]), "x": n, "source": "first N"}, v, None)
            for n, v in zip(counts, c["first_n"], strict=True)
        ]
    for key, values in (published or {}).items():
        rows += [
            _estimate({"condition": condition_name(key, conditions), "x": n, "source": PUBLISHED}, v, None)
            for n, v in zip(counts, values, strict=False)
        ]
    chart = _lines(
        rows,
        conditions,
        "samples N",
        "smallest PPL of N",
        y_scale=alt.Scale(zero=False),
        height=320,
        hollow="first N",
        x_values=counts,
    )
    level = next(c["expected"][0] for c in p3["conditions"] if c["condition"] == "baseline")
    rule = _chart([{"level": level}]).mark_rule(strokeDash=[2, 3], color=COLOURS["baseline"]).encode(y="level:Q")
    return _house(rule + chart, height=320)


def context_length(p4, published=None):
    """P4: PPL ratio by context length, with intervals; `published` maps a condition to its ratios."""
    conditions = [c["condition"] for c in p4["conditions"] if c["condition"] != "baseline"]
    chosen = [c for c in p4["conditions"] if c["condition"] != "baseline"]
    rows = _series(chosen, "ratio", p4["lengths"], published)
    return _lines(
        rows,
        conditions,
        "context length",
        "PPL relative to the baseline",
        height=280,
        x_scale=alt.Scale(type="log", base=2, nice=False),
        x_values=p4["lengths"],
        y_scale=alt.Scale(zero=False),
    )


def speed_and_theory(rows, theory=(), bounds=()):
    """Kernel speed: `rows` are `[{what, n_linearized, speedup, speedup_ci?}]`, `theory` and `bounds` the same without.

    `what` is `attention`, `one layer`, `prefill` or `decoding`.
    """
    kinds = list(dict.fromkeys(r["what"] for r in rows))
    lines = [
        _estimate({"what": r["what"], "n": r["n_linearized"], "source": MEASURED}, r["speedup"], r.get("speedup_ci"))
        for r in rows
    ]
    for source, points in (("theory as published", theory), ("Amdahl's bound", bounds)):
        lines += [
            _estimate({"what": r.get("what", source), "n": r["n_linearized"], "source": source}, r["speedup"], None)
            for r in points
        ]
    names = list(dict.fromkeys(r["what"] for r in lines))
    palette = [COLOURS[k] for k in ("relu", "fewer", "more", "mean", "l1", "identity")]
    colours = dict(zip(kinds, palette, strict=False)) | {n: COLOURS["published"] for n in names if n not in kinds}
    x = alt.X("n:Q", title="linearized heads")
    y = alt.Y("value:Q", title="speed-up", axis=alt.Axis(format=".2~f"), scale=alt.Scale(zero=False))
    colour = alt.Color("what:N", title=None, scale=alt.Scale(domain=names, range=[colours[n] for n in names]))
    dash = _dash([MEASURED, "theory as published", "Amdahl's bound"], legend=False)
    tips = [
        _tip("what:N", "what"),
        _tip("source:N", "source"),
        _tip("n:Q", "linearized heads"),
        _tip("value:Q", "speed-up", ".4f"),
        *_interval_tips(".4f"),
    ]
    base = _chart(lines).encode(x=x, color=colour, tooltip=tips)
    one = _chart([{"level": 1}]).mark_rule(color=COLOURS["baseline"], strokeDash=[2, 3]).encode(y="level:Q")
    layers = [one, base.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=40)).encode(y=y, strokeDash=dash)]
    if any(r["lo"] is not None for r in lines):
        layers.append(base.transform_filter("isValid(datum.lo)").mark_rule(strokeWidth=1.5).encode(y="lo:Q", y2="hi:Q"))
    return _house(alt.layer(*layers), height=320)


def roofline(points, peak, bandwidth):
    """`points` are `[{name, intensity, rate}]` (FLOP/byte, FLOP/s) under `peak` FLOP/s and `bandwidth` byte/s."""
    ridge = peak / bandwidth
    left = min([ridge / 16, *(p["intensity"] / 2 for p in points)])
    right = max([ridge * 8, *(p["intensity"] * 2 for p in points)])
    roof = [
        {"intensity": left, "rate": left * bandwidth},
        {"intensity": ridge, "rate": peak},
        {"intensity": right, "rate": peak},
    ]
    x = alt.X("intensity:Q", title="FLOP per byte", scale=alt.Scale(type="log", nice=False))
    y = alt.Y("rate:Q", title="FLOP per second", scale=alt.Scale(type="log"), axis=alt.Axis(format="~s"))
    names = list(dict.fromkeys(p["name"] for p in points))
    line = _chart(roof).mark_line(color=COLOURS["published"], strokeWidth=2).encode(x=x, y=y)
    spots = (
        _chart(points)
        .mark_point(filled=True, size=80)
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "name:N", title="kernel", scale=alt.Scale(domain=names, range=list(COLOURS.values())[1:][: len(names)])
            ),
            tooltip=[
                _tip("name:N", "kernel"),
                _tip("intensity:Q", "FLOP per byte", ".4f"),
                _tip("rate:Q", "FLOP per second", ".4s"),
            ],
        )
    )
    return _house(line + spots, height=300)


def condition_name(condition, known=None):
    """`relu_30` as `ReLU, 30 heads`. With `known`, a published condition takes the name of its place among them."""
    if known and condition not in known and condition.startswith("relu_"):
        place = {"relu_30": 0, "relu_70": 1}.get(condition, 0)
        here = [c for c in known if c.startswith("relu_")]
        condition = here[min(place, len(here) - 1)] if here else condition
    return NAMES.get(condition) or f"ReLU, {int(condition.removeprefix('relu_'))} heads"


def font_file():
    """The Japanese font that charts, page and books share."""
    return Path(matplotlib_fontja.__file__).parent / "fonts" / "ipaexg.ttf"


@cache
def _converter():
    vl_convert.register_font_directory(str(font_file().parent))
    return vl_convert


def _chart(rows):
    return alt.Chart(alt.Data(values=list(rows)))


def _house(chart, height, width=WIDTH):
    return chart.properties(width=width, height=height).configure(
        font=FONT,
        background="transparent",
        padding=4,
        **{
            "axis": alt.AxisConfig(
                labelColor="currentColor",
                titleColor="currentColor",
                titleFontWeight="normal",
                titlePadding=8,
                domainColor="#80808099",
                tickColor="#80808099",
                gridColor="#8080802e",
                labelFontSize=11,
                titleFontSize=12,
                labelLimit=240,
            ),
            "legend": alt.LegendConfig(
                labelColor="currentColor",
                titleColor="currentColor",
                titleFontWeight="normal",
                orient="top",
                labelFontSize=11,
                titleFontSize=11,
                labelLimit=260,
                columnPadding=14,
                symbolStrokeWidth=2,
                symbolOpacity=1,
                columns=4,
            ),
            "view": alt.ViewConfig(stroke=None),
        },
    )


def _tip(field, title, form=None):
    return alt.Tooltip(field, title=title, **({"format": form} if form else {}))


def _interval_tips(form):
    return [_tip("lo:Q", "interval from", form), _tip("hi:Q", "interval to", form)]


def _statistic_tips():
    return [
        _tip("method:N", "method"),
        _tip("statistic:N", "statistic"),
        _tip("source:N", "source"),
        _tip("value:Q", "value", "+.6%"),
    ]


def _colour(keys, field="condition", legend=True):
    domain = [NAMES[k] for k in keys]
    scale = alt.Scale(domain=domain, range=[COLOURS[k] for k in keys])
    return alt.Color(f"{field}:N", title=None, scale=scale, **({} if legend else {"legend": None}))


def _condition_colour(conditions, legend=True):
    linearized = sorted((c for c in conditions if c != "baseline"), key=lambda c: int(c.removeprefix("relu_")))
    keys = dict(zip(linearized, ("fewer", "more", "mix", "identity"), strict=False)) | {"baseline": "baseline"}
    scale = alt.Scale(domain=[condition_name(c) for c in conditions], range=[COLOURS[keys[c]] for c in conditions])
    return alt.Color("condition:N", title=None, scale=scale, **({} if legend else {"legend": None}))


def _dash(sources, legend=True):
    symbol = alt.Legend(symbolType="stroke", symbolSize=300, symbolStrokeColor=COLOURS["published"])
    dashes = [[1, 0], [5, 3], [2, 2]][: len(sources)]
    return alt.StrokeDash(
        "source:N", title=None, scale=alt.Scale(domain=sources, range=dashes), legend=symbol if legend else None
    )


def _shape(sources):
    """Solid circles, published diamonds; `sources` as far as they occur."""
    shapes = {MEASURED: "circle", "first N": "triangle-up", PUBLISHED: "diamond"}
    symbol = alt.Legend(symbolFillColor="transparent", symbolStrokeColor=COLOURS["published"])
    return alt.Shape(
        "source:N", title=None, scale=alt.Scale(domain=sources, range=[shapes[k] for k in sources]), legend=symbol
    )


def _sources(rows):
    return [k for k in (MEASURED, "first N", PUBLISHED) if any(r["source"] == k for r in rows)]


def _ghost_opacity(solid, strength):
    return alt.condition(f"datum.source == {solid!r}", alt.value(strength), alt.value(0.6))


def _ghost_points(base, sources=(PUBLISHED,)):
    return (
        base.transform_filter(f"datum.source == {PUBLISHED_LITERAL}")
        .mark_point(filled=False, size=60, strokeWidth=1.6, opacity=0.9)
        .encode(color=alt.value(COLOURS["published"]), shape=_shape(list(sources)))
    )


def _points_with_intervals(base, x, rows):
    """Filled points with rules for their intervals, and hollow published ones where `rows` hold any."""
    measured = base.transform_filter(f"datum.source != {PUBLISHED_LITERAL}")
    intervals = measured.transform_filter("isValid(datum.lo)").mark_rule(strokeWidth=2, opacity=0.7)
    layers = [intervals.encode(x="lo:Q", x2="hi:Q")]
    sources = _sources(rows)
    points = measured.mark_point(filled=True, size=70, opacity=1).encode(x=x)
    if PUBLISHED in sources:
        return [*layers, points.encode(shape=_shape(sources)), _ghost_points(base.encode(x=x), sources)]
    return [*layers, points]


def _curve_layers(rows, ghosts, x, y, colour, tips):
    """Lines with bands where there are intervals, and dashed published lines."""
    layers = []
    banded = [r for r in rows if r.get("lo") is not None]
    if banded:
        layers.append(_chart(banded).mark_area(opacity=0.18).encode(x=x, y="lo:Q", y2="hi:Q", color=colour))
    dash = {"strokeDash": _dash([MEASURED, PUBLISHED])} if ghosts else {}
    if ghosts:
        hollow = alt.OverlayMarkDef(filled=False, size=26, strokeDash=[1, 0], opacity=0.7)
        ghost = _chart(ghosts).mark_line(strokeWidth=1.5, opacity=0.7, point=hollow)
        layers.append(ghost.encode(x=x, y=y, color=colour, tooltip=tips, **dash))
    line = _chart(rows).mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=38, strokeDash=[1, 0]))
    return [*layers, line.encode(x=x, y=y, color=colour, tooltip=tips, **dash)]


def _lines(
    rows, conditions, x_title, y_title, height, x_scale=None, y_scale=None, y_axis=None, hollow=None, x_values=None
):
    values = list(x_values or sorted({r["x"] for r in rows}))
    x = alt.X(
        "x:Q",
        title=x_title,
        axis=alt.Axis(values=values, format="d"),
        scale=x_scale or alt.Scale(nice=False, padding=12),
    )
    y = alt.Y(
        "value:Q", title=y_title, **({"scale": y_scale} if y_scale else {}), **({"axis": y_axis} if y_axis else {})
    )
    tips = [
        _tip("condition:N", "condition"),
        _tip("source:N", "source"),
        _tip("x:Q", x_title),
        _tip("value:Q", y_title, ".6f"),
        *_interval_tips(".6f"),
    ]
    colour = _condition_colour(conditions)
    solid = [r for r in rows if r["source"] not in (PUBLISHED, hollow)]
    ghosts = [r for r in rows if r["source"] == PUBLISHED]
    layers = _curve_layers(solid, ghosts, x, y, colour, tips)
    if hollow:
        marks = [r for r in rows if r["source"] == hollow]
        points = _chart(marks).mark_point(size=60, strokeWidth=1.5)
        layers.append(points.encode(x=x, y=y, color=colour, tooltip=tips, shape=_shape([hollow])))
    chart = alt.layer(*layers)
    return chart if hollow else _house(chart, height)


def _series(conditions, field, xs, published):
    rows = []
    for c in conditions:
        intervals = c.get(f"{field}_ci") or [None] * len(c[field])
        rows += [
            _estimate({"condition": condition_name(c["condition"]), "x": x, "source": MEASURED}, value, interval)
            for x, value, interval in zip(xs, c[field], intervals, strict=False)
        ]
    known = [c["condition"] for c in conditions]
    for key, values in (published or {}).items():
        rows += [
            _estimate({"condition": condition_name(key, known), "x": x, "source": PUBLISHED}, value, None)
            for x, value in zip(xs, values, strict=False)
        ]
    return rows


def _estimate(labels, value, interval):
    low, high = interval if interval else (None, None)
    return labels | {"value": value, "lo": low, "hi": high}


def _curve(key, points, source):
    rows = []
    for p in points:
        low, high = p.get("ratio_ci") or (None, None)
        rows.append(
            {
                "condition": NAMES[key],
                "source": source,
                "n": p.get("n", p.get("n_linearized")),
                "ratio": p["ratio"],
                "ppl": p.get("ppl"),
                "lo": low,
                "hi": high,
            }
        )
    return rows


def _clip_to_log(rows, low):
    """Intervals that reach zero or below are cut at a fifth of the smallest value, where the axis is logarithmic."""
    if low <= 0:
        return rows
    return [r | {"lo": max(r["lo"], low / 5)} if r["lo"] is not None else r for r in rows]


def _thresholds(levels, axis):
    rows = [{"level": t} for t in levels]
    return (
        _chart(rows)
        .mark_rule(color=COLOURS["baseline"], strokeDash=[2, 3], opacity=0.9)
        .encode(**{axis: "level:Q"}, tooltip=[_tip("level:Q", "threshold")])
    )


def _law_points(law, n, least):
    steps = [round(math.exp(math.log(n) * i / 24), 4) for i in range(25)] if n > 1 else [1.0]
    points = [{"rank": r, "size": law["C"] * r ** -law["alpha"]} for r in steps]
    return [p for p in points if p["size"] >= least / 2]


def _reach(rows, field):
    """The values and the ends of their intervals, for an axis that holds them all."""
    return [r[k] for r in rows for k in (field, "lo", "hi") if r.get(k) is not None]


def _log_scale(values):
    positive = [v for v in values if v > 0]
    high = max(positive)
    low = max(min(positive), high * 1e-4)
    margin = (high / low) ** 0.04 if high > low else 1.1
    return alt.Scale(type="log", domain=[low / margin, high * margin], nice=False)


def _symlog_scale(values, constant):
    low, high = min(0, *values), max(0, *values)
    return alt.Scale(type="symlog", constant=constant, domain=[low * 1.3, high * 1.2], nice=False)


def _percent(values=None):
    return alt.Axis(format=".2~p", **({"values": values} if values else {}))


def _signed_ticks(values):
    """Ticks 1, 3, 10, 30, ... per mille on both sides of zero, as far as the values go."""
    steps = [s * 10**e for e in range(-3, 4) for s in (1, 3)]
    top, bottom = max(values), min(values)
    positive = [s for s in steps if s <= top * 1.5]
    negative = [-s for s in steps if bottom < 0 and s <= -bottom * 1.5]
    return sorted([*negative[-5:], 0, *positive[-7:]])


def _ratio_ticks(rows):
    top = max(r["ratio"] for r in rows)
    low = min(r["ratio"] for r in rows)
    steps = [0.9, 1, 1.1, 1.2, 1.5, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000]
    wanted = [s for s in steps if low * 0.95 <= s <= top * 1.05]
    return [s for s in wanted if s not in (1.2,)] if top > 3 else wanted


def _legend_values(top):
    return [v for v in (-1, -0.1, -0.01, 0, 0.01, 0.1, 1) if abs(v) <= top * 1.2]


def _name(head):
    return f"L{head['layer']}H{head['head']}"


def _ranked_name(head):
    return f"{_name(head)}  {head['rank_2k']} → {head['rank_full']}" if head.get("rank_full") else _name(head)


_SHOWN = {"title", "text", "label"}


def _localised(node, strings, key):
    if isinstance(node, dict):
        if key == "datasets" or key == "data":
            return {k: [_row(r, strings) for r in v] if isinstance(v, list) else v for k, v in node.items()}
        return {
            k: _expression(v, strings) if k == "filter" or k == "test" else _localised(v, strings, k)
            for k, v in node.items()
        }
    if isinstance(node, list):
        if key in ("domain", "sort"):
            return [_translated(v, strings, False) if isinstance(v, str) else v for v in node]
        return [_localised(v, strings, key) for v in node]
    if isinstance(node, str) and key in _SHOWN:
        return _translated(node, strings, True)
    return node


def _row(row, strings):
    return {k: _translated(v, strings, False) if isinstance(v, str) else v for k, v in row.items()}


def _expression(node, strings):
    """A filter compares data, so its quoted texts are translated with the data."""
    if not isinstance(node, str):
        return node
    return re.sub(r"'([^']*)'", lambda m: "'" + _translated(m.group(1), strings, False) + "'", node)


def _translated(text, strings, required):
    if text in strings:
        return strings[text]
    for pattern, form in PATTERNS:
        if pattern.match(text):
            return pattern.sub(form, text)
    if " · " in text:
        return " · ".join(_translated(part, strings, False) for part in text.split(" · "))
    if required and not _UNTRANSLATED.match(text):
        raise InputError(f"a chart says {text!r}, which has no Japanese in lib/charts.py; pass it as strings={{...}}")
    return text
