"""Figures of Parts R and S: one function each, as `report.charts` says."""

from collections.abc import Sequence

import altair as alt

from report.charts.reasoning import house_of
from report.charts.style import (
    COLOURS,
    MEASURED,
    Chart,
    Row,
    Rows,
    chart_of,
    curve_layers,
    estimate,
    house,
    interval_tips,
    line_axes,
    ratio_ticks,
    shapes_like,
    tip,
    value_tips,
)

RECOVERY_WIDTH = 170  # of a panel
LINES = ("fewer", "more", "relu", "mean", "l1", "identity", "mix", "factored", "baseline")
ARM_NAMES = {"all": "all weights", "transfer": "transfer first", "low_rank": "low rank"}


def _colour(names: Sequence[str]) -> alt.Color:
    scale = alt.Scale(domain=list(names), range=[COLOURS[key] for key in LINES[: len(names)]])
    return alt.Color("condition:N", title=None, scale=scale)


def lines(
    rows: Rows,
    x_title: str,
    y_title: str,
    x_scale: alt.Scale | None = None,
    y_scale: alt.Scale | None = None,
    y_axis: alt.Axis | None = None,
    height: float = 300,
    x_values: Sequence[int] | None = None,
) -> Chart:
    """Lines with bands of `rows` `[{condition, x, value, lo, hi}]`; at most as many conditions as there are colours."""
    names = list(dict.fromkeys(row["condition"] for row in rows))
    x, y = line_axes(rows, x_title, y_title, "~s", x_scale, y_scale or alt.Scale(zero=False), y_axis, x_values)
    layers = curve_layers(rows, [], x, y, _colour(names), value_tips(x_title, y_title, ".6f"))
    return house(alt.layer(*layers), height)


def scale(models: Rows, y_title: str) -> Chart:
    """R3: a figure of every model against its parameters; `models` are `[{name, kind, n_params, value, lo, hi}]`."""
    names = list(dict.fromkeys(row["kind"] for row in models))
    rows = [row | {"condition": row["kind"]} for row in models]
    colour = _colour(names)
    base = chart_of(rows).encode(
        x=alt.X(
            "n_params:Q",
            title="parameters",
            scale=alt.Scale(type="log", nice=False, padding=16),
            axis=alt.Axis(format="~s", tickCount=4),
        ),
        color=colour,
        tooltip=[
            tip("name:N", "model"),
            tip("n_params:Q", "parameters", ","),
            tip("value:Q", y_title, ".4f"),
            *interval_tips(".4f"),
        ],
    )
    y = alt.Y("value:Q", title=y_title, axis=alt.Axis(format=".0%"), scale=alt.Scale(domainMin=0))
    rules = base.transform_filter("isValid(datum.lo)").mark_rule(strokeWidth=1.5, opacity=0.5)
    points = base.mark_point(filled=True, size=70, opacity=0.9)
    return house(rules.encode(y=alt.Y("lo:Q"), y2="hi:Q") + points.encode(y=y, shape=shapes_like(colour)), 300)


def recovery(rows: Rows) -> alt.ConcatChart:
    """R4: share of the excess recovered against the tokens trained on, a panel for each number of heads."""
    colour = _colour([ARM_NAMES[arm] for arm in ARM_NAMES if any(row["arm"] == arm for row in rows)])
    panels = []
    for n_heads in sorted({row["n_heads"] for row in rows}):
        points = [
            estimate(
                {"condition": ARM_NAMES[row["arm"]], "x": at["tokens"], "source": MEASURED}, at["share"], at["share_ci"]
            )
            for row in rows
            if row["n_heads"] == n_heads
            for at in row["points"]
            if at["share"] is not None
        ]
        x = alt.X("x:Q", title="training tokens", axis=alt.Axis(format="~s", tickCount=4))
        y = alt.Y("value:Q", title="share recovered", axis=alt.Axis(format=".0%"), scale=alt.Scale(domain=[-0.1, 1]))
        tips = value_tips("training tokens", "share recovered", ".4f")
        layers = curve_layers(points, [], x, y, colour, tips, clip=True)
        title = f"{n_heads} ReLU heads"
        panels.append(alt.layer(*layers).properties(width=RECOVERY_WIDTH, height=230, title=title))
    return house_of(alt.concat(*panels, columns=len(panels)))


ORDER_NAMES = {
    "abs_delta": "|ΔPPL|",
    "greedy": "greedy",
    "kl": "KL",
    "gradient": "one backward pass",
    "random": "random",
}


def orders(s1: Row) -> Chart:
    """S1: the ladders of the most telling orders, ratios on a logarithmic axis; intervals stand in the table."""
    rows = [
        estimate({"condition": ORDER_NAMES[row["order"]], "x": n, "source": MEASURED}, ratio, None)
        for name in ORDER_NAMES
        for row in s1["rows"]
        if row["order"] == name
        for n, ratio in zip(s1["ns"], row["ladder"], strict=True)
    ]
    ticks = ratio_ticks([{"ratio": row["value"]} for row in rows])
    scale = alt.Scale(type="log", nice=False)
    axis = alt.Axis(values=ticks, format="~g")
    title = "PPL relative to the baseline"
    return lines(rows, "linearized heads", title, y_scale=scale, y_axis=axis, x_values=s1["ns"], height=360)


def beyond(rungs: Rows) -> Chart:
    """S2: what is left of copying and of the most likely token, by rung."""
    rows = [
        estimate({"condition": name, "x": rung["n_linearized"], "source": MEASURED}, rung[key], rung[f"{key}_ci"])
        for key, name in (("agreement", "same most likely token"), ("kept", "gain of copying kept"))
        for rung in rungs
        if rung[key] is not None
    ]
    scale = alt.Scale(domainMin=0)
    return lines(rows, "linearized heads", "share", y_scale=scale, y_axis=alt.Axis(format=".0%"))
