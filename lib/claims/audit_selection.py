"""What Part V's coverage, scan, cross-fitting and controls follow from, for the audit."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from lib.analysis import head_effects, perplexity, windows

Data = Mapping[str, Any]
Relation = tuple[str, Any, Any, str]


def phases(m: Data) -> Iterator[Relation]:
    data = m["phases"]
    zero = data["zero"]["heads"]
    share = head_effects.layer0_share(_places(zero), np.array([row["delta"] for row in zero]))
    yield "phases.layer0_share", data["layer0_share"], float(share), "phases.zero.heads"
    for mode, row in data["paired"].items():
        gaps = np.array(
            [a["delta"] - b["delta"] for a, b in zip(data["relu"]["heads"], data[mode]["heads"], strict=True)]
        )
        expected = {"mean": gaps.mean(), "median": np.median(gaps), "lower": int((gaps < 0).sum()), "of": len(gaps)}
        for key, value in expected.items():
            yield f"phases.paired.{mode}.{key}", row[key], value, f"phases.relu.heads and phases.{mode}.heads"


def v1(m: Data) -> Iterator[Relation]:
    data = m["V1"]
    n_quick, chunks = data["n_chunks_2k"], np.log(data["chunk_ppl"])[:, None]
    rest = perplexity.ppl(chunks[n_quick:]) if len(chunks) > n_quick else None
    yield "V1.ppl_rest", data["ppl_rest"], rest, "V1.chunk_ppl"
    (row,) = data["coverage"]
    places = np.exp([chunks[i : i + n_quick].mean() for i in range(len(chunks) - n_quick + 1)])
    expected = {
        "lowest": places.min(),
        "median": np.median(places),
        "highest": places.max(),
        "percentile": windows.percentile(np.log(places), np.log(places[0])),
    }
    for key, value in expected.items():
        yield f"V1.coverage[0].{key}", row[key], value, "V1.chunk_ppl"
    yield from _covered(m, "V1.coverage", data["coverage"], {"ppl": (data["ppl_2k"], data["ppl_full"])})


def v2(m: Data) -> Iterator[Relation]:
    data = m["V2"]
    known = {
        f"zero:L{row['layer']}H{row['head']}": (1 + row["delta_ppl_2k"], 1 + row["delta_ppl_full"])
        for row in data["top10"]
    }
    yield from _covered(m, "V2.coverage", data["coverage"], known)
    for row in data["top10"]:
        rest = _rest(m, 1 + row["delta_ppl_2k"], 1 + row["delta_ppl_full"])
        where = f"V2.top10 L{row['layer']}H{row['head']}"
        yield f"{where} delta_ppl_rest", row["delta_ppl_rest"], rest, "delta_ppl_2k and delta_ppl_full"
    missed = [] if data["scan"] is None else data["scan"]["missed"]
    every = [row["delta_ppl_full"] for row in data["top10"]] + [row["delta_full"] for row in missed]
    for row, rank in zip(data["top10"], head_effects.ranks(every), strict=False):
        yield f"V2.top10 L{row['layer']}H{row['head']} rank_all", row["rank_all"], rank, "V2.top10 and V2.scan.missed"
    if data["scan"] is None:
        return
    yield (
        "V2.scan.chunks",
        data["scan"]["chunks"],
        _spread(m, data["scan"]["chunks"]),
        "chunks evenly over the full ones",
    )
    scanned = data["scan"]["heads"]
    for row, rank in zip(scanned, head_effects.ranks([row["delta"] for row in scanned]), strict=True):
        yield f"V2.scan.heads L{row['layer']}H{row['head']} rank", row["rank"], rank, "the order of delta"
    before = m["phases"]["zero"]["heads"]
    ranks = dict(zip(_places(before), head_effects.ranks([row["delta"] for row in before]), strict=True))
    deltas = {place: row["delta"] for place, row in zip(_places(before), before, strict=True)}
    own = {place: row for place, row in zip(_places(scanned), scanned, strict=True)}
    missed = [place for place in own if own[place]["rank"] <= len(data["top10"]) < ranks[place]]
    found = _places(data["scan"]["missed"])
    yield "V2.scan.missed", sorted(found), sorted(missed), "V2.scan.heads and phases.zero.heads"
    for place, row in zip(found, data["scan"]["missed"], strict=True):
        at = f"V2.scan.missed L{place[0]}H{place[1]}"
        yield f"{at} rank_2k", row["rank_2k"], ranks[place], "phases.zero.heads"
        yield f"{at} delta_2k", row["delta_2k"], deltas[place], "phases.zero.heads"
        yield f"{at} rank_scan", row["rank_scan"], own[place]["rank"], "V2.scan.heads"
        yield f"{at} delta_scan", row["delta_scan"], own[place]["delta"], "V2.scan.heads"


def v3(m: Data) -> Iterator[Relation]:
    data = m["V3"]
    known = {
        "focus:zero": (1 + data["zero_delta_ppl_2k"], 1 + data["zero_delta_ppl_full"]),
        "focus:mean": (None, 1 + data["mean_delta_ppl_full"]),
    }
    yield from _covered(m, "V3.coverage", data["coverage"], known)
    quick = {row["what"]: row["quick"] for row in data["coverage"]}
    for name in ("zero", "mean"):
        rest = _rest(m, quick[f"focus:{name}"], 1 + data[f"{name}_delta_ppl_full"])
        yield f"V3.{name}_delta_ppl_rest", data[f"{name}_delta_ppl_rest"], rest, "V3.coverage and the full tokens"
    few, many = data["constant_share_2k"], data["constant_share_full"]
    change = None if few is None or many is None else many - few
    yield "V3.constant_share_change", data["constant_share_change"], change, "constant_share_full - constant_share_2k"


def v4(m: Data) -> Iterator[Relation]:
    data = m["V4"]
    ladders = {"2k": data["cumulative_2k"], "full": data["cumulative"]}
    for span, rows in ladders.items():
        yield f"V4.crossings_{span}", data[f"crossings_{span}"], _crossings(rows, "n_linearized"), "the ratios"
    shifts = {limit: n - data["crossings_2k"][limit] for limit, n in data["crossings_full"].items()}
    yield "V4.shifts", data["shifts"], shifts, "crossings_full - crossings_2k"
    ratios = {f"ratio:{a['n_linearized']}": (a["ratio"], b["ratio"]) for a, b in zip(*ladders.values(), strict=True)}
    known = {"ratios": ratios}
    for kind in ("thresholds", "crossings"):
        known[kind] = {f"{kind}:{key}": (n, data[f"{kind}_full"][key]) for key, n in data[f"{kind}_2k"].items()}
    for kind, rows in data["coverage"].items():
        yield from _covered(m, f"V4.coverage.{kind}", rows, known[kind])
    other = data["elsewhere"]
    if other:
        base = other["cumulative"][0]["ppl"]
        for row in other["cumulative"]:
            where = f"V4.elsewhere.cumulative[n_linearized={row['n_linearized']}].ratio"
            yield where, row["ratio"], row["ppl"] / base, "ppl / the first rung's"
        yield (
            "V4.elsewhere.crossings",
            other["crossings"],
            _crossings(other["cumulative"], "n_linearized"),
            "the ratios",
        )
        without = m["setup"]["full_chunks"] - m["setup"]["quick_chunks"]
        yield "V4.elsewhere.n_chunks", other["n_chunks"], min(other["n_chunks"], without), "the chunks without the 2K"
    if data["cross_fit"]:
        yield from _cross_fitted(m, data["cross_fit"])
        fitted = data["cross_fit"]
        yield "V4.cross_fit.crossings", fitted["crossings"], other["crossings"], "V4.elsewhere.crossings"
        shifts = {limit: n - data["crossings_2k"][limit] for limit, n in fitted["crossings"].items()}
        yield "V4.cross_fit.shifts", fitted["shifts"], shifts, "crossings - crossings_2k"
    if data["controls"]:
        chunks = data["controls"]["chunks"]
        yield "V4.controls.chunks", chunks, _spread(m, chunks), "chunks evenly over the full ones"
        yield from _controls(data["controls"]["rows"])


def _cross_fitted(m: Data, fitted: Data) -> Iterator[Relation]:
    """What a ranking gains on its own text: over all windows, the others' there add up to each one's elsewhere."""
    own, other = (np.log([window[key] for window in fitted["windows"]]) for key in ("in_sample", "elsewhere"))
    gain = dict(zip(m["setup"]["ladder"], np.expm1((own - other).mean(axis=0)), strict=True))
    yield "V4.cross_fit.windows at n = 0", float(gain[0]), 0.0, "no head is changed"
    for row in fitted["optimism"]:
        yield (
            f"V4.cross_fit.optimism[n={row['n']}].excess",
            row["excess"],
            float(gain[row["n"]]),
            "V4.cross_fit.windows",
        )
    first = fitted["windows"][0]
    yield "V4.cross_fit.windows[0].start", first["start"], 0, "the first window is the 2K"
    yield "V4.cross_fit.windows[0].shared", first["shared"], m["setup"]["relu_counts"][0], "its ranking is the run's"


def _spread(m: Data, chunks: list[int]) -> list[int]:
    return windows.spread_out(m["setup"]["full_chunks"], len(chunks))


def _controls(rows: list) -> Iterator[Relation]:
    relu = {rung["n"]: rung["ratio"] for row in rows if row["control"] == "relu" for rung in row["cumulative"]}
    for row in rows:
        at, base = f"V4.controls.rows[control={row['control']}]", row["cumulative"][0]["ppl"]
        ratios = {rung["n"]: rung["ratio"] for rung in row["cumulative"]}
        for rung in row["cumulative"]:
            yield f"{at}.cumulative[n={rung['n']}].ratio", rung["ratio"], rung["ppl"] / base, "ppl / the first rung's"
        yield f"{at}.crossings", row["crossings"], _crossings(row["cumulative"], "n"), "the ratios"
        for gap in row["against_relu"]:
            where = f"{at}.against_relu[n={gap['n']}].difference"
            yield where, gap["difference"], relu[gap["n"]] - ratios[gap["n"]], "the ratios"


def _rest(m: Data, quick: float, full: float) -> float | None:
    """ΔPPL on the full tokens without the 2K, from the PPL ratios on both: mean ln ratios of chunks of one length."""
    n, n_quick = m["setup"]["full_chunks"], m["setup"]["quick_chunks"]
    return float(np.expm1((n * np.log(full) - n_quick * np.log(quick)) / (n - n_quick))) if n > n_quick else None


def _crossings(rows: list, key: str) -> dict[str, float]:
    return head_effects.crossings([row[key] for row in rows], [row["ratio"] for row in rows])


def _covered(m: Data, where: str, rows: list, known: Mapping[str, tuple]) -> Iterator[Relation]:
    """`known`: each figure's value on the 2K and on all tokens, None where it is not held."""
    n_chunks, n_quick = m["setup"]["full_chunks"], m["setup"]["quick_chunks"]
    for row in rows:
        at = f"{where}[what={row['what']}]"
        for key, value in zip(("quick", "full"), known[row["what"]], strict=True):
            if value is not None:
                yield f"{at}.{key}", row[key], value, "the section's own figure"
        for key, parts in (("covered", row["n_windows"]), ("percentile", row["n_windows"] / 50)):
            hits = row[key] * parts
            yield f"{at}.{key}", hits, float(round(hits)), "a share of the windows"
        yield f"{at}.n_windows", row["n_windows"], n_chunks - n_quick + 1, "the chunks"
        yield f"{at}.n_disjoint", row["n_disjoint"], n_chunks // n_quick, "the chunks"


def _places(rows: Iterable[Mapping]) -> list[tuple[int, int]]:
    return [(row["layer"], row["head"]) for row in rows]
