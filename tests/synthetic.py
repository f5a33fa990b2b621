"""Results of a run that never was, shaped like a real one's, for the tests of prose, charts and report."""

import atexit
import json
import math
import shutil
import tempfile
from functools import cache
from pathlib import Path

import nbformat

from lib.claims import rules, scorecard
from lib.claims.judging import JUDGED_BY, VERDICTS
from report import prose
from report.assemble import assemble
from report.charts import kernels, open_questions, overview, recovery, validation

HOSTILE = (
    '<img src=x onerror="window.fired=1"><script>window.fired=1</script>[x](javascript:window.fired=1)'
    " `=typst` #panic() $x$ @y"
)


JUDGE = {"name": "judge", "place": "judge", "fingerprint": "fed", "n_layer": 6, "n_head": 6, "n_params": 900_000}
RESAMPLED = {"unit": "documents", "length": 1, "n_units": 40, "n_effective": 22.0, "scope": "corpus"}


def _wave(i, low, high):
    return low + (high - low) * (0.5 + 0.5 * math.sin(1.7 * i + 0.3))


def _interval(value, share=0.04):
    return [value - abs(value) * share - 1e-4, value + abs(value) * share + 1e-4]


def _heads(layers, scale):
    rows = []
    for layer in layers:
        for head in range(12):
            i = 12 * layer + head
            delta = scale * (2.3 / (1 + 9 * ((i * 37) % 144) / 10) ** 1.4 - 0.002 * (i % 7 == 3) * (1 + i / 30))
            rows.append(
                {"layer": layer, "head": head, "ppl": 30 * (1 + delta), "delta": delta, "delta_ci": _interval(delta)}
            )
    return rows


def _curve(ladder, steepness):
    rows = []
    for n in ladder:
        ratio = math.exp(steepness * (n / 100) ** 2)
        rows.append({"n": n, "ppl": 30 * ratio, "ratio": ratio, "ratio_ci": _interval(ratio, 0.02)})
    return rows


def _linearized(rows):
    return [
        {
            "n_linearized": r["n"],
            "ppl": r["ppl"],
            "ppl_ci": _interval(r["ppl"]),
            "ratio": r["ratio"],
            "ratio_ci": r["ratio_ci"],
        }
        for r in rows
    ]


