"""The opening picture and the diagram of the method, as `report.charts` says."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from lib.results.sections.terms import LIMITS
from report.charts.style import (
    COLOURS,
    WIDTH,
    Chart,
    Row,
    Rows,
    chart_of,
    house,
    interval_tips,
    tip,
)


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
