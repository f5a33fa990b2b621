"""The report's figures: one function each, taking sections' data and returning an Altair chart in English.

One colour per condition throughout, intervals as bars or bands, published figures as faded dashed ghosts beside the
measured ones, exact numbers in the tooltips. Inks are `currentColor` and mid-tones, so a chart stands on a light and
on a dark page.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from report.charts.style import (
    COLOURS,
    MEASURED,
    NAMES,
    PUBLISHED,
    PUBLISHED_LITERAL,
    WIDTH,
    ZOOM,
    Chart,
    Row,
    Rows,
    beyond,
    chart_of,
    clip_to_log,
    colour_of,
    condition_colour,
    condition_name,
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
    line_chart,
    log_scale,
    name_of,
    percent_axis,
    points_with_intervals,
    ranked_name,
    ratio_ticks,
    reach_of,
    roofline_colours,
    series_rows,
    shapes_like,
    signed_ticks,
    speed_ticks,
    statistic_tips,
    symlog_scale,
    threshold_lines,
    tip,
    wide,
)

LIMITS = (1.1, 1.5, 2.0)  # of PPL over the baseline's
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
    own = base.transform_filter(f"datum.source != {PUBLISHED_LITERAL}")
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
        chart_of(marks)
        .transform_filter(f"datum.source != {PUBLISHED_LITERAL}")
        .mark_point(filled=True, size=110, yOffset=-22)
        .encode(x=x, y=y, shape=shape, color=colour_of(keys, field="method", legend=False), tooltip=statistic_tips())
    )
    layers = [ticks, spots]
    if published:
        layers.append(
            chart_of(marks)
            .transform_filter(f"datum.source == {PUBLISHED_LITERAL}")
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


def rank_slope(top10: Rows) -> Chart:
    """The ten heads' ranks on 2K tokens and on all tokens, joined."""
    rows = [
        {"head_name": name_of(h), "tokens": NAMES[k], "rank": h[f]}
        for h in top10
        for k, f in (("2K", "rank_2k"), ("full", "rank_full"))
    ]
    base = chart_of(rows).encode(
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
        detail="head_name:N",
        tooltip=[tip("head_name:N", "head"), tip("tokens:N", "tokens"), tip("rank:Q", "rank")],
    )
    lines = base.mark_line(
        color=COLOURS["zero"], strokeWidth=1.6, point=alt.OverlayMarkDef(color=COLOURS["zero"], size=50)
    )
    label: dict[str, Any] = {"color": "currentColor", "fontSize": 11}
    left = (
        base.transform_filter(f"datum.tokens == '{NAMES['2K']}'")
        .mark_text(align="right", dx=-10, **label)
        .encode(text="head_name:N")
    )
    right = (
        base.transform_filter(f"datum.tokens != '{NAMES['2K']}'")
        .mark_text(align="left", dx=10, **label)
        .encode(text="head_name:N")
    )
    lit = base.mark_line(color="currentColor", strokeWidth=3.5)
    return house(lighting_up(lines + left + right, lit), height=320, width=420)


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
    measured = base.transform_filter(f"datum.source != {PUBLISHED_LITERAL}")
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


def opening(rows: Rows, limits: Sequence[float] = LIMITS[:2]) -> Chart:
    """The report's opening picture: what more and more ReLU heads cost in PPL, on all tokens, up to half as much again.

    rows: `V4.cumulative`; limits: the ratios drawn as lines, named in per cent.
    """
    top = 1.0 + 1.3 * (max(limits) - 1)
    points = [
        {
            "n": row["n_linearized"],
            "cost": row["ratio"] - 1,
            "lo": (row.get("ratio_ci") or [None])[0] and row["ratio_ci"][0] - 1,
            "hi": (row.get("ratio_ci") or [None, None])[1] and row["ratio_ci"][1] - 1,
        }
        for row in rows
    ]
    last = max((p["n"] for p in points if p["cost"] <= top - 1), default=points[0]["n"])
    beyond = [p["n"] for p in points if p["n"] > last]
    domain = [0, beyond[0] if beyond else last]
    x = alt.X("n:Q", title="heads on ReLU", scale=alt.Scale(domain=domain, nice=False))
    scale = alt.Scale(domain=[min(0, *(p["lo"] or 0 for p in points)), top - 1], nice=False, clamp=False)
    y = alt.Y("cost:Q", title="PPL above the baseline", scale=scale, axis=alt.Axis(format="+.0%", tickCount=6))
    base = chart_of(points).transform_filter(f"datum.n <= {domain[1]}").encode(x=x)
    tips = [tip("n:Q", "heads on ReLU"), tip("cost:Q", "PPL above the baseline", "+.4%"), *interval_tips("+.4%")]
    limit = chart_of([{"level": v - 1, "name": f"+{v - 1:.0%}"} for v in limits]).encode(
        y=alt.Y("level:Q", scale=scale)
    )
    ink = COLOURS["relu"]
    return house(
        alt.layer(
            limit.mark_rule(color=COLOURS["more"], strokeWidth=1.4, strokeDash=[6, 4]),
            limit.mark_text(align="left", baseline="bottom", dx=4, dy=-2, fontSize=12, fontWeight="bold").encode(
                x=alt.value(0), text="name:N", color=alt.value(COLOURS["more"])
            ),
            base.mark_area(opacity=0.2, color=ink, clip=True).encode(y=alt.Y("lo:Q", scale=scale), y2="hi:Q"),
            base.mark_line(strokeWidth=2.5, color=ink, clip=True).encode(y=y, tooltip=tips),
            base.mark_point(filled=True, size=60, color=ink, opacity=1, clip=True).encode(y=y, tooltip=tips),
        ),
        height=220,
    )


