"""Figures of the earlier phases and of Part V: one function each, as `report.charts` says."""

from collections.abc import Mapping, Sequence

import altair as alt

from lib.results.sections.terms import LIMITS
from report.charts.style import (
    COLOURS,
    MEASURED,
    NAMES,
    PUBLISHED,
    ZOOM,
    Chart,
    Row,
    Rows,
    beyond,
    chart_of,
    clip_to_log,
    colour_of,
    curve_layers,
    curve_rows,
    dash_of,
    estimate,
    ghost_opacity,
    hollow_published,
    house,
    interval_tips,
    law_points,
    legend_values,
    lighting_up,
    log_scale,
    measured_of,
    name_of,
    percent_axis,
    points_with_intervals,
    published_of,
    ranked_name,
    ratio_ticks,
    reach_of,
    shapes_like,
    signed_ticks,
    statistic_tips,
    symlog_scale,
    threshold_lines,
    tip,
    wide,
)

Curves = Mapping[str, Rows]


def head_map(heads: Rows, value: str = "delta", title: str = "change of PPL") -> Chart:
    """Heat map, layer by head, of `value` of `[{layer, head, delta, ppl, ...}]` on a symmetric log scale."""
    top = max(abs(h[value]) for h in heads)
    rows = [
        {"layer": h["layer"], "head": h["head"], "head_name": name_of(h), "value": h[value], "ppl": h.get("ppl")}
        for h in heads
    ]
    scale = alt.Scale(
        type="symlog",
        constant=0.005,
        domain=[-top, -top / 30, 0, top / 30, top],
        range=["#1b5fae", "#7fb2e0", "#f1f0ed", "#eda26b", "#b4281e"],
        interpolate="rgb",
    )
    places = chart_of(rows).encode(
        x=alt.X("head:O", title="head", axis=alt.Axis(labelAngle=0)), y=alt.Y("layer:O", title="layer")
    )
    cells = places.mark_rect(stroke="#80808033", strokeWidth=0.5).encode(
        color=alt.Color(
            "value:Q",
            title=title,
            scale=scale,
            legend=alt.Legend(format="+.0%", values=legend_values(top), gradientLength=260),
        ),
        tooltip=[tip("head_name:N", "head"), tip("value:Q", title, "+.6%"), tip("ppl:Q", "PPL", ".6f")],
    )
    lit = places.mark_rect(filled=False, stroke="currentColor", strokeWidth=2.5)
    n_layers = len({h["layer"] for h in heads})
    return house(lighting_up(cells, lit), height=24 * n_layers)


def rank_law(heads: Rows, law: Row, published: Row | None = None) -> Chart:
    """|ΔPPL| against rank, both logarithmic, with `law` {alpha, C}; `published` is the law of the earlier write-up."""
    ordered = sorted((h for h in heads if h["delta"]), key=lambda h: -abs(h["delta"]))
    rows = [
        {
            "rank": i + 1,
            "size": abs(h["delta"]),
            "head_name": name_of(h),
            "delta": h["delta"],
            "sign": "worse without it" if h["delta"] > 0 else "better without it",
        }
        for i, h in enumerate(ordered)
    ]
    least = rows[-1]["size"]
    lines = [{"source": "fit", **p} for p in law_points(law, len(rows), least)]
    if published:
        lines += [{"source": PUBLISHED, **p} for p in law_points(published, len(rows), least)]
    axes = {
        "x": alt.X("rank:Q", title="rank", scale=alt.Scale(type="log", domain=[1, max(len(rows), 2)], nice=False)),
        "y": alt.Y(
            "size:Q",
            title="size of the change of PPL",
            scale=log_scale([r["size"] for r in rows + lines]),
            axis=percent_axis(),
        ),
    }
    points = (
        chart_of(rows)
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
            tooltip=[tip("head_name:N", "head"), tip("rank:Q", "rank"), tip("delta:Q", "change of PPL", "+.6%")],
        )
    )
    law_lines = (
        chart_of(lines)
        .mark_line(strokeWidth=1.8)
        .encode(
            **axes,
            strokeDash=dash_of(["fit", PUBLISHED] if published else ["fit"]),
            opacity=ghost_opacity("fit", 1),
            color=alt.value(COLOURS["published"]),
        )
    )
    lit = chart_of(rows).mark_point(filled=False, size=180, strokeWidth=2.5, color="currentColor").encode(**axes)
    return house(lighting_up(law_lines + points, lit), height=320)


