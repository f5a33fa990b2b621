"""Figures of Part P: one function each, as `report.charts` says."""

from collections.abc import Mapping, Sequence

import altair as alt

from report.charts.style import (
    COLOURS,
    MEASURED,
    PUBLISHED,
    Chart,
    Row,
    Rows,
    chart_of,
    condition_colour,
    condition_name,
    estimate,
    house,
    interval_tips,
    line_chart,
    log_scale,
    points_with_intervals,
    reach_of,
    series_rows,
    tip,
    wide,
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
