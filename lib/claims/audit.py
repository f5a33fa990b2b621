"""Whether the numbers of a results folder follow from each other: one altered number is named."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from lib.analysis import flops, head_effects, perplexity, quick_vs_full
from lib.claims import audit_questions, audit_recovery, audit_selection, rules
from lib.claims.audit_recovery import Data, Relation
from lib.errors import InputError
from lib.results import assembled, io
from lib.results.query import NotThere, lookup
from lib.results.sections import Results

AGREES = 1e-8  # relative; what the rounding of another machine's arithmetic leaves


def audit(folder: str | Path) -> list[str]:
    """Numbers of a results folder that contradict others, each as one line that names it."""
    folder = Path(folder)
    measured = io.load(folder)
    found = []
    for path in sorted(folder.glob("exp10[vprs]_*.json")):
        assemble = assembled.BY_PART[path.name.removeprefix("exp10")[0]]
        try:
            expected = assemble(measured, None)
        except KeyError as section:
            found.append(f"{path.name}: section or key {section} is not there to compare with")
            continue
        actual = io.read_json(path)
        for key in expected:
            if key != "provenance":
                found += [f"{path.name}: {line}" for line in unlike(expected[key], actual.get(key), key)]
    return found + [f"sections: {line}" for line in inconsistencies(measured)]


def unlike(expected: Any, actual: Any, where: str) -> Iterator[str]:
    """Every place where `actual` is not exactly `expected`, one line each."""
    if expected == actual:
        return
    if isinstance(expected, Mapping) and isinstance(actual, Mapping):
        for key in dict.fromkeys([*expected, *actual]):
            yield from unlike(expected.get(key), actual.get(key), f"{where}.{key}")
    elif isinstance(expected, (list, tuple)) and isinstance(actual, list) and len(expected) == len(actual):
        for i, pair in enumerate(zip(expected, actual, strict=True)):
            yield from unlike(*pair, f"{where}[{i}]")
    else:
        yield f"{where} is {_short(actual)}; expected {_short(expected)}"


def inconsistencies(measured: Data) -> list[str]:
    """Figures of a `Results` dict that do not follow from the figures they are computed from, one line each."""
    return list(contradictions(measured))


def contradictions(measured: Data) -> Iterator[str]:
    """`inconsistencies`, section by section in the dict's order, each looked at when what is before it was taken."""
    for name in filter(_SECTIONS.__contains__, measured):
        try:
            found = [
                f"{where} is {_short(value)}; {rule} gives {_short(expected)}"
                for where, value, expected, rule in _SECTIONS[name](measured)
                if not _same(value, expected)
            ]
        except (LookupError, TypeError, ValueError, ZeroDivisionError, StopIteration, InputError) as error:
            found = [f"{name} can't be checked: {type(error).__name__} {error}"]
        yield from found
    for where, condition, n in _conditions(measured, ""):
        if condition != ("baseline" if n == 0 else f"relu_{n}"):
            yield f"{where} is {_short(n)}; the condition is {condition}"
    for where, value, ends in _with_intervals(measured, ""):
        if not _within(value, ends):
            yield f"{where} is {_short(value)}; its interval is {_short(ends)}"


def _same(value: Any, expected: Any) -> bool:
    if isinstance(value, (list, tuple)) and isinstance(expected, (list, tuple)):
        return len(value) == len(expected) and all(map(_same, value, expected))
    if isinstance(value, Mapping) and isinstance(expected, Mapping):
        return value.keys() == expected.keys() and all(_same(value[key], expected[key]) for key in value)
    numbers = (int, float)
    if isinstance(value, numbers) and isinstance(expected, numbers):
        return math.isclose(value, expected, rel_tol=AGREES, abs_tol=AGREES**1.5)
    return value == expected


