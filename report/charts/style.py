"""The house style of the charts: colours, names, axes, scales, legends and the layers that several figures share."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt

from report.charts.render import FONT

Chart = alt.Chart | alt.LayerChart | alt.FacetChart
Row = dict[str, Any]
Rows = Sequence[Row]

WIDTH = 640
PUBLISHED = "published (GPT-2 small)"
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
# Lines are told apart by the shape of their points as well: colours alone fail a reader who sees them differently.
SHAPES = (
    "circle",
    "square",
    "triangle-up",
    "cross",
    "triangle-down",
    "triangle-right",
    "triangle-left",
    "M-1,-1L1,1M-1,1L1,-1",
)
PUBLISHED_SHAPE = "diamond"
ZOOM = 3.2  # the ratio up to which a ladder is shown; what leaves it is written at the edge


def condition_name(condition: str, known: Sequence[str] | None = None) -> str:
    """`relu_30` as `ReLU, 30 heads`. With `known`, a published condition takes the name of its place among them."""
    if known and condition not in known and condition.startswith("relu_"):
        place = {"relu_30": 0, "relu_70": 1}.get(condition, 0)
        here = [c for c in known if c.startswith("relu_")]
        condition = here[min(place, len(here) - 1)] if here else condition
    return NAMES.get(condition) or f"ReLU, {int(condition.removeprefix('relu_'))} heads"


def chart_of(rows: Iterable[Row]) -> alt.Chart:
    return alt.Chart(alt.Data(values=list(rows)))


def house(chart: Chart, height: float, width: float = WIDTH) -> Chart:
    parts: dict[str, Any] = {
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
    }
    sized = chart.properties(width=width, height=height)
    return sized.configure(font=FONT, background="transparent", padding=4, **parts)


def wide(chart: Chart) -> Chart:
    """The chart marked as one that needs a page's width, and can't stand in a column of a book."""
    return chart.properties(usermeta={"wide": True})


LIT = alt.param(name="lit", value="")  # the head that a reader points at, in any figure; the page sets it


def lighting_up(chart: Chart, *marks: alt.Chart) -> Chart:
    """The chart with layers on top that show only the head that is lit; their rows name it as `head_name`."""
    return alt.layer(chart, *(mark.transform_filter("datum.head_name == lit") for mark in marks)).add_params(LIT)


def tip(field: str, title: str, form: str | None = None) -> alt.Tooltip:
    return alt.Tooltip(field, title=title, format=form or alt.Undefined)


def interval_tips(form: str) -> list[alt.Tooltip]:
    return [tip("lo:Q", "interval from", form), tip("hi:Q", "interval to", form)]


def statistic_tips() -> list[alt.Tooltip]:
    return [
        tip("method:N", "method"),
        tip("statistic:N", "statistic"),
        tip("source:N", "source"),
        tip("value:Q", "value", "+.6%"),
    ]


def colour_of(keys: Sequence[str], field: str = "condition", legend: bool = True) -> alt.Color:
    domain = [NAMES[k] for k in keys]
    scale = alt.Scale(domain=domain, range=[COLOURS[k] for k in keys])
    return alt.Color(f"{field}:N", title=None, scale=scale, legend=alt.Undefined if legend else None)


def condition_colour(conditions: Sequence[str], legend: bool = True) -> alt.Color:
    linearized = sorted((c for c in conditions if c != "baseline"), key=lambda c: int(c.removeprefix("relu_")))
    keys = dict(zip(linearized, ("fewer", "more", "mix", "identity"), strict=False)) | {"baseline": "baseline"}
    scale = alt.Scale(domain=[condition_name(c) for c in conditions], range=[COLOURS[keys[c]] for c in conditions])
    return alt.Color("condition:N", title=None, scale=scale, legend=alt.Undefined if legend else None)


def dash_of(sources: Sequence[str], legend: bool = True) -> alt.StrokeDash:
    symbol = alt.Legend(symbolType="stroke", symbolSize=300, symbolStrokeColor=COLOURS["published"])
    dashes = [[1, 0], [5, 3], [2, 2]][: len(sources)]
    return alt.StrokeDash(
        "source:N", title=None, scale=alt.Scale(domain=sources, range=dashes), legend=symbol if legend else None
    )


def shape_of(sources: Sequence[str], **legend: Any) -> alt.Shape:
    """Solid circles, published diamonds; `sources` as far as they occur."""
    shapes = {MEASURED: "circle", "first N": "triangle-up", PUBLISHED: "diamond"}
    symbol = alt.Legend(symbolFillColor="transparent", symbolStrokeColor=COLOURS["published"], **legend)
    return alt.Shape(
        "source:N", title=None, scale=alt.Scale(domain=sources, range=[shapes[k] for k in sources]), legend=symbol
    )


def sources_of(rows: Rows) -> list[str]:
    return [k for k in (MEASURED, "first N", PUBLISHED) if any(r["source"] == k for r in rows)]


def ghost_opacity(solid: str, strength: float) -> Any:
    return alt.condition(f"datum.source == {solid!r}", alt.value(strength), alt.value(0.6))


def measured_of(base: alt.Chart) -> alt.Chart:
    """The rows that were measured, those of published figures taken out."""
    return base.transform_filter(f"datum.source != {PUBLISHED!r}")


def published_of(base: alt.Chart) -> alt.Chart:
    return base.transform_filter(f"datum.source == {PUBLISHED!r}")


def ghost_points(base: alt.Chart, sources: Sequence[str] = (PUBLISHED,)) -> alt.Chart:
    return (
        published_of(base)
        .mark_point(filled=False, size=60, strokeWidth=1.6, opacity=0.9)
        .encode(color=alt.value(COLOURS["published"]), shape=shape_of(list(sources)))
    )


def hollow_published(base: alt.Chart) -> alt.Chart:
    """The published ones of the rows as hollow diamonds without a legend, for the caption names them."""
    ghosts = published_of(base).mark_point(filled=False, size=60, strokeWidth=1.6, opacity=0.9, shape=PUBLISHED_SHAPE)
    return ghosts.encode(color=alt.value(COLOURS["published"]))


def points_with_intervals(base: alt.Chart, x: alt.X, rows: Rows) -> list[alt.Chart]:
    """Filled points with rules for their intervals, and hollow published ones where `rows` hold any."""
    measured = measured_of(base)
    intervals = measured.transform_filter("isValid(datum.lo)").mark_rule(strokeWidth=2, opacity=0.7)
    layers = [intervals.encode(x="lo:Q", x2="hi:Q")]
    sources = sources_of(rows)
    points = measured.mark_point(filled=True, size=70, opacity=1).encode(x=x)
    if PUBLISHED in sources:
        return [*layers, points.encode(shape=shape_of(sources)), ghost_points(base.encode(x=x), sources)]
    return [*layers, points]


def _part(encoding: alt.Color | alt.Y, name: str) -> Any:
    """A property of an encoding as a dict; Altair's `Undefined` where it has none."""
    whole = encoding.to_dict()
    return whole.get(name, alt.Undefined) if isinstance(whole, dict) else alt.Undefined