def layer_means(
    zero: Sequence[float], mean: Sequence[float] | None = None, published_zero: Sequence[float] | None = None
) -> Chart:
    """Mean ΔPPL by layer of one or two ablations, each a list over layers."""
    series = {"zero": zero} | ({"mean": mean} if mean else {})
    rows: list[Row] = [
        {"layer": i, "value": v, "condition": NAMES[k], "source": MEASURED}
        for k, vs in series.items()
        for i, v in enumerate(vs)
    ]
    rows += [
        {"layer": i, "value": v, "condition": NAMES["zero"], "source": PUBLISHED}
        for i, v in enumerate(published_zero or [])
    ]
    base = chart_of(rows).encode(
        x=alt.X("layer:O", title="layer", axis=alt.Axis(labelAngle=0)),
        y=alt.Y(
            "value:Q",
            title="mean change of PPL",
            axis=percent_axis(values=signed_ticks([r["value"] for r in rows], 0.003)),
            scale=symlog_scale([r["value"] for r in rows], 0.005),
        ),
        xOffset=alt.XOffset("condition:N", sort=[NAMES[key] for key in series]),
        color=colour_of(list(series)),
        tooltip=[
            tip("layer:O", "layer"),
            tip("condition:N", "condition"),
            tip("source:N", "source"),
            tip("value:Q", "mean change of PPL", "+.6%"),
        ],
    )
    own = measured_of(base)
    zero_line = chart_of([{"level": 0}]).mark_rule(color=COLOURS["baseline"]).encode(y="level:Q")
    layers = [
        zero_line,
        own.mark_point(filled=True, size=80, opacity=1).encode(shape=shapes_like(colour_of(list(series)))),
    ]
    if published_zero:
        layers.append(hollow_published(base))
    return house(alt.layer(*layers), height=280)


def cumulative(
    curves: Curves, published: Curves | None = None, thresholds: Sequence[float] = LIMITS, what: str = "changed heads"
) -> Chart:
    """PPL ratio against the number of changed heads for every method, logarithmic, with bands and threshold lines.

    `curves` and `published` map a condition (`zero`, `mean`, `relu`, `mix`, `factored`, `2K`, `full`) to
    `[{n or n_linearized, ratio, ratio_ci?, ppl?}]`.
    """
    rows = [r for key, points in curves.items() for r in curve_rows(key, points, MEASURED)]
    ghosts = [r for key, points in (published or {}).items() for r in curve_rows(key, points, PUBLISHED)]
    keys = list(dict.fromkeys([*curves, *(published or {})]))
    counts = [r["n"] for r in rows + ghosts]
    x = alt.X("n:Q", title=what, scale=alt.Scale(domain=[min(counts), max(counts)], nice=False, padding=10))
    top = max(r["ratio"] for r in rows)
    zoomed = top > ZOOM
    within = reach_of(rows + ghosts, "ratio")
    within = [v for v in within if v <= ZOOM] + [ZOOM] if zoomed else within
    y = alt.Y(
        "ratio:Q",
        title="PPL relative to the baseline",
        scale=log_scale(within),
        axis=alt.Axis(values=[v for v in (*ratio_ticks(rows + ghosts), 2.5) if v <= max(within)], format="~g"),
    )
    colour = colour_of(keys)
    tips = [
        tip("condition:N", "condition"),
        tip("source:N", "source"),
        tip("n:Q", what),
        tip("ratio:Q", "PPL relative to the baseline", ".6f"),
        tip("ppl:Q", "PPL", ".6f"),
        *interval_tips(".6f"),
    ]
    layers = [
        threshold_lines(thresholds, "y"),
        *curve_layers(rows, ghosts, x, y, colour, tips, top=ZOOM if zoomed else None),
    ]
    for i, end in enumerate(beyond(rows, ZOOM) if zoomed else []):
        label = chart_of([end]).mark_text(align="left", baseline="top", fontSize=11, fontWeight="bold")
        layers.append(label.encode(x=alt.value(12), y=alt.value(4 + 14 * i), text="label:N", color=colour))
    chart = alt.layer(*layers)
    return house(wide(chart) if len(keys) > 3 else chart, height=360)