def _within(value: float, ends: list[float | None]) -> bool:
    """Whether a figure lies in its interval, up to rounding."""
    low, high = (-math.inf if ends[0] is None else ends[0]), (math.inf if ends[1] is None else ends[1])
    slack = AGREES * abs(value)
    return low - slack <= value <= high + slack


def _with_intervals(data: Any, where: str) -> Iterator[tuple[str, float, list[float | None]]]:
    for here, inside in _dicts(data, where):
        for key in [end.removesuffix("_ci") for end in inside if end.endswith("_ci")]:
            value, ends = inside.get(key), inside[f"{key}_ci"]
            name = f"{here}.{key}" if here else key
            if isinstance(value, Mapping) and isinstance(ends, Mapping):
                pairs: list[tuple[str, Any, Any]] = [(f"{name}[{k}]", value[k], ends.get(k)) for k in value]
            elif isinstance(value, list) and isinstance(ends, list):
                pairs = [(f"{name}[{i}]", *pair) for i, pair in enumerate(zip(value, ends, strict=False))]
            else:
                pairs = [(name, value, ends)]
            yield from ((at, number, pair) for at, number, pair in pairs if _is_number(number) and _is_interval(pair))


def _conditions(data: Any, where: str) -> Iterator[tuple[str, str, int]]:
    for here, inside in _dicts(data, where):
        if "condition" in inside and "n_linearized" in inside:
            yield f"{here}.n_linearized", inside["condition"], inside["n_linearized"]


