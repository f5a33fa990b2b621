"""R2's figures: what answering at once, thinking and revising are worth by linearized heads, and by FLOPs."""

from collections.abc import Sequence

import altair as alt

from report.charts.style import COLOURS, SHAPES, Chart, Rows, chart_of, house, interval_tips, tip

WAYS = {
    "answer": ("answering at once", COLOURS["baseline"]),
    "think": ("thinking aloud", COLOURS["relu"]),
    "revise": ("revised", COLOURS["more"]),
    "vote_answer": ("vote of answers at once", COLOURS["mean"]),
    "vote_think": ("vote of thoughts", COLOURS["fewer"]),
    "best_answer": ("likeliest answer at once", COLOURS["identity"]),
    "best_think": ("likeliest thought", COLOURS["l1"]),
}
SHARE = alt.Axis(format=".0%")


def accuracy(rungs: Rows) -> Chart:
    """Accuracy against linearized heads, one line a way; the last round and the largest N of each.

    Bands for what is not sampled; those of votes and selections stand in the tooltips.
    """
    rows = []
    for rung in rungs:
        for way, (name, _) in WAYS.items():
            value, ends = rung[way], rung[f"{way}_ci"]
            if isinstance(value, list):
                value, ends = value[-1], ends[-1]
            rows.append({"way": name, "n": rung["n_linearized"], "value": value, "lo": ends[0], "hi": ends[1]})
    axis = alt.Axis(values=[rung["n_linearized"] for rung in rungs], format="d")
    x = alt.X("n:Q", title="heads on ReLU", axis=axis, scale=alt.Scale(nice=False, padding=10))
    banded = [WAYS[way][0] for way in ("answer", "think", "revise")]
    bands = chart_of([row for row in rows if row["way"] in banded]).mark_area(opacity=0.15)
    colour = _colour(list(dict.fromkeys(row["way"] for row in rows)))
    layers = [bands.encode(x=x, y="lo:Q", y2="hi:Q", color=colour), *_lines(rows, x, tip("n:Q", "heads on ReLU"))]
    return house(alt.layer(*layers), height=340)


def by_flops(rungs: Rows) -> alt.ConcatChart:
    """Accuracy against the whole model's FLOPs for a problem, each way and N a point, one panel a number of heads."""
    rows = []
    for rung in rungs:
        for way, (name, _) in WAYS.items():
            if isinstance(rung[way], list):
                points = list(zip(rung[f"{way}_flops"], rung[way], rung[f"{way}_ci"], strict=True))
            elif way == "answer":
                continue  # it is the first point of `revise`
            else:
                points = [(rung["cost"][way]["flops"], rung[way], rung[f"{way}_ci"])]
            rows += [
                {"way": name, "panel": f"{rung['n_linearized']} ReLU heads", "n": rung["n_linearized"], "flops": flops}
                | {"value": value, "lo": lo, "hi": hi}
                for flops, value, (lo, hi) in points
            ]
    x = alt.X("flops:Q", title="FLOPs for a problem", scale=alt.Scale(type="log", nice=False, padding=12))
    x = x.axis(format="~s", tickCount=5)
    panels = [
        alt.layer(
            *_lines([row for row in rows if row["n"] == rung["n_linearized"]], x, tip("flops:Q", "FLOPs", ".3s"))
        ).properties(width=280, height=220, title=f"{rung['n_linearized']} ReLU heads")
        for rung in rungs
    ]
    return house_of(alt.concat(*panels, columns=2))


def house_of(panels: alt.ConcatChart) -> alt.ConcatChart:
    """The house style on several panels."""
    styled = house(alt.Chart(alt.Data(values=[])).mark_point(), height=1)
    return panels.properties(padding=4).configure(**styled.config.to_dict(validate=False))


def _colour(names: Sequence[str]) -> alt.Color:
    inks = dict(WAYS.values())
    return alt.Color("way:N", title=None, scale=alt.Scale(domain=names, range=[inks[name] for name in names]))


def _with_bars(rows: Rows, x: alt.X) -> list[alt.Chart]:
    colour = _colour(list(dict.fromkeys(row["way"] for row in rows)))
    bars = chart_of(rows).mark_rule(strokeWidth=1, opacity=0.5).encode(x=x, y="lo:Q", y2="hi:Q", color=colour)
    return [bars, *_lines(rows, x, tip("flops:Q", "FLOPs", ".3s"))]


def _lines(rows: Rows, x: alt.X, where: alt.Tooltip) -> list[alt.Chart]:
    names = list(dict.fromkeys(row["way"] for row in rows))
    shape = alt.Shape("way:N", title=None, scale=alt.Scale(domain=names, range=list(SHAPES[: len(names)])))
    y = alt.Y("value:Q", title="right answers", axis=SHARE, scale=alt.Scale(domain=[0, 1]))
    tips = [tip("way:N", "way"), where, tip("value:Q", "right answers", ".1%"), *interval_tips(".1%")]
    base = chart_of(rows).encode(x=x, color=_colour(names))
    return [
        base.mark_line(strokeWidth=2).encode(y=y),
        base.mark_point(filled=True, size=45, opacity=1).encode(y=y, shape=shape, tooltip=tips),
    ]