def methods(heads: Curves, published: Mapping[str, Row] | None = None) -> Chart:
    """ΔPPL of each head alone by method: ticks for heads, a diamond for the mean, a bar for the median.

    `heads` maps `relu`, `l1`, `identity`, ... to `[{layer, head, delta}]`; `published` maps them to {mean, median}.
    """
    keys = list(heads)
    rows = [{"method": NAMES[k], "value": h["delta"], "head_name": name_of(h)} for k in keys for h in heads[k]]
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
        scale=symlog_scale([r["value"] for r in rows], 0.002),
        axis=percent_axis(values=signed_ticks([r["value"] for r in rows], 0.003)),
    )
    y = alt.Y("method:N", title=None, sort=[NAMES[k] for k in keys])
    ticks = (
        chart_of(rows)
        .mark_tick(thickness=1.3, opacity=0.55, size=26)
        .encode(
            x=x,
            y=y,
            color=colour_of(keys, field="method", legend=False),
            tooltip=[tip("head_name:N", "head"), tip("value:Q", "change of PPL", "+.6%")],
        )
    )
    shape = alt.Shape(
        "statistic:N",
        title=None,
        scale=alt.Scale(domain=["mean change of PPL", "median"], range=["diamond", "triangle-down"]),
        legend=alt.Legend(symbolFillColor=COLOURS["published"], symbolStrokeColor=COLOURS["published"]),
    )
    spots = (
        measured_of(chart_of(marks))
        .mark_point(filled=True, size=110, yOffset=-22)
        .encode(x=x, y=y, shape=shape, color=colour_of(keys, field="method", legend=False), tooltip=statistic_tips())
    )
    layers = [ticks, spots]
    if published:
        layers.append(
            published_of(chart_of(marks))
            .mark_point(filled=False, size=80, strokeWidth=1.5, yOffset=22)
            .encode(x=x, y=y, shape=shape, color=alt.value(COLOURS["published"]), tooltip=statistic_tips())
        )
    lit = chart_of(rows).mark_tick(thickness=3, size=40, color="currentColor").encode(x=x, y=y)
    return house(lighting_up(alt.layer(*layers), lit), height=70 * len(keys))


def flops_saved(
    saved: Rows, curves: Curves, published: Curves | None = None, thresholds: Sequence[float] = LIMITS
) -> Chart:
    """PPL ratio against the share of attention FLOPs that the published count saves; `saved` is `[{n, saved}]`.

    `published` maps a condition to `[{n, ratio, saved}]`, for the savings depend on the model's shape.
    """
    share = {row["n"]: row["saved"] for row in saved}
    rows = [
        r | {"saved": share[r["n"]]}
        for key, points in curves.items()
        for r in curve_rows(key, points, MEASURED)
        if r["n"] in share
    ]
    ghosts = [
        r | {"saved": p["saved"]}
        for key, points in (published or {}).items()
        for r, p in zip(curve_rows(key, points, PUBLISHED), points, strict=True)
    ]
    x = alt.X(
        "saved:Q",
        title="attention FLOPs saved",
        axis=alt.Axis(format=".0%", tickCount=10),
        scale=alt.Scale(nice=False, padding=10),
    )
    y = alt.Y(
        "ratio:Q",
        title="PPL relative to the baseline",
        scale=log_scale(reach_of(rows + ghosts, "ratio")),
        axis=alt.Axis(values=ratio_ticks(rows + ghosts), format="~g"),
    )
    tips = [
        tip("condition:N", "condition"),
        tip("source:N", "source"),
        tip("n:Q", "linearized heads"),
        tip("saved:Q", "attention FLOPs saved", ".4%"),
        tip("ratio:Q", "PPL relative to the baseline", ".6f"),
        *interval_tips(".6f"),
    ]
    layers = [threshold_lines(thresholds, "y"), *curve_layers(rows, ghosts, x, y, colour_of(list(curves)), tips)]
    return house(alt.layer(*layers), height=300)


def baseline(v1: Row, published: Row | None = None) -> Chart:
    """Baseline PPL on the first 2K and on all tokens, with intervals; `published` is {ppl_2k, ppl_full}."""
    rows = [
        estimate({"tokens": NAMES[k], "source": MEASURED}, v1[f], v1.get(f"{f}_ci"))
        for k, f in (("2K", "ppl_2k"), ("full", "ppl_full"))
    ]
    if published:
        rows += [
            estimate({"tokens": NAMES[k], "source": PUBLISHED}, published[f], None)
            for k, f in (("2K", "ppl_2k"), ("full", "ppl_full"))
        ]
    x = alt.X("value:Q", title="PPL", scale=alt.Scale(zero=False))
    y = alt.Y("tokens:N", title=None, sort=[NAMES["2K"], NAMES["full"]])
    tips = [
        tip("tokens:N", "tokens"),
        tip("source:N", "source"),
        tip("value:Q", "PPL", ".6f"),
        *interval_tips(".6f"),
    ]
    base = chart_of(rows).encode(y=y, color=colour_of(["2K", "full"], field="tokens", legend=False), tooltip=tips)
    return house(alt.layer(*points_with_intervals(base, x, rows)), height=110)