def _dicts(data: Any, where: str) -> Iterator[tuple[str, dict]]:
    """Every dict inside, with its path, each before those inside it."""
    if isinstance(data, dict):
        yield where, data
        for key, value in data.items():
            if isinstance(value, (dict, list)):
                yield from _dicts(value, f"{where}.{key}" if where else key)
    elif isinstance(data, list):
        for i, value in enumerate(data):
            if isinstance(value, (dict, list)):
                yield from _dicts(value, f"{where}[{i}]")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_interval(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(end is None or _is_number(end) for end in pair)


def _phases(m: Data) -> Iterator[Relation]:
    yield from audit_selection.phases(m)
    phases = m["phases"]
    base = phases["baseline_ppl"]
    if "V1" in m:
        yield "phases.baseline_ppl", base, m["V1"]["ppl_2k"], "V1.ppl_2k"
    for mode in ("zero", "mean", "relu", "l1", "identity"):
        data = phases.get(mode)
        if not data:
            continue
        heads, at = data["heads"], f"phases.{mode}"
        deltas = [row["delta"] for row in heads]
        pairs = [(row["layer"], row["head"]) for row in heads]
        if "setup" in m:
            yield f"{at}.heads", [list(pair) for pair in pairs], _places(m, mode), "the model's shape"
        for (layer, head), row in zip(pairs, heads, strict=True):
            rule = "ppl / phases.baseline_ppl - 1"
            yield f"{at}.heads L{layer}H{head} delta", row["delta"], row["ppl"] / base - 1, rule
        for key, value in head_effects.summary(deltas).items():
            if key in data.get("summary", {}):
                yield f"{at}.summary.{key}", data["summary"][key], value, f"{at}.heads"
        if "rank_law" in data:
            yield f"{at}.rank_law", data["rank_law"], head_effects.rank_law(deltas), f"{at}.heads"
        if "layer_means" in data:
            yield f"{at}.layer_means", data["layer_means"], head_effects.layer_means(pairs, deltas), f"{at}.heads"
        if "top" in data:
            largest = sorted(heads, key=lambda row: -row["delta"])[: len(data["top"])]
            yield f"{at}.top", data["top"], largest, f"{at}.heads"
    if "relu" in phases and "ranking" in phases:
        heads = [row for row in phases["relu"]["heads"] if row["layer"]]
        order = head_effects.ranking([(r["layer"], r["head"]) for r in heads], [r["delta"] for r in heads])
        yield "phases.ranking", phases["ranking"], order, "phases.relu.heads by |delta|"
    for mode in ("zero", "mean", "relu", "mix", "factored"):
        data = phases.get(mode) or {}
        yield from _ladder(data.get("cumulative"), f"phases.{mode}.cumulative", "n", base, "phases.baseline_ppl")
        if "thresholds" in data:
            yield from _thresholds(data["thresholds"], f"phases.{mode}.thresholds", data["cumulative"], "n")
        if "crossings" in data:
            ns, ratios = ([row[key] for row in data["cumulative"]] for key in ("n", "ratio"))
            found = head_effects.crossings(ns, ratios, map(float, data["crossings"]))
            yield f"phases.{mode}.crossings", data["crossings"], found, "the ratios of the ladder"
    shape = _there(m, "setup.model") or {}
    for row in phases.get("flops_saved", ()) if "d_head" in shape else ():
        n_heads = shape["n_layer"] * shape["n_head"]
        saved = flops.published_saving(row["n"], n_heads, m["setup"]["n_ctx"], shape["d_head"])
        yield f"phases.flops_saved[n={row['n']}].saved", row["saved"], saved, "the cost model"
    mix = phases.get("mix")
    if mix and "best" in mix:
        best = mix["best"]
        counts = {mode: sum(row["mode"] == mode for row in best) for mode in mix["counts"]}
        yield "phases.mix.counts", mix["counts"], counts, "phases.mix.best"
        yield "phases.mix.mean", mix["mean"], sum(row["delta"] for row in best) / len(best), "phases.mix.best"
        single = {
            (mode, r["layer"], r["head"]): r["delta"] for mode in mix["counts"] for r in phases.get(mode, {})["heads"]
        }
        for row in best:
            where = f"phases.mix.best L{row['layer']}H{row['head']} delta"
            known = single.get((row["mode"], row["layer"], row["head"]), row["delta"])
            yield where, row["delta"], known, f"phases.{row['mode']}.heads"


def _there(m: Data, path: str) -> Any:
    """What is read at a path; None for a section or a row that is not there."""
    try:
        return lookup(m, path)
    except NotThere:
        return None


def _places(m: Data, mode: str) -> list[list[int]]:
    shape = m["setup"]["model"]
    first = 0 if mode in ("zero", "mean") else 1
    return [[layer, head] for layer in range(first, shape["n_layer"]) for head in range(shape["n_head"])]


def _ladder(rows: Any, where: str, key: str, base: float, name: str) -> Iterator[Relation]:
    for row in rows or ():
        yield f"{where}[{key}={row[key]}].ratio", row["ratio"], row["ppl"] / base, f"ppl / {name}"
        if row[key] == 0:
            yield f"{where}[{key}=0].ppl", row["ppl"], base, name


def _thresholds(value: Mapping, where: str, rows: list, key: str) -> Iterator[Relation]:
    expected = head_effects.thresholds(
        [row[key] for row in rows], [row["ratio"] for row in rows], [float(k) for k in value]
    )
    for limit, n in value.items():
        yield f"{where}[{limit}]", n, expected[str(float(limit))], "the ratios of the ladder"


def _v1(m: Data) -> Iterator[Relation]:
    yield from audit_selection.v1(m)
    v1 = m["V1"]
    yield "V1.change", v1["change"], v1["ppl_full"] / v1["ppl_2k"] - 1, "ppl_full / ppl_2k - 1"
    setup = m.get("setup", {})
    for ours, theirs in (
        ("n_chunks_2k", "quick_chunks"),
        ("n_chunks", "full_chunks"),
        ("tokens_2k", "quick_tokens"),
        ("total_tokens", "full_tokens"),
    ):
        if theirs in setup and ours in v1:
            yield f"V1.{ours}", v1[ours], setup[theirs], f"setup.{theirs}"
    if "chunk_ppl" in v1:
        chunks = np.log(v1["chunk_ppl"])[:, None]
        for key, n in (("ppl_full", len(chunks)), ("ppl_2k", v1["n_chunks_2k"])):
            yield f"V1.{key}", v1[key], perplexity.ppl(chunks[:n]), "V1.chunk_ppl"
        sampling = quick_vs_full.sampling(chunks, v1["n_chunks_2k"], m["setup"]["parameters"]["seed"])
        for key, value in v1["sampling"].items():
            if key in sampling:
                yield f"V1.sampling.{key}", value, sampling[key], "V1.chunk_ppl"


def _v2(m: Data) -> Iterator[Relation]:
    yield from audit_selection.v2(m)
    top = m["V2"]["top10"]
    for span in ("2k", "full"):
        ranks = head_effects.ranks([row[f"delta_ppl_{span}"] for row in top])
        for row, rank in zip(top, ranks, strict=True):
            where = f"V2.top10 L{row['layer']}H{row['head']}"
            if "V1" in m:
                expected = row[f"ppl_{span}"] / m["V1"][f"ppl_{span}"] - 1
                yield f"{where} delta_ppl_{span}", row[f"delta_ppl_{span}"], expected, f"ppl_{span} / V1.ppl_{span} - 1"
            yield f"{where} rank_{span}", row[f"rank_{span}"], rank, f"the order of delta_ppl_{span}"
    if len(top) > 1:
        both = ([row[f"delta_ppl_{span}"] for row in top] for span in ("2k", "full"))
        yield "V2.spearman", m["V2"]["spearman"], head_effects.spearman(*both), "V2.top10"
    by_full = sorted(top, key=lambda row: row["rank_full"])
    moved = [row for row in top if row["rank_2k"] != row["rank_full"]]
    yield "V2.first_full", m["V2"]["first_full"], by_full[0], "V2.top10"
    yield "V2.moved", m["V2"]["moved"], moved, "V2.top10"
    yield "V2.same_top", m["V2"]["same_top"], top[0]["rank_full"] == 1, "V2.top10"
    if len(top) > 1 and by_full[1]["delta_ppl_full"] > 0:
        yield "V2.lead", m["V2"]["lead"], by_full[0]["delta_ppl_full"] / by_full[1]["delta_ppl_full"], "V2.top10"
    single = {(r["layer"], r["head"]): r["delta"] for r in _there(m, "phases.zero.heads") or ()}
    for row in top:
        if (row["layer"], row["head"]) in single:
            where = f"V2.top10 L{row['layer']}H{row['head']} delta_ppl_2k"
            yield where, row["delta_ppl_2k"], single[row["layer"], row["head"]], "phases.zero.heads"


def _v3(m: Data) -> Iterator[Relation]:
    yield from audit_selection.v3(m)
    v3 = m["V3"]
    for span in ("2k", "full"):
        zero, mean = v3[f"zero_delta_ppl_{span}"], v3[f"mean_delta_ppl_{span}"]
        expected = perplexity.quotient_value(zero, mean)
        yield (
            f"V3.reduction_{span}",
            v3[f"reduction_{span}"],
            expected,
            f"zero_delta_ppl_{span} / mean_delta_ppl_{span}",
        )
        share = v3.get(f"constant_share_{span}")
        if share is not None:
            yield f"V3.constant_share_{span}", share, 1 - mean / zero, "1 - mean / zero"
    for mode in ("zero", "mean"):
        known = _there(m, f"phases.{mode}.heads[layer={v3['layer']},head={v3['head']}].delta")
        if known is not None:
            where = f"V3.{mode}_delta_ppl_2k"
            yield where, v3[f"{mode}_delta_ppl_2k"], known, f"phases.{mode}.heads"
    for row in _there(m, "V2.top10") or ():
        if (row["layer"], row["head"]) == (v3["layer"], v3["head"]):
            where = "V3.zero_delta_ppl_full"
            yield where, v3["zero_delta_ppl_full"], row["delta_ppl_full"], "V2.top10"


def _v4(m: Data) -> Iterator[Relation]:
    yield from audit_selection.v4(m)
    v4, ladder = m["V4"], _there(m, "setup.ladder")
    for span, table in (("2k", "cumulative_2k"), ("full", "cumulative")):
        if "V1" in m:
            yield from _ladder(v4[table], f"V4.{table}", "n_linearized", m["V1"][f"ppl_{span}"], f"V1.ppl_{span}")
        if ladder:
            yield f"V4.{table} n_linearized", [row["n_linearized"] for row in v4[table]], ladder, "setup.ladder"
        yield from _thresholds(v4[f"thresholds_{span}"], f"V4.thresholds_{span}", v4[table], "n_linearized")
    known = {row["n"]: row["ppl"] for row in _there(m, "phases.relu.cumulative") or ()}
    for row in v4["cumulative_2k"]:
        if row["n_linearized"] in known:
            where = f"V4.cumulative_2k[n_linearized={row['n_linearized']}].ppl"
            yield where, row["ppl"], known[row["n_linearized"]], "phases.relu.cumulative"
    if "V1" in m:
        yield from _ladder(v4.get("factored"), "V4.factored", "n_linearized", m["V1"]["ppl_full"], "V1.ppl_full")


def _v5(m: Data) -> Iterator[Relation]:
    if all(name in m for name in ("V1", "V2", "V3", "V4")):
        v5, expected = m["V5"], quick_vs_full.compare(m["V1"], m["V2"], m["V3"], m["V4"])
        known = {row["what"]: row for row in expected["comparisons"]}
        for row in v5["comparisons"]:
            for key in ("quick", "full", "difference"):
                if row["what"] in known:
                    where = f"V5.comparisons[what={row['what']}].{key}"
                    yield where, row[key], known[row["what"]][key], "sections V1 to V4"
        for key in expected.keys() - {"comparisons"}:
            if key in v5:
                yield f"V5.{key}", v5[key], expected[key], "sections V1 to V4"


def _conclusions(m: Data) -> Iterator[Relation]:
    known = {claim["id"]: claim for claim in rules.evaluate(cast(Results, m))}
    verdicts = [claim["verdict"] for claim in m["conclusions"]["claims"]]
    counts = {verdict: verdicts.count(verdict) for verdict in m["conclusions"]["counts"]}
    yield "conclusions.counts", m["conclusions"]["counts"], counts, "conclusions.claims"
    yield "conclusions.claims", [claim["id"] for claim in m["conclusions"]["claims"]], [*known], "the claims there are"
    for key, again in (("hypothesis", rules.hypothesis), ("sensitivity", rules.sensitivity)):
        yield f"conclusions.{key}", m["conclusions"][key], again(cast(Results, m)), "the claims' rules"
    for claim in m["conclusions"]["claims"]:
        if claim["id"] in known:
            where, rule = f"conclusions.claims[id={claim['id']}]", "the claim's rule"
            yield f"{where}.verdict", claim["verdict"], known[claim["id"]]["verdict"], rule
            for key, value in claim["evidence"].items():
                yield f"{where}.evidence.{key}", value, known[claim["id"]]["evidence"].get(key), rule


_SECTIONS: dict[str, Callable[[Any], Iterable[Relation]]] = {
    "phases": _phases,
    "V1": _v1,
    "V2": _v2,
    "V3": _v3,
    "V4": _v4,
    "V5": _v5,
    "P1": audit_recovery.speed,
    "P2": audit_recovery.refinement,
    "P3": audit_recovery.best_of,
    "P4": audit_recovery.context,
    "K": audit_recovery.kernels,
    "R2": partial(audit_questions.asked, section="R2"),
    "R3": audit_questions.slopes,
    "R4": partial(audit_questions.asked, section="R4"),
    "S1": partial(audit_questions.asked, section="S1"),
    "S2": audit_questions.beyond_ppl,
    "conclusions": _conclusions,
}


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.8g}"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "…"