def _summary(heads):
    deltas = sorted(h["delta"] for h in heads)
    return {
        "under_1pct": sum(abs(d) < 0.01 for d in deltas),
        "under_10pct": sum(abs(d) < 0.1 for d in deltas),
        "negative": sum(d < 0 for d in deltas),
        "mean": sum(deltas) / len(deltas),
        "median": deltas[len(deltas) // 2],
        "max": deltas[-1],
    }


def _pile(ladder, steepness):
    return {
        "cumulative": [row | {"ppl_ci": _interval(row["ppl"])} for row in _curve(ladder, steepness)],
        "thresholds": {"1.1": 20, "1.5": 60, "2.0": 90},
        "thresholds_ci": {"1.1": [20, 20], "1.5": [50, 60], "2.0": [90, 90]},
        "crossings": {"1.1": 24.0, "1.5": 62.0, "2.0": 95.0},
        "crossings_ci": {"1.1": [22.0, 26.0], "1.5": [60.0, 64.0], "2.0": [91.0, 98.0]},
    }


def _covered(what, quick, full, covered=0.6):
    return {
        "what": what, "covered": covered, "n_windows": 63, "n_disjoint": 32, "percentile": 0.8,
        "quick": quick, "full": full, "lowest": quick, "median": full, "highest": full * 1.2,
    }  # fmt: skip


def _ladder_coverage(ladder):
    return {
        "ratios": [_covered(f"ratio:{n}", 1 + n / 100, 1 + n / 90) for n in ladder if n],
        "thresholds": [_covered(f"thresholds:{limit}", 30.0, 20.0) for limit in ("1.1", "1.5", "2.0")],
        "crossings": [_covered(f"crossings:{limit}", 33.0, 26.0) for limit in ("1.1", "1.5", "2.0")],
    }


def _control(name, ladder, steepness):
    pile = _pile(ladder, steepness)
    gaps = [{"n": n, "difference": -0.01 * n, "difference_ci": _interval(-0.01 * n, 0.3)} for n in ladder if n]
    return {
        "control": name, "cumulative": pile["cumulative"], "crossings": pile["crossings"],
        "crossings_ci": pile["crossings_ci"], "against_relu": [] if name == "relu" else gaps,
    }  # fmt: skip


def _cross_fit(ladder):
    ratios = [1 + n / 120 for n in ladder]
    return {
        "windows": [
            {"start": start, "in_sample": ratios, "elsewhere": [r * 1.02 for r in ratios], "shared": 30 - start // 8}
            for start in (0, 16, 32, 48)
        ],
        "optimism": [{"n": n, "excess": -0.02, "excess_ci": [-0.03, -0.01]} for n in ladder if n],
        "crossings_sd": {"1.1": 3.0, "1.5": 4.0, "2.0": 5.0},
        "crossings": {"1.1": 25.0, "1.5": 63.0, "2.0": 91.0},
        "crossings_ci": {"1.1": [10.0, 38.0], "1.5": [48.0, 74.0], "2.0": [77.0, 110.0]},
        "shifts": {"1.1": -8.0, "1.5": -9.0, "2.0": -3.0},
        "shifts_ci": {"1.1": [-22.0, 6.0], "1.5": [-22.0, 4.0], "2.0": [-14.0, 10.0]},
    }


def _scanned(heads):
    ranks = {id(row): i + 1 for i, row in enumerate(sorted(heads, key=lambda row: -row["delta"]))}
    missed = {
        "layer": 1, "head": 8, "rank_2k": 14, "rank_scan": 4, "delta_2k": 0.03, "delta_2k_ci": [0.01, 0.05],
        "delta_scan": 0.09, "delta_scan_ci": [0.05, 0.13], "delta_full": 0.08, "delta_full_ci": [0.05, 0.11],
    }  # fmt: skip
    rows = [{k: row[k] for k in ("layer", "head", "delta", "delta_ci")} | {"rank": ranks[id(row)]} for row in heads]
    return {"chunks": [0, 13, 25, 38, 50, 63], "heads": rows, "missed": [missed]}


def _scan(heads):
    return {"heads": heads, "summary": _summary(heads)}


def _timing(what, n, speedup):
    verdict = "baseline" if n == 0 else "faster"
    times = {"seconds": 0.01 / speedup, "ms": 10 / speedup, "speedup": speedup, "speedup_ci": _interval(speedup, 0.02)}
    return {"what": what, "n_linearized": n, "agrees": True, "error": 1e-6, "verdict": verdict} | times


def _equal_flops(n, extra):
    kinds = ("", "_factored", "_kernelized")
    row = {"n_linearized": n, "ratio_attention": 64 / (64 + extra), "extra_attention": extra}
    for kind in kinds:
        row |= {f"ratio_model_prefill{kind}": 0.99, f"ratio_model_decode{kind}": 0.99, f"extra_model{kind}": 0}
    return row


GAP = ("condition", "n_linearized", "difference", "difference_ci")


def _paired(condition, n, difference):
    named = {"condition": condition, "n_linearized": n}
    share = {"relative": difference / 25, "relative_ci": _interval(difference / 25, 0.2)}
    return named | {"difference": difference, "difference_ci": _interval(difference, 0.2)} | share


def _by_unit(section):
    """The intervals that another unit of text would have: here the section's own."""
    return {f"{key}_ci": [row[name] for row in section[key]] for key, name in JUDGED_BY.items() if key in section}


def _human(ppl):
    return {"ppl": ppl, "ppl_ci": _interval(ppl, 0.1), "ppl_by_prompt": [ppl] * 20}


def _by_length(condition, n):
    ratios = [1 + n / 100 + 0.02 * i for i in range(4)]
    return {
        "condition": condition,
        "n_linearized": n,
        "ppl": [55.0, 42.0, 34.0, 29.0],
        "ppl_ci": [_interval(v) for v in (55.0, 42.0, 34.0, 29.0)],
        "ratio": ratios,
        "ratio_ci": [_interval(ratio, 0.03) for ratio in ratios],
    }


def results(model_name="tiny", is_gpt2_small=False, sample="def f(x):\n    return x\n"):
    """`{section: data}` in the form of `lib.results.load`."""
    ladder = [*range(0, 101, 10), 132]
    zero, mean, relu = _heads(range(12), 1.0), _heads(range(12), 0.2), _heads(range(1, 12), 0.05)
    thresholds = {"1.1": 20, "1.5": 60, "2.0": 90}
    conditions = [("baseline", 0), ("relu_30", 30), ("relu_70", 70)]
    top10 = [
        {
            "layer": i % 3,
            "head": (5 * i) % 12,
            "rank_2k": i + 1,
            "rank_full": [1, 3, 2, 4, 5, 8, 6, 7, 10, 9][i],
            "rank_full_ci": [max(1, i - 1), i + 3],
            "rank_all": [1, 3, 2, 4, 5, 8, 6, 7, 10, 9][i],
            "rank_all_ci": [max(1, i - 1), i + 3],
            "delta_ppl_rest": 2.61 / (i + 1) ** 1.5,
            "delta_ppl_rest_ci": _interval(2.61 / (i + 1) ** 1.5, 0.1),
            "ppl_2k": 30.0,
            "ppl_full": 33.0,
            "delta_ppl_2k": 2.4 / (i + 1) ** 1.5,
            "delta_ppl_2k_ci": _interval(2.4 / (i + 1) ** 1.5, 0.3),
            "delta_ppl_full": 2.6 / (i + 1) ** 1.5,
            "delta_ppl_full_ci": _interval(2.6 / (i + 1) ** 1.5, 0.1),
        }
        for i in range(10)
    ]
    curves = {name: _pile(ladder, steepness) for name, steepness in
              (("zero", 5.0), ("mean", 3.0), ("relu", 1.0), ("mix", 1.1), ("factored", 4.0))}  # fmt: skip
    speeds = (("recomputed", 17.3), ("cached", 260.0))
    theory = [{"n_linearized": 30, "speedup": 1.233}, {"n_linearized": 70, "speedup": 1.79}]
    samples = [{"condition": c, "text": sample} for c, _ in conditions]
    kernel_rows = [
        _timing(what, n, 1 + gain * n / 132)
        for what, gain in (("attention", 0.6), ("one layer", 0.3), ("prefill", 0.2), ("decoding", 0.05))
        for n in (0, 30, 70, 132)
    ]
    found = {
        "setup": {
            "parameters": {"seed": 10},
            "model": {
                "name": model_name,
                "slug": "tiny",
                "family": "gpt2",
                "n_layer": 12,
                "n_head": 12,
                "n_kv_head": 12,
                "d_head": 64,
                "n_embd": 768,
                "d_mlp": 3072,
                "n_positions": 1024,
                "vocab_size": 50257,
                "is_gpt2_small": is_gpt2_small,
                "fingerprint": "abc",
                "n_params": 3_700_000,
                "stored_dtypes": ["float32"],
            },
            "corpus": {
                "name": "stdlib",
                "split": "heldout",
                "fingerprint": "def",
                "n_tokens": 370_000,
                "n_chunks": 361,
                "normalised": {"bom": 0, "crlf": 0},
            },
            "judge": JUDGE,
            "documents": {
                "unit": "module",
                "n": 40,
                "n_quick": 2,
                "longest": 9000,
                "median": 3000.0,
                "resampled": RESAMPLED,
                "resampled_quick": RESAMPLED | {"n_units": 2, "n_effective": 1.8},
            },
            "device": "cpu",
            "backend": "naive",
            "n_ctx": 1024,
            "quick_chunks": 2,
            "full_chunks": 64,
            "quick_tokens": 2048,
            "full_tokens": 65536,
            "n_heads": 144,
            "n_rankable": 132,
            "relu_counts": [30, 70],
            "context_lengths": [128, 256, 512, 1024],
            "ladder": ladder,
        },
        "phases": {
            "baseline_ppl": 30.0,
            "baseline_ppl_ci": [28.0, 32.0],
            "zero": curves["zero"]
            | {
                "heads": zero,
                "summary": _summary(zero),
                "layer_means": [_wave(i, 0.004, 0.4) for i in range(12)],
                "rank_law": {"alpha": 1.37, "C": 2.35, "r2": 0.98},
                "top": sorted(zero, key=lambda row: -row["delta"])[:10],
            },
            "mean": curves["mean"]
            | {
                "heads": mean,
                "summary": _summary(mean),
                "layer_means": [_wave(i, -0.002, 0.1) for i in range(12)],
                "rank_law": {"alpha": 1.1, "C": 0.4, "r2": 0.97},
                "top": sorted(mean, key=lambda row: -row["delta"])[:10],
            },
            "relu": curves["relu"] | {"heads": relu, "summary": _summary(relu)},
            "l1": _scan(_heads(range(1, 12), 0.2)),
            "identity": _scan(_heads(range(1, 12), 0.9)),
            "mix": curves["mix"]
            | {
                "best": [{"layer": h["layer"], "head": h["head"], "mode": "relu", "delta": h["delta"]} for h in relu],
                "counts": {"relu": 132, "l1": 0, "identity": 0},
                "mean": sum(h["delta"] for h in relu) / 132,
            },
            "factored": curves["factored"],
            "ranking": [[h["layer"], h["head"]] for h in relu],
            "flops_saved": [{"n": n, "saved": 0.0063 * n} for n in ladder],
            "paired": {
                mode: {
                    "mean": gap,
                    "mean_ci": _interval(gap, 0.3),
                    "median": gap / 2,
                    "median_ci": _interval(gap / 2, 0.3),
                    "lower": 120,
                    "of": 132,
                }
                for mode, gap in (("l1", -0.01), ("identity", -0.09))
            },
            "layer0_share": 0.75,
            "layer0_share_ci": [0.7, 0.8],
            "alpha_ci": [1.2, 1.5],
        },
        "V1": {
            "ppl_2k": 24.27,
            "ppl_2k_ci": [21.0, 28.0],
            "ppl_full": 31.041234,
            "ppl_full_ci": [30.0, 32.1],
            "change": 0.279,
            "change_ci": [0.1, 0.4],
            "n_chunks_2k": 2,
            "n_chunks": 64,
            "tokens_2k": 2048,
            "total_tokens": 65536,
            "sampling": {
                "spread": [22.0, 40.0],
                "spread_random": [21.0, 41.0],
                "percentile": 8.0,
                "percentile_random": 7.0,
                "share_as_far": 0.2,
                "typical_shift": 0.2,
                "observed_shift": -0.22,
                "explained": True,
                "n_windows": 63,
                "n_random": 2016,
            },
            "chunk_ppl": [30.0 + math.sin(i) for i in range(64)],
            "ppl_rest": 31.3,
            "ppl_rest_ci": [30.1, 32.5],
            "coverage": [_covered("ppl", 24.27, 31.04)],
        },
        "V2": {
            "top10": top10,
            "same_top": True,
            "top5_same_set": True,
            "moved": top10[1:3],
            "spearman": 0.99,
            "spearman_ci": [0.9, 1.0],
            "by_chunk": {"rank_all_ci": [row["rank_all_ci"] for row in top10], "spearman_ci": [0.95, 1.0]},
            "lead": 3.9,
            "first_full": top10[0],
            "coverage": [_covered(f"zero:L{r['layer']}H{r['head']}", 1 + r["delta_ppl_2k"], 1.1) for r in top10],
            "scan": _scanned(zero),
            "kept_heads": None,
        },
        "V3": {
            "layer": 0,
            "head": 8,
            "zero_delta_ppl_2k": 2.365,
            "zero_delta_ppl_2k_ci": [2.0, 2.7],
            "zero_delta_ppl_full": 2.806,
            "zero_delta_ppl_full_ci": [2.6, 3.0],
            "mean_delta_ppl_2k": 0.011,
            "mean_delta_ppl_2k_ci": [0.001, 0.02],
            "mean_delta_ppl_full": 0.009,
            "mean_delta_ppl_full_ci": [0.006, 0.012],
            "reduction_2k": 219.0,
            "reduction_2k_ci": [100.0, 2000.0],
            "reduction_full": 303.0,
            "reduction_full_ci": [230.0, 450.0],
            "constant_share_2k": 0.995,
            "constant_share_2k_ci": [0.99, 1.0],
            "constant_share_full": 0.997,
            "constant_share_full_ci": [0.995, 0.998],
            "constant_share_change": 0.002,
            "constant_share_change_ci": [0.001, 0.003],
            "zero_delta_ppl_rest": 2.82,
            "zero_delta_ppl_rest_ci": [2.6, 3.0],
            "mean_delta_ppl_rest": 0.009,
            "mean_delta_ppl_rest_ci": [0.006, 0.012],
            "by_chunk": {
                "zero_delta_ppl_full_ci": [2.1, 2.3],
                "constant_share_full_ci": [0.996, 0.997],
                "constant_share_change_ci": [0.0015, 0.0025],
            },
            "coverage": [_covered("focus:zero", 3.4, 3.6), _covered("focus:mean", 1.01, 1.01)],
        },
        "V4": {
            "audit": [],
            "cumulative": _linearized(_curve(ladder, 1.2)),
            "cumulative_2k": _linearized(_curve(ladder, 1.0)),
            "factored": _linearized(_curve([0, 30, 70, 132], 4.0)),
            "thresholds_2k": {"1.1": 30, "1.5": 70, "2.0": 90},
            "thresholds_2k_ci": {"1.1": [30, 40], "1.5": [60, 70], "2.0": [90, 90]},
            "thresholds_full": thresholds,
            "thresholds_full_ci": {"1.1": [20, 30], "1.5": [60, 60], "2.0": [80, 90]},
            "crossings_2k": {"1.1": 33.0, "1.5": 72.0, "2.0": 94.0},
            "crossings_2k_ci": {"1.1": [30.0, 36.0], "1.5": [68.0, 75.0], "2.0": [91.0, 97.0]},
            "crossings_full": {"1.1": 26.0, "1.5": 64.0, "2.0": 92.0},
            "crossings_full_ci": {"1.1": [22.0, 29.0], "1.5": [61.0, 67.0], "2.0": [88.0, 96.0]},
            "shifts": {"1.1": -7.0, "1.5": -8.0, "2.0": -2.0},
            "shifts_ci": {"1.1": [-9.0, -5.0], "1.5": [-10.0, -6.0], "2.0": [-4.0, 0.0]},
            "by_chunk": {
                "crossings_full_ci": {"1.1": [24.0, 27.0], "1.5": [63.0, 65.0], "2.0": [90.0, 94.0]},
                "shifts_ci": {"1.1": [-8.0, -6.0], "1.5": [-9.0, -7.0], "2.0": [-3.0, -1.0]},
            },
            "coverage": _ladder_coverage(ladder),
            "elsewhere": {
                "n_chunks": 48,
                "cumulative": _linearized(_curve(ladder, 1.0)),
                "crossings": {"1.1": 25.0, "1.5": 63.0, "2.0": 91.0},
                "crossings_ci": {"1.1": [21.0, 29.0], "1.5": [60.0, 67.0], "2.0": [87.0, 96.0]},
            },
            "cross_fit": _cross_fit(ladder),
            "controls": {
                "chunks": [0, 9, 18, 27, 36, 45, 54, 63],
                "rows": [
                    _control(name, ladder, steepness)
                    for name, steepness in (
                        ("relu", 1.0),
                        ("mean", 1.3),
                        ("zero", 2.5),
                        ("uniform", 2.0),
                        ("random:1", 4.0),
                    )
                ],
            },
        },
        "V5": {
            "comparisons": [
                {"what": "ppl", "quick": 24.27, "full": 31.041234, "difference": 0.279},
                {"what": "zero:L0H0", "quick": 2.4, "full": 2.6, "difference": 0.083},
                {"what": "focus:zero", "quick": 2.365, "full": 2.806, "difference": 0.186},
                {"what": "ratio:30", "quick": 1.09, "full": 1.11, "difference": 0.222},
            ],
            "bias": "optimistic",
            "mean_diff_pct": 24.6,
            "median_diff_pct": 11.6,
            "drivers": [{"what": "ratio:10", "difference": 1.9}, {"what": "ratio:20", "difference": 1.7}],
            "mean_without_drivers_pct": 11.4,
            "counted_twice": ["L0H8"],
            "mean_counted_once_pct": 24.9,
            "conclusions_maintained": True,
            "thresholds_2k": {"1.1": 30, "1.5": 70, "2.0": 90},
            "thresholds_full": thresholds,
            "max_threshold_shift": 10,
            "coverage": [
                {"kind": kind, "n": 3, "lowest": 0.5, "mean": 0.6, "highest": 0.7}
                for kind in ("ppl", "zero", "focus", "ratio", "thresholds", "crossings")
            ],
            "kept_coverage": None,
        },
        "P1": {
            "rows": [
                {
                    "condition": c,
                    "n_linearized": n,
                    "protocol": p,
                    "backend": "cpu",
                    "tok_per_s": s * (1 - n / 900),
                    "tok_per_s_ci": _interval(s * (1 - n / 900), 0.1),
                    "ms_per_tok": 1000 / s,
                    "relative": -n / 900,
                    "relative_ci": _interval(-n / 900, 0.2),
                    "against_control": None,
                    "against_control_ci": None,
                }
                for p, s in speeds
                for c, n in conditions
            ],
            "n_tokens": 128,
            "n_runs": 10,
            "published_protocol": {"n_tokens": 128, "n_runs": 10},
            "theory": theory,
            "published_theory": theory,
        },
        "P2": {
            "iterations": 3,
            "n_prompts": 20,
            "conditions": [
                {
                    "condition": c,
                    "n_linearized": n,
                    "ppl": [2.4 + n / 300, 1.65, 1.42],
                    "ppl_ci": [_interval(2.4 + n / 300, 0.1), _interval(1.65), _interval(1.42)],
                    "ppl_by_prompt": [[2.4 + n / 300] * 20, [1.65] * 20, [1.42] * 20],
                    "repeated_4gram_share": [0.4, 0.6, 0.8],
                    "repeated_4gram_share_ci": [[0.3, 0.5], [0.5, 0.7], [0.7, 0.9]],
                    "distinct_2": [0.5, 0.4, 0.3],
                    "longest_repeat": [10.0, 30.0, 50.0],
                }
                for c, n in conditions
            ],
            "falls": [
                _paired(c, n, fall) | {"iteration": k, "lower": 20, "of": 20, "lag1": 0.1}
                for c, n in conditions
                for k, fall in ((2, -0.75), (3, -0.98))
            ],
            "gaps": [
                _paired(c, n, gap) | {"iteration": k, "lower": 4, "of": 20, "lag1": 0.1}
                for c, n in conditions[1:]
                for k, gap in ((1, n / 300), (2, 0.01), (3, 0.01))
            ],
            "closings": [{key: _paired(c, n, -n / 300)[key] for key in GAP} for c, n in conditions[1:]],
            "against_human": [_paired(c, n, -20.0) | {"lower": 20, "of": 20, "lag1": None} for c, n in conditions],
            "human": {
                "ppl": [23.9, 20.0, 16.7],
                "ppl_ci": [_interval(v, 0.1) for v in (23.9, 20.0, 16.7)],
                "ppl_by_prompt": [[23.9] * 20, [20.0] * 20, [16.7] * 20],
                "distinct_2": 0.9,
                "longest_repeat": 4.0,
                "repeated_4gram_share": 0.1,
                "repeated_4gram_share_ci": [0.05, 0.15],
            },
            "samples": samples,
        },
        "P3": {
            "n": [1, 2, 3, 5],
            "n_prompts": 20,
            "new_tokens": 64,
            "temperature": 0.8,
            "conditions": [
                {
                    "condition": c,
                    "n_linearized": n,
                    "first_n": [13.6 + n / 8, 11.1 + n / 9, 10.2 + n / 20, 8.0 + n / 25],
                    "expected": [13.9 + n / 8, 11.0 + n / 9, 10.0 + n / 20, 8.0 + n / 25],
                    "expected_ci": [_interval(v + n / 15, 0.1) for v in (13.9, 11.0, 10.0, 8.0)],
                    "ppl_by_sample": [[18.0 + n / 8, 16.0, 14.0, 12.0, 8.0 + n / 25]] * 20,
                    "judged_by_sample": [[19.0 + n / 8, 18.0, 15.0, 13.0, 9.0 + n / 25]] * 20,
                }
                for c, n in conditions
            ],
            "against_baseline": [_paired(c, n, -5.9 + n / 25) | {"best_of": 5} for c, n in conditions[1:]],
            "equal_n": [_paired(c, n, n / 20) | {"n": k} for c, n in conditions[1:] for k in (1, 2, 3, 5)],
            "selection": [_paired(c, n, -1.5 * k) | {"n": k} for c, n in conditions for k in (2, 3, 5)],
            "human": _human(23.9),
            "judge": JUDGE | {"human": _human(29.0)},
            "judged": [
                _paired(c, n, -5.0 + n / 25)
                | {"chosen_by": chooser, "scored_by": scorer, "n": 5, "value": 9.0, "value_ci": [8.0, 10.0]}
                | {"gain": -0.4, "gain_ci": [-0.5, -0.3]}
                for scorer in ("model", "judge")
                for chooser in ("model", "judge")
                for c, n in conditions
            ],
            "equal_flops": [_equal_flops(30, 6), _equal_flops(70, 16)],
            "samples": samples,
        },
        "P4": {
            "lengths": [128, 256, 512, 1024],
            "n_tokens": 50_000,
            "conditions": [_by_length(c, n) for c, n in conditions],
            "longest_against_shortest": [
                {key: _paired(c, n, 0.06)[key] for key in GAP} | {"shortest": 128, "longest": 1024}
                for c, n in conditions[1:]
            ],
            "excess_ratios": [
                {
                    "condition": c,
                    "n_linearized": n,
                    "shorter": 128,
                    "longer": 1024,
                    "ratio": 1.2,
                    "ratio_ci": [1.1, 1.3],
                }
                for c, n in conditions[1:]
            ],
            "by_position": {
                "n_tokens": 65536,
                "bins": [[1, 127], [128, 255], [256, 511], [512, 1023]],
                "conditions": [_by_length(c, n) for c, n in conditions],
            },
            "same_targets": {
                "n_targets": 64 * 64,
                "contexts": [64, 128, 512, 960],
                "conditions": [
                    _by_length(c, n) | {"placed": placed, "difference": 0.06, "difference_ci": [0.04, 0.08]}
                    for placed in ("start", "in place")
                    for c, n in conditions[1:]
                ],
            },
            "training": {"seed": 10, "batch_tokens": 8192, "stages": [{"context": 128, "tokens": 9_000_000}]},
            "rise_at_longest": [
                {
                    "condition": c,
                    "n_linearized": n,
                    "before": 512,
                    "longest": 1024,
                    "difference": 0.02,
                    "difference_ci": [0.01, 0.03],
                    "is_noise": False,
                }
                for c, n in conditions[1:]
            ],
        },
        "K": {
            "rows": kernel_rows,
            "gpt2_shape": _timing("attention", 12, 1.4) | {"shape": [1, 12, 1024, 64]},
            "shapes": [
                _timing("attention", 12, 1.2 + d / 100) | {"shape": [1, 12, n, d]} for n in (256, 1024) for d in (8, 64)
            ],
            "backend": "cpu",
            "device": "cpu",
            "n_last": 132,
            "attention_share": 0.5,
            "bound": 2.0,
            "last": [row for row in kernel_rows if row["n_linearized"] == 132],
            "faster": 12,
            "slower": 0,
            "compared": 12,
            "expected_prefill": 1.23,
            "measured_prefill": 1.2,
            "measured_prefill_ci": [1.15, 1.25],
            "bounds": [{"n_linearized": n, "speedup": 1 / (1 - 0.5 * n / 144)} for n in (0, 30, 70, 132)],
            "theory": theory,
            "published_theory": theory,
            "budget": [
                {"n_linearized": n, "extra_published": extra, "extra_measured": 1, "share_real": 1 / extra}
                for n, extra in ((30, 6), (70, 16))
            ],
            "new_tokens": 64,
            "peak_flops": 4e11,
            "copy_bytes": 2e10,
            "ridge": 20.0,
            "roofline": [
                {"n_linearized": n, "name": f"{n} ReLU heads", "intensity": 40.0, "rate": 2e11, "share_of_peak": 0.5}
                for n in (0, 132)
            ],
            "elsewhere": [],
            "targets": [],
            "files": [],
        },
    }
    found["P3"]["prompt_tokens"] = 128
    for section in ("P2", "P3"):
        found[section] |= {"chunks": list(range(20)), "documents": [i // 2 for i in range(20)]}
        found[section] |= {"by_document": _by_unit(found[section])}
    found["P4"] |= {f"by_{unit}": _by_unit(found["P4"]) for unit in ("chunk", "tokens")}
    judged = rules.evaluate(found)
    counts = {verdict: sum(claim["verdict"] == verdict for claim in judged) for verdict in VERDICTS}
    rest = {"hypothesis": rules.hypothesis(found), "sensitivity": rules.sensitivity(found)}
    rest["scorecard"] = scorecard.score(found)
    return found | {"conclusions": {"claims": judged, "counts": counts, **rest}}


def hostile_rows(p1):
    """P1 with a hostile name among its tooltips."""
    return p1 | {"rows": [row | {"backend": HOSTILE} for row in p1["rows"]]}


def question_charts():
    """The figures of Parts R and S."""
    sizes = [(300_000, "one family"), (3_000_000, "one family"), (124_000_000, "profiles")]
    models = [
        {"name": f"m{i}", "kind": kind, "n_params": n, "value": 0.4 + 0.1 * i, "lo": 0.3, "hi": 0.9}
        for i, (n, kind) in enumerate(sizes)
    ]
    points = [{"tokens": n, "share": share, "share_ci": _interval(share)} for n, share in ((0, 0.0), (4096, 0.4))]
    arms = [{"arm": arm, "n_heads": n, "points": points} for arm in ("all", "transfer", "low_rank") for n in (30, 132)]
    names = ("abs_delta", "signed_delta", "kl", "gradient", "zero", "restore", "greedy", "kl_2k", "ranking", "random")
    ladders = [[1.0, 1.1 + 0.02 * i, 5.0 + i] for i in range(len(names))]
    s1 = {
        "ns": [0, 30, 132],
        "rows": [
            {"order": name, "ladder": ratios, "ladder_ci": [_interval(ratio) for ratio in ratios]}
            for name, ratios in zip(names, ladders, strict=True)
        ],
    }
    rungs = [
        {"n_linearized": n, "agreement": 1 - n / 200, "agreement_ci": None, "kept": kept, "kept_ci": None}
        for n, kept in ((0, 1.0), (30, 0.8), (132, None))
    ]
    return {
        "scale": open_questions.scale(models, "share of the heads"),
        "recovery": open_questions.recovery(arms),
        "orders": open_questions.orders(s1),
        "beyond": open_questions.beyond(rungs),
    }


def all_charts():
    """`{name: chart}`: every figure from these results, with published ghosts."""
    r = results()
    ph = r["phases"]
    curves = {k: ph[k]["cumulative"] for k in ("zero", "mean", "relu", "mix", "factored")}
    law = {"alpha": 1.37, "C": 2.35}
    return {
        "opening": overview.opening(r["V4"]["cumulative"]),
        "zero_map": validation.head_map(ph["zero"]["heads"]),
        "rank_law": validation.rank_law(ph["zero"]["heads"], ph["zero"]["rank_law"], law),
        "layer_means": validation.layer_means(
            ph["zero"]["layer_means"], ph["mean"]["layer_means"], [0.415, *[0.013] * 11]
        ),
        "curves": validation.cumulative(curves, {"zero": [{"n": 0, "ratio": 1}, {"n": 70, "ratio": 8.2}]}),
        "methods": validation.methods(
            {k: ph[k]["heads"] for k in ("relu", "l1", "identity")},
            {"relu": {"mean": 0.0039, "median": 0.0023}, "l1": {"mean": 0.0185, "median": 0.0089}},
        ),
        "flops": validation.flops_saved(
            ph["flops_saved"], {"relu": ph["relu"]["cumulative"], "mix": ph["mix"]["cumulative"]}
        ),
        "baseline": validation.baseline(r["V1"], {"ppl_2k": 24.27, "ppl_full": 31.04}),
        "top_heads": validation.top_heads(
            r["V2"]["top10"], [{"layer": 0, "head": 0, "delta_ppl_2k": 2.0, "delta_ppl_full": 2.1}]
        ),
        "zero_and_mean": validation.zero_and_mean(
            r["V3"],
            {
                "zero_delta_ppl_2k": 2.365,
                "zero_delta_ppl_full": 2.806,
                "mean_delta_ppl_2k": 0.011,
                "mean_delta_ppl_full": 0.009,
            },
        ),
        "ladder": validation.ladder(r["V4"], {"full": [{"n": 0, "ratio": 1}, {"n": 132, "ratio": 11.75}]}),
        "speed": recovery.generation_speed(hostile_rows(r["P1"]), [{"condition": "baseline", "tok_per_s": 17.3}]),
        "refinement": recovery.refinement(r["P2"], {"baseline": [2.44, 1.65, 1.42]}),
        "degeneration": recovery.degeneration(r["P2"]),
        "best_of_n": recovery.best_of_n(r["P3"], {"relu_30": [17.33, 12.35, 11.18, 8.68]}),
        "equal_n": recovery.equal_n(r["P3"]),
        "context": recovery.context_length(r["P4"], {"relu_30": [1.161, 1.113, 1.096, 1.122]}),
        "kernel_speed": kernels.speed_and_theory(
            r["K"]["rows"], r["K"]["theory"], [{"n_linearized": 132, "speedup": 1.3}]
        ),
        "elsewhere": kernels.elsewhere(
            [
                {"name": f"gpu_{n}", "device": "H200", "date": date, "ratio": n / 1e3, "ratio_ci": [n / 2e3, n / 500]}
                for n in (1024, 2048)
                for date in ("2026-01-01", "2026-03-01")
            ]
        ),
        **question_charts(),
        "roofline": kernels.roofline([{"name": "SDPA", "intensity": 40.0, "rate": 2e11}], 4e11, 2e10),
    }


# About as much of it as a section has, for a page with figures and hardly any text says nothing about the layout.
EXPLANATION = {
    "ja": "\n\n".join(
        [
            "説明の文。同じ文書の同じ位置を、手を加えたモデルと加えないモデルの両方で採点し、その差だけを見る。"
            "差の不確かさは、文書を単位とする再抽出から求める。`head`ごとの値は、そのあとで順に並べる。",
            "ここで問うのは、**どのヘッド**を変えると何が失われるかである。"
            "短い標本での順位は、長い標本での順位と同じとは限らない。そこで二つを並べて示し、食い違いも数える。",
        ]
        * 2
    ),
    "en": "\n\n".join(
        [
            "A sentence of **explanation** with `code`. The same positions of the same documents are scored with the "
            "changed model and with the untouched one, and only the difference between the two is looked at. Its "
            "uncertainty comes from drawing documents anew; the heads are put in order after that.",
            "The question is what is lost when one head is changed. An order that was found on a short sample need "
            "not be the order on a long one, so both are shown beside each other, and where they part is counted.",
        ]
        * 2
    ),
}

SENTENCES = {
    "V1": (
        "PPLは{V1.ppl_full:.2f} {V1.ppl_full_ci:.1f}で、{fig:baseline}と{tab:baseline}に示す。{setup.model.name}",
        "PPL is {V1.ppl_full:.2f} {V1.ppl_full_ci:.1f}; see {fig:baseline}, {tab:baseline}. {setup.model.name}",
    ),
    "V4": (
        "2Kでは{V4.thresholds_2k[1.1]}ヘッド、全体では{V4.thresholds_full[1.1]}ヘッド。$\\Delta = \\frac{a}{b}$",
        "{V4.thresholds_2k[1.1]} heads on 2K, {V4.thresholds_full[1.1]} on all. $\\Delta = \\frac{a}{b}$",
    ),
}
FIGURES = {
    "phases": ["zero_map", "rank_law", "layer_means", "curves", "methods", "flops"],
    "V1": ["baseline"],
    "V2": ["top_heads"],
    "V3": ["zero_and_mean"],
    "V4": ["ladder"],
    "P1": ["speed"],
    "P2": ["refinement", "degeneration"],
    "P3": ["best_of_n", "equal_n"],
    "P4": ["context"],
    "K": ["kernel_speed", "roofline"],
}
TITLES = {
    "phases": ("これまでのフェーズ", "The earlier phases"),
    "V1": ("V1: 全トークンのベースライン", "V1: Baseline on all tokens"),
    "V2": ("V2: 上位のヘッド", "V2: The top heads"),
    "V3": ("V3: 注目ヘッド", "V3: The focus head"),
    "V4": ("V4: 累積線形化", "V4: Cumulative linearization"),
    "V5": ("V5: 判定", "V5: Verdict"),
    "P1": ("P1: 生成速度", "P1: Generation speed"),
    "P2": ("P2: 自己改良", "P2: Self-refinement"),
    "P3": ("P3: best-of-N", "P3: Best-of-N"),
    "P4": ("P4: 文脈長", "P4: Context length"),
    "K": ("カーネル", "Kernels"),
    "setup": ("実験条件", "Experimental set-up"),
    "conclusions": ("結論", "Conclusions"),
}


def write_build(folder, monkeypatch, **options):
    """A profile's `notebooks/` and `results/` under `folder`, as the pipeline would leave them."""
    found = results(**options)
    charts_of = all_charts()
    build = folder
    (build / "results" / "data" / "sections").mkdir(parents=True)
    (build / "notebooks").mkdir()
    record = {
        "commit": "0123abc",
        "dirty": True,
        "profile": "synthetic",
        "seed": 1,
        "device": "cpu",
        "backend": "cpu",
        "machine": {"system": "Linux", "cores": 2},
        "versions": {"python": "3.11"},
        "times": {"started": "2026-01-02T03:04:05+00:00", "seconds": 1.5},
    }
    for name, data in found.items():
        parameters = {"prompt_tokens": 128, "new_tokens": 64} if name == "P3" else {}
        whole = {"section": name, "parameters": parameters, "data": data, "provenance": record}
        text = json.dumps(whole, ensure_ascii=False)
        (build / "results" / "data" / "sections" / f"{name}.json").write_text(text, encoding="utf-8")

    class Run:
        results, figures, slug, section = found, build / "results" / "figures", "tiny", "V1"

    shown = []
    monkeypatch.setattr(
        prose,
        "show",
        lambda bundle, metadata: shown.append(nbformat.v4.new_output("display_data", data=bundle, metadata=metadata)),
    )
    prose.bind(Run)

    def code(source, call=None, tags=()):
        shown.clear()
        if call:
            call()
        cell = nbformat.v4.new_code_cell(source, execution_count=1, outputs=list(shown))
        cell.metadata["tags"] = list(tags)
        return cell

    def text(lang, source, tags=()):
        cell = nbformat.v4.new_markdown_cell(source)
        cell.metadata["tags"] = [lang, *tags]
        return cell

    for name, (ja, en) in TITLES.items():
        Run.section = name
        cells = [
            text("ja", f"# {ja}\n\n{EXPLANATION['ja']}"),
            text("en", f"# {en}\n\n{EXPLANATION['en']}"),
            code(f'run = Run("{name}", globals())', tags=["parameters"]),
            code("run.finish(data)"),
        ]
        if name in SENTENCES:
            cells.append(code("say(...)", lambda name=name: prose.say(*SENTENCES[name])))
        for figure in FIGURES.get(name, []):
            cells.append(
                code(
                    f"figure({figure!r})",
                    lambda figure=figure: prose.figure(
                        figure,
                        charts_of[figure],
                        f"図の説明、{{n}}件、{figure}。",
                        f"What the figure {figure} shows, {{n}} of it.",
                        "図の代替テキスト",
                        "alternative text",
                        n=3,
                    ),
                )
            )
        if name == "V1":
            cells.append(
                code(
                    "table",
                    lambda: prose.table(
                        "baseline",
                        "段ごとのPPL。",
                        "PPL by step.",
                        [
                            ("n_linearized", "ヘッド数", "heads", "d"),
                            ("ppl", "PPL", "PPL", ".2f ci"),
                            ("ratio", "比", "ratio", ".3f"),
                        ],
                        "V4.cumulative",
                        published={"ppl": [24.0] * 12},
                    ),
                )
            )
        if name == "P2":
            cells.append(code("quote", lambda: prose.quote(found["P2"]["samples"][0]["text"])))
            cells.append(
                code(
                    "table",
                    lambda: prose.table(
                        "samples",
                        "生成例",
                        "Samples",
                        [("condition", "条件", "condition", ""), ("text", "文", "text", "")],
                        "P2.samples",
                    ),
                )
            )
        if name == "conclusions":
            summary = [
                code(
                    "say(...)",
                    lambda: prose.say(
                        "2Kの推定は**{V5.bias:term}**で、PPLは{V1.ppl_2k:.2f}から{V1.ppl_full:.2f}へ動く。",
                        "The 2K estimate is **{V5.bias:term}**: PPL moves from {V1.ppl_2k:.2f} to {V1.ppl_full:.2f}.",
                    ),
                    ["summary"],
                )
            ]
            cells += summary
        for i, cell in enumerate(cells):
            cell.id = f"cell-{i}"
        nbformat.write(nbformat.v4.new_notebook(cells=cells), build / "notebooks" / f"{name}.ipynb")
    return build


@cache
def hostile_report():
    """The folder of a build whose results hold hostile strings, with its report assembled; gone when Python ends."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)

    class Patch:
        setattr = staticmethod(setattr)

    show = prose.show
    write_build(folder, Patch, model_name=HOSTILE, sample=f"{HOSTILE}\n```{{=typst}}\n#panic()\n```\n")
    prose.show = show
    assemble(folder / "notebooks", folder / "results", folder / "report")
    return folder