def shapes_like(colour: alt.Color) -> alt.Shape:
    """Shapes for the same values as a colour encoding, which share its legend."""
    names = _part(colour, "scale")["domain"]
    scale = alt.Scale(domain=names, range=list(SHAPES[: len(names)]))
    return alt.Shape(colour.shorthand, title=None, scale=scale)


def curve_layers(
    rows: Rows,
    ghosts: Rows,
    x: alt.X,
    y: alt.Y,
    colour: alt.Color,
    tips: list[alt.Tooltip],
    clip: bool = False,
    top: float | None = None,
) -> list[alt.Chart]:
    """Lines with points and, where there are intervals, bands; dashed published lines with hollow points.

    top: the value at which a zoomed picture ends. Points beyond it whose neighbours lie beyond it too are not drawn:
    nothing of them would be left when the picture is cut, and to cut it takes the longer the farther off they lie.
    """
    clip = clip or top is not None

    def drawn(rows: Rows, field: str) -> alt.Chart:
        chart = chart_of(rows)
        if top is None:
            return chart
        chart = chart.transform_window(
            before=f"lag({field})",
            after=f"lead({field})",
            groupby=["condition", "source"],
            sort=[alt.SortField(_field(x))],
        )
        within = [f"isValid(datum.{name}) && datum.{name} <= {top}" for name in (field, "before", "after")]
        return chart.transform_filter(" || ".join(within))

    layers = []
    banded = [r for r in rows if r.get("lo") is not None]
    if banded:
        band = drawn(banded, "lo").mark_area(opacity=0.18, clip=clip)
        layers.append(band.encode(x=x, y=alt.Y("lo:Q", scale=_part(y, "scale")), y2="hi:Q", color=colour))
    dash = {"strokeDash": dash_of([MEASURED, PUBLISHED])} if ghosts else {}
    if ghosts:
        ghost = drawn(ghosts, _field(y)).encode(x=x, y=y, color=colour, tooltip=tips)
        layers.append(ghost.mark_line(strokeWidth=1.5, opacity=0.7, clip=clip).encode(**dash))
        layers.append(ghost.mark_point(filled=False, size=26, opacity=0.7, shape=PUBLISHED_SHAPE, clip=clip))
    own = drawn(rows, _field(y)).encode(x=x, y=y, color=colour, tooltip=tips)
    layers.append(own.mark_line(strokeWidth=2, clip=clip).encode(**dash))
    layers.append(own.mark_point(filled=True, size=46, opacity=1, clip=clip).encode(shape=shapes_like(colour)))
    return layers