def method_diagram() -> Chart:
    """What is replaced in a head: from scores to weights to z, softmax on one way and its replacements on the other."""
    boxes: list[Row] = [
        {"x": 0, "y": 55, "text": "scores s = q·k / √d", "kind": "step"},
        {"x": 235, "y": 10, "text": "softmax", "kind": "kept"},
        {"x": 235, "y": 55, "text": "ReLU, L1, identity, uniform", "kind": "replaced"},
        {"x": 235, "y": 100, "text": "zero or mean instead of z", "kind": "replaced"},
        {"x": 470, "y": 55, "text": "z = weights · v", "kind": "step"},
    ]
    arrows = [(160, 70, 235, 25), (160, 70, 235, 70), (425, 25, 470, 70), (425, 70, 470, 70), (425, 115, 470, 78)]
    plane: dict[str, Any] = {"x": alt.X("x:Q", axis=None, scale=alt.Scale(domain=[0, WIDTH], nice=False))}
    plane["y"] = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[140, 0], nice=False))
    widths = {"step": 160, "kept": 190, "replaced": 190}
    boxes = [b | {"x2": b["x"] + widths[b["kind"]], "y2": b["y"] + 30} for b in boxes]
    boxes = [b | {"mx": (b["x"] + b["x2"]) / 2, "my": b["y"] + 15} for b in boxes]
    base = chart_of(boxes)
    ink = alt.Color(
        "kind:N",
        legend=None,
        scale=alt.Scale(domain=list(widths), range=[COLOURS["published"], COLOURS["baseline"], COLOURS["relu"]]),
    )
    lines = [{"x": x, "y": y, "x2": x2, "y2": y2} for x, y, x2, y2 in arrows]
    return house(
        alt.layer(
            chart_of(lines)
            .mark_rule(strokeWidth=1.5, color=COLOURS["published"])
            .encode(**plane, x2="x2:Q", y2="y2:Q"),
            base.mark_rect(filled=False, strokeWidth=2, cornerRadius=4).encode(
                **plane, x2="x2:Q", y2="y2:Q", stroke=ink
            ),
            base.mark_text(fontSize=12, color="currentColor").encode(
                x=alt.X("mx:Q", axis=None, scale=alt.Scale(domain=[0, WIDTH], nice=False)),
                y=alt.Y("my:Q", axis=None, scale=alt.Scale(domain=[140, 0], nice=False)),
                text="text:N",
            ),
        ),
        height=140,
    )