def top_heads(top10: Rows, published: Rows | None = None) -> Chart:
    """ΔPPL of zeroing each of the ten heads, 2K beside all tokens, in 2K order; `published` has the same form."""
    order = [ranked_name(h) for h in top10]
    rows: list[Row] = []
    for source, heads in ((MEASURED, top10), (PUBLISHED, published or [])):
        names = {(h["layer"], h["head"]): ranked_name(h) for h in top10}
        for h in heads:
            name = names.get((h["layer"], h["head"]))
            if name:
                rows += [
                    estimate(
                        {
                            "name": name,
                            "head_name": name_of(h),
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
    rows = clip_to_log(rows, low)
    reach = reach_of(rows, "value")
    scale = log_scale(reach) if low > 0 else symlog_scale(reach, 0.005)
    x = alt.X(
        "value:Q",
        title="change of PPL",
        scale=scale,
        axis=percent_axis(values=signed_ticks([r["value"] for r in rows])),
    )
    tips = [
        tip("name:N", "head"),
        tip("tokens:N", "tokens"),
        tip("source:N", "source"),
        tip("value:Q", "change of PPL", "+.6%"),
        *interval_tips("+.6%"),
        tip("rank2:Q", "rank on 2K"),
        tip("rank:Q", "rank on all"),
    ]
    base = chart_of(rows).encode(
        y=alt.Y("name:N", title=None, sort=order),
        yOffset=alt.YOffset("tokens:N", sort=[NAMES["2K"], NAMES["full"]]),
        color=colour_of(["2K", "full"], field="tokens"),
        tooltip=tips,
    )
    chart = alt.layer(*points_with_intervals(base, x, rows))
    lit = chart_of(rows).mark_point(filled=False, size=200, strokeWidth=2.5, color="currentColor")
    lit = lit.encode(x=x, y=base.encoding.y, yOffset=base.encoding.yOffset)
    return house(lighting_up(chart, lit), height=30 * len(order))


def zero_and_mean(v3: Row, published: Row | None = None) -> Chart:
    """ΔPPL of the focus head under zero- and mean-ablation, 2K and all tokens, as points with intervals."""
    rows = []
    for source, data in ((MEASURED, v3), (PUBLISHED, published)):
        rows += [
            estimate(
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
        scale=symlog_scale(reach_of(rows, "value"), 0.001),
        axis=percent_axis(values=signed_ticks([r["value"] for r in rows])),
    )
    base = chart_of(rows).encode(
        y=alt.Y("tokens:N", title=None, sort=[NAMES["2K"], NAMES["full"]]),
        yOffset=alt.YOffset("condition:N", sort=[NAMES["zero"], NAMES["mean"]]),
        color=colour_of(["zero", "mean"]),
        tooltip=[
            tip("condition:N", "condition"),
            tip("tokens:N", "tokens"),
            tip("source:N", "source"),
            tip("value:Q", "change of PPL", "+.6%"),
            *interval_tips("+.6%"),
        ],
    )
    measured = measured_of(base)
    layers = [
        measured.mark_point(filled=True, size=90, opacity=1).encode(x=x, shape=shapes_like(colour_of(["zero", "mean"])))
    ]
    if any(r["lo"] is not None for r in rows):
        spans = measured.transform_filter("isValid(datum.lo)").mark_rule(strokeWidth=2, opacity=0.7)
        layers.append(spans.encode(x="lo:Q", x2="hi:Q"))
    if published:
        layers.append(hollow_published(base.encode(x=x)))
    return house(alt.layer(*layers), height=150)


def ladder(v4: Row, published: Curves | None = None, thresholds: Sequence[float] = LIMITS) -> Chart:
    """V4: PPL ratio by linearized heads on 2K and on all tokens; `published` maps `2K` and `full` to its rows."""
    curves = {"2K": v4["cumulative_2k"], "full": v4["cumulative"]}
    return cumulative(curves, published, thresholds, "linearized heads")
