"""Figures of section K: one function each, as `report.charts` says."""

from typing import Any

import altair as alt

from report.charts.style import (
    COLOURS,
    MEASURED,
    Chart,
    Rows,
    chart_of,
    dash_of,
    estimate,
    house,
    interval_tips,
    log_scale,
    reach_of,
    roofline_colours,
    shapes_like,
    speed_ticks,
    tip,
    wide,
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