def _field(encoding: alt.X | alt.Y) -> str:
    return str(encoding.shorthand).split(":")[0]


def beyond(rows: Rows, top: float) -> list[dict[str, Any]]:
    """For each line that leaves the picture above `top`, what it reaches, at the right edge in its colour."""
    last = {row["condition"]: row for row in rows}
    over = [row for row in last.values() if row["ratio"] > top]
    return [
        row | {"label": f"{row['condition']} · {row['n']} → {row['ratio']:.3g}×"}
        for row in sorted(over, key=lambda row: -row["ratio"])
    ]


def line_axes(
    rows: Rows,
    x_title: str,
    y_title: str,
    x_format: str,
    x_scale: alt.Scale | None = None,
    y_scale: alt.Scale | None = None,
    y_axis: alt.Axis | None = None,
    x_values: Iterable[int] | None = None,
) -> tuple[alt.X, alt.Y]:
    """Axes of `x` and `value`; x is ticked where there are rows, or at `x_values`."""
    x = alt.X(
        "x:Q",
        title=x_title,
        axis=alt.Axis(values=list(x_values or sorted({r["x"] for r in rows})), format=x_format),
        scale=x_scale or alt.Scale(nice=False, padding=12),
    )
    return x, alt.Y("value:Q", title=y_title, scale=y_scale or alt.Undefined, axis=y_axis or alt.Undefined)


def value_tips(x_title: str, y_title: str, form: str, source: bool = False) -> list[alt.Tooltip]:
    """What is told of a point with condition, `x`, `value` and, where there is one, an interval."""
    sources = [tip("source:N", "source")] if source else []
    named = [tip("condition:N", "condition"), *sources, tip("x:Q", x_title), tip("value:Q", y_title, form)]
    return [*named, *interval_tips(form)]


def line_chart(
    rows: Rows,
    conditions: Sequence[str],
    x_title: str,
    y_title: str,
    height: float,
    x_scale: alt.Scale | None = None,
    y_scale: alt.Scale | None = None,
    y_axis: alt.Axis | None = None,
    hollow: str | None = None,
    x_values: Iterable[int] | None = None,
) -> Chart:
    x, y = line_axes(rows, x_title, y_title, "d", x_scale, y_scale, y_axis, x_values)
    tips = value_tips(x_title, y_title, ".6f", source=True)
    colour = condition_colour(conditions)
    solid = [r for r in rows if r["source"] not in (PUBLISHED, hollow)]
    ghosts = [r for r in rows if r["source"] == PUBLISHED]
    layers = curve_layers(solid, ghosts, x, y, colour, tips)
    if hollow:
        marks = [r for r in rows if r["source"] == hollow]
        points = chart_of(marks).mark_point(size=60, strokeWidth=1.5, shape="triangle-up")
        layers.append(points.encode(x=x, y=y, color=colour, tooltip=tips))
    chart = alt.layer(*layers)
    return chart if hollow else house(chart, height)


def series_rows(
    conditions: Rows, field: str, xs: Iterable[int], published: Mapping[str, Sequence[float]] | None
) -> list[dict[str, Any]]:
    rows = []
    for c in conditions:
        intervals = c.get(f"{field}_ci") or [None] * len(c[field])
        rows += [
            estimate({"condition": condition_name(c["condition"]), "x": x, "source": MEASURED}, value, interval)
            for x, value, interval in zip(xs, c[field], intervals, strict=False)
        ]
    known = [c["condition"] for c in conditions]
    for key, values in (published or {}).items():
        rows += [
            estimate({"condition": condition_name(key, known), "x": x, "source": PUBLISHED}, value, None)
            for x, value in zip(xs, values, strict=False)
        ]
    return rows


def estimate(labels: Row, value: float, interval: Sequence[float | None] | None) -> dict[str, Any]:
    low, high = interval if interval else (None, None)
    return labels | {"value": value, "lo": low, "hi": high}