def generation_speed(p1: Row, published: Rows | None = None) -> Chart:
    """P1: tokens per second of each condition under each protocol; `published` is `[{condition, tok_per_s}]`."""
    several = len({(r["protocol"], r["backend"]) for r in p1["rows"]}) > len({r["protocol"] for r in p1["rows"]})
    figures = {r["condition"]: r["tok_per_s"] for r in published or []}
    first = p1["rows"][0]["protocol"]
    rows = []
    for r in p1["rows"]:
        condition = condition_name(r["condition"])
        place = " · ".join([r["protocol"], condition] + ([r["backend"]] if several else []))
        labels = {"place": place, "condition": condition, "protocol": r["protocol"], "backend": r["backend"]}
        rows.append(
            estimate(labels | {"source": MEASURED, "ms": r["ms_per_tok"]}, r["tok_per_s"], r.get("tok_per_s_ci"))
        )
        if r["protocol"] == first and figures.get(r["condition"]):
            rows.append(estimate(labels | {"source": PUBLISHED, "ms": None}, figures.pop(r["condition"]), None))
    reach = reach_of(rows, "value")
    x = alt.X("value:Q", title="tokens per second", scale=log_scale(reach), axis=alt.Axis(format="~s", tickCount=6))
    base = chart_of(rows).encode(
        y=alt.Y("place:N", title=None, sort=list(dict.fromkeys(r["place"] for r in rows))),
        color=condition_colour(list(dict.fromkeys(r["condition"] for r in p1["rows"]))),
        tooltip=[
            tip("condition:N", "condition"),
            tip("protocol:N", "protocol"),
            tip("backend:N", "backend"),
            tip("source:N", "source"),
            tip("value:Q", "tokens per second", ".4f"),
            tip("ms:Q", "ms per token", ".4f"),
            *interval_tips(".4f"),
        ],
    )
    places = len({r["place"] for r in rows})
    return house(wide(alt.layer(*points_with_intervals(base, x, rows))), height=max(90, 26 * places))


def refinement(p2: Row, published: Mapping[str, Sequence[float]] | None = None) -> Chart:
    """P2: PPL of the generated text by iteration; `published` maps a condition to its PPLs."""
    rows = series_rows(p2["conditions"], "ppl", range(1, 1000), published)
    return line_chart(
        rows,
        [c["condition"] for c in p2["conditions"]],
        "iteration",
        "PPL of the generated text",
        y_scale=alt.Scale(zero=False),
        height=280,
    )


def degeneration(p2: Row, field: str = "repeated_4gram_share", title: str = "share of repeated 4-grams") -> Chart:
    """P2: how repetitive the texts are, by iteration where `field` is a list, else one bar per condition."""
    conditions = [c["condition"] for c in p2["conditions"]]
    if isinstance(p2["conditions"][0][field], list):
        rows = series_rows(p2["conditions"], field, range(1, 1000), None)
        return line_chart(rows, conditions, "iteration", title, y_axis=alt.Axis(format=".0%"), height=240)
    rows = [
        estimate({"condition": condition_name(c["condition"])}, c[field], c.get(f"{field}_ci"))
        for c in p2["conditions"]
    ]
    base = chart_of(rows).encode(
        y=alt.Y("condition:N", title=None, sort=[condition_name(c) for c in conditions]),
        color=condition_colour(conditions, legend=False),
        tooltip=[tip("condition:N", "condition"), tip("value:Q", title, ".6f"), *interval_tips(".6f")],
    )
    bars = base.mark_bar(opacity=0.9).encode(x=alt.X("value:Q", title=title, axis=alt.Axis(format=".0%")))
    return house(bars, height=40 * len(conditions))


def best_of_n(p3: Row, published: Mapping[str, Sequence[float]] | None = None) -> Chart:
    """P3: expected smallest PPL of N samples with its band, the first N hollow, the baseline at N = 1 as a line."""
    counts = p3["n"]
    conditions = [c["condition"] for c in p3["conditions"]]
    rows = series_rows(p3["conditions"], "expected", counts, None)
    for c in p3["conditions"]:
        rows += [
            estimate({"condition": condition_name(c["condition"]), "x": n, "source": "first N"}, v, None)
            for n, v in zip(counts, c["first_n"], strict=True)
        ]
    for key, values in (published or {}).items():
        rows += [
            estimate({"condition": condition_name(key, conditions), "x": n, "source": PUBLISHED}, v, None)
            for n, v in zip(counts, values, strict=False)
        ]
    chart = line_chart(
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
    rule = chart_of([{"level": level}]).mark_rule(strokeDash=[2, 3], color=COLOURS["baseline"]).encode(y="level:Q")
    return house(rule + chart, height=320)


def equal_n(p3: Row) -> Chart:
    """P3: the expected smallest PPL of N minus the baseline's at the same N, with intervals; the baseline is 0."""
    rows = [
        estimate(
            {"condition": condition_name(row["condition"]), "x": row["n"], "source": MEASURED},
            row["difference"],
            row["difference_ci"],
        )
        for row in p3["equal_n"]
    ]
    curves = line_chart(
        rows,
        list(dict.fromkeys(row["condition"] for row in p3["equal_n"])),
        "samples N",
        "smallest PPL minus the baseline's",
        height=280,
        x_values=p3["n"],
    )
    rule = chart_of([{"level": 0}]).mark_rule(strokeDash=[2, 3], color=COLOURS["baseline"]).encode(y="level:Q")
    return house(alt.layer(rule, *curves.layer), height=280)


def context_length(p4: Row, published: Mapping[str, Sequence[float]] | None = None) -> Chart:
    """P4: PPL ratio by context length, with intervals; `published` maps a condition to its ratios."""
    conditions = [c["condition"] for c in p4["conditions"] if c["condition"] != "baseline"]
    chosen = [c for c in p4["conditions"] if c["condition"] != "baseline"]
    rows = series_rows(chosen, "ratio", p4["lengths"], published)
    return line_chart(
        rows,
        conditions,
        "context length",
        "PPL relative to the baseline",
        height=280,
        x_scale=alt.Scale(type="log", base=2, nice=False),
        x_values=p4["lengths"],
        y_scale=alt.Scale(zero=False),
    )


def speed_and_theory(rows: Rows, theory: Rows = (), bounds: Rows = ()) -> Chart:
    """Kernel speed: `rows` are `[{what, n_linearized, speedup, speedup_ci?}]`, `theory` and `bounds` the same without.

    `what` is `attention`, `one layer`, `prefill` or `decoding`.
    """
    kinds = list(dict.fromkeys(r["what"] for r in rows))
    lines = [
        estimate({"what": r["what"], "n": r["n_linearized"], "source": MEASURED}, r["speedup"], r.get("speedup_ci"))
        for r in rows
    ]
    for source, points in (("theory as published", theory), ("Amdahl's bound", bounds)):
        lines += [
            estimate({"what": r.get("what", source), "n": r["n_linearized"], "source": source}, r["speedup"], None)
            for r in points
        ]
    names = list(dict.fromkeys(r["what"] for r in lines))
    palette = [COLOURS[k] for k in ("relu", "fewer", "more", "mean", "l1", "identity")]
    colours = dict(zip(kinds, palette, strict=False)) | {n: COLOURS["published"] for n in names if n not in kinds}
    x = alt.X("n:Q", title="linearized heads", scale=alt.Scale(nice=False, padding=10))
    reach = reach_of(lines, "value")
    axis = alt.Axis(format=".2~f", values=speed_ticks(reach))
    y = alt.Y("value:Q", title="speed-up", axis=axis, scale=log_scale(reach))
    colour = alt.Color("what:N", title=None, scale=alt.Scale(domain=names, range=[colours[n] for n in names]))
    dash = dash_of([MEASURED, "theory as published", "Amdahl's bound"], legend=False)
    tips = [
        tip("what:N", "what"),
        tip("source:N", "source"),
        tip("n:Q", "linearized heads"),
        tip("value:Q", "speed-up", ".4f"),
        *interval_tips(".4f"),
    ]
    base = chart_of(lines).encode(x=x, color=colour, tooltip=tips)
    one = chart_of([{"level": 1}]).mark_rule(color=COLOURS["baseline"], strokeDash=[2, 3]).encode(y="level:Q")
    own = base.transform_filter(alt.FieldOneOfPredicate(field="what", oneOf=kinds))
    layers = [
        one,
        base.mark_line(strokeWidth=2).encode(y=y, strokeDash=dash),
        own.mark_point(filled=True, size=50, opacity=1).encode(y=y, shape=shapes_like(colour)),
    ]
    if any(r["lo"] is not None for r in lines):
        layers.append(base.transform_filter("isValid(datum.lo)").mark_rule(strokeWidth=1.5).encode(y="lo:Q", y2="hi:Q"))
    return house(alt.layer(*layers), height=320)


def by_shape(rows: Rows) -> Chart:
    """Speed-up of attention against head size, one line for each length; `rows` have `shape` [B, H, T, d]."""
    lines = [
        estimate(
            {"what": f"{r['shape'][2]} tokens", "d": r["shape"][3], "source": MEASURED}, r["speedup"], r["speedup_ci"]
        )
        for r in rows
    ]
    names = list(dict.fromkeys(r["what"] for r in lines))
    sizes = sorted({r["d"] for r in lines})
    reach = [*reach_of(lines, "value"), 1]
    x = alt.X("d:Q", title="head size", scale=alt.Scale(type="log", base=2, padding=12), axis=alt.Axis(values=sizes))
    y = alt.Y(
        "value:Q", title="speed-up", axis=alt.Axis(format="~g", values=speed_ticks(reach)), scale=log_scale(reach)
    )
    palette = [COLOURS[k] for k in ("fewer", "more", "mix")]
    colour = alt.Color("what:N", title=None, scale=alt.Scale(domain=names, range=palette[: len(names)]))
    tips = [tip("what:N", "what"), tip("d:Q", "head size"), tip("value:Q", "speed-up", ".4f"), *interval_tips(".4f")]
    base = chart_of(lines).encode(x=x, color=colour, tooltip=tips)
    one = chart_of([{"level": 1}]).mark_rule(color=COLOURS["baseline"], strokeDash=[2, 3]).encode(y="level:Q")
    layers = [
        one,
        base.mark_rule(strokeWidth=1.5).encode(y="lo:Q", y2="hi:Q"),
        base.mark_line(strokeWidth=2).encode(y=y),
        base.mark_point(filled=True, size=50, opacity=1).encode(y=y, shape=shapes_like(colour)),
    ]
    return house(alt.layer(*layers), height=260)


def elsewhere(rows: Rows) -> Chart:
    """Speed-ups timed on other machines: `[{name, device, date, ratio, ratio_ci}]`, all with a ratio."""
    lines = [
        estimate({"name": r["name"], "device": f"{r['device']}, {r['date']}"}, r["ratio"], r["ratio_ci"]) for r in rows
    ]
    names = list(dict.fromkeys(r["name"] for r in lines))
    devices = list(dict.fromkeys(r["device"] for r in lines))
    palette = [COLOURS[k] for k in ("fewer", "more", "mix", "identity", "l1", "mean")]
    beside: dict[str, Any] = {"yOffset": alt.YOffset("device:N", sort=devices)} if len(devices) > 1 else {}
    base = chart_of(lines).encode(
        y=alt.Y("name:N", title=None, sort=names),
        **beside,
        color=alt.Color("device:N", title=None, scale=alt.Scale(domain=devices, range=palette[: len(devices)])),
        tooltip=[
            tip("name:N", "kernel"),
            tip("device:N", "device"),
            tip("value:Q", "speed-up", ".4f"),
            *interval_tips(".4f"),
        ],
    )
    x = alt.X("value:Q", title="speed-up", scale=alt.Scale(zero=False), axis=alt.Axis(format=".2~f"))
    one = chart_of([{"level": 1}]).mark_rule(color=COLOURS["baseline"], strokeDash=[2, 3]).encode(x="level:Q")
    spans = base.mark_rule(strokeWidth=1.5).encode(x="lo:Q", x2="hi:Q")
    spots = base.mark_point(shape="diamond", filled=True, size=70).encode(x=x)
    return house(wide(one + spans + spots), height=max(90, 22 * len(names) * len(devices)))


def roofline(points: Rows, peak: float, bandwidth: float) -> Chart:
    """`points` are `[{name, intensity, rate}]` (FLOP/byte, FLOP/s) under `peak` FLOP/s and `bandwidth` byte/s."""
    ridge = peak / bandwidth
    left = min([ridge / 16, *(p["intensity"] / 2 for p in points)])
    right = max([ridge * 8, *(p["intensity"] * 2 for p in points)])
    roof = [
        {"intensity": left, "rate": left * bandwidth},
        {"intensity": ridge, "rate": peak},
        {"intensity": right, "rate": peak},
    ]
    x = alt.X("intensity:Q", title="FLOP per byte", scale=alt.Scale(type="log", nice=False), axis=alt.Axis(tickCount=5))
    rates = [*(p["rate"] for p in points), *(r["rate"] for r in roof)]
    y = alt.Y("rate:Q", title="FLOP per second", scale=log_scale(rates), axis=alt.Axis(format="~s", tickCount=5))
    names = list(dict.fromkeys(p["name"] for p in points))
    line = chart_of(roof).mark_line(color=COLOURS["published"], strokeWidth=2).encode(x=x, y=y)
    spots = (
        chart_of(points)
        .mark_point(filled=True, size=80)
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "name:N",
                title=None,
                scale=alt.Scale(domain=names, range=roofline_colours(len(names))),
            ),
            tooltip=[
                tip("name:N", "kernel"),
                tip("intensity:Q", "FLOP per byte", ".4f"),
                tip("rate:Q", "FLOP per second", ".4s"),
            ],
        )
    )
    return house(line + spots, height=300)