def curve_rows(key: str, points: Rows, source: str) -> list[dict[str, Any]]:
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


def clip_to_log(rows: list[Row], low: float) -> list[Row]:
    """Intervals that reach zero or below are cut at a fifth of the smallest value, where the axis is logarithmic."""
    if low <= 0:
        return rows
    return [r | {"lo": max(r["lo"], low / 5)} if r["lo"] is not None else r for r in rows]


def threshold_lines(levels: Iterable[float], axis: str) -> Chart:
    """Dotted lines at the levels, each with its name."""
    base = chart_of([{"level": t, "name": f"{t:g}×"} for t in levels]).encode(**{axis: "level:Q"})
    lines = base.mark_rule(color=COLOURS["baseline"], strokeDash=[2, 3], opacity=0.9)
    names = base.mark_text(align="left", baseline="bottom", dx=3, dy=-1, fontSize=10, color="currentColor")
    return lines.encode(tooltip=[tip("level:Q", "threshold")]) + names.encode(x=alt.value(0), text="name:N")


def law_points(law: Row, n: int, least: float) -> list[dict[str, float]]:
    steps = [round(math.exp(math.log(n) * i / 24), 4) for i in range(25)] if n > 1 else [1.0]
    points = [{"rank": r, "size": law["C"] * r ** -law["alpha"]} for r in steps]
    return [p for p in points if p["size"] >= least / 2]


def reach_of(rows: Rows, field: str) -> list[float]:
    """The values and the ends of their intervals, for an axis that holds them all."""
    return [r[k] for r in rows for k in (field, "lo", "hi") if r.get(k) is not None]


def log_scale(values: Sequence[float]) -> alt.Scale:
    positive = [v for v in values if v > 0]
    high = max(positive)
    low = max(min(positive), high * 1e-4)
    margin = (high / low) ** 0.04 if high > low else 1.1
    return alt.Scale(type="log", domain=[low / margin, high * margin], nice=False, clamp=low > min(positive))


def symlog_scale(values: Sequence[float], constant: float) -> alt.Scale:
    low, high = min(0, *values), max(0, *values)
    return alt.Scale(type="symlog", constant=constant, domain=[low * 1.3, high * 1.2], nice=False)


def percent_axis(values: Sequence[float] | None = None) -> alt.Axis:
    return alt.Axis(format=".2~p", values=values or alt.Undefined)


def signed_ticks(values: Sequence[float], least: float = 0.001) -> list[float]:
    """Ticks 1, 3, 10, 30, ... per mille on both sides of zero, from `least` as far as the values go."""
    steps = [s * 10**e for e in range(-3, 4) for s in (1, 3) if s * 10**e >= least]
    top, bottom = max(values), min(values)
    positive = [s for s in steps if s <= top * 1.5]
    negative = [-s for s in steps if bottom < 0 and s <= -bottom * 1.5]
    return sorted([*negative[-5:], 0, *positive[-7:]])


def ratio_ticks(rows: Rows) -> list[float]:
    top = max(r["ratio"] for r in rows)
    low = min(r["ratio"] for r in rows)
    steps = [0.9, 1, 1.1, 1.2, 1.5, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000]
    wanted = [s for s in steps if low * 0.95 <= s <= top * 1.05]
    return [s for s in wanted if s not in (1.2,)] if top > 3 else wanted


def speed_ticks(values: Sequence[float]) -> list[float]:
    """Ticks of a speed-up's logarithmic axis: at every fifth below one and a half, at 2, 3, 5, 10, ... above."""
    steps = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.2, 1.5, 2, 3, 5, 10, 20, 30, 50, 100]
    low, high = min(*values, 1), max(*values, 1)
    return [s for s in steps if low * 0.9 <= s <= high * 1.1]


def roofline_colours(n: int) -> list[str]:
    """Softmax in the baseline's ink, then the conditions' colours in the order of their ReLU heads."""
    return [COLOURS[k] for k in ("baseline", "fewer", "more", "mix", "identity", "l1")][:n]


def legend_values(top: float) -> list[float]:
    return [v for v in (-1, -0.1, -0.01, 0, 0.01, 0.1, 1) if abs(v) <= top * 1.2]


def name_of(head: Row) -> str:
    return f"L{head['layer']}H{head['head']}"


def ranked_name(head: Row) -> str:
    return f"{name_of(head)}  {head['rank_2k']} → {head['rank_full']}" if head.get("rank_full") else name_of(head)
