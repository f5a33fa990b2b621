"""The write-up's conclusions as rules on measured values: each one holds, fails, or can't be told here (open).

Every comparison is made with the 95 % interval of its figure: `holds` needs the whole interval on one side of the
limit, `fails` the whole interval on the other side, and anything between is `open`. A figure without an interval counts
as exact; a section that was not run leaves its claims open. No rule looks at a timing, so that verdicts are the same on
every run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from scipy.stats import binomtest

from lib.analysis.head_effects import spearman
from lib.results.query import lookup

HOLDS, FAILS, OPEN = "holds", "fails", "open"

SPEARMAN = 0.8
CONSTANT = 0.95
SHIFT = 10
OPTIMISTIC = 0.05
HARMLESS = 0.01
MAJORITY = 0.5
RANKABLE_SHARE = 0.1
REPEATED = 0.5
DEGENERATE_PPL = 2.0
STABLE = 1.1

Ends = tuple[float, float]
Finding = tuple[str, dict]


@dataclass(frozen=True)
class Claim:
    """A conclusion: `judge` maps a results dict to its verdict and the values that it was told by."""

    id: str
    sections: tuple[str, ...]
    judge: Callable[[Mapping], Finding]
    statement: Callable[[Mapping], tuple[str, str]]
    rule: tuple[str, str]


def evaluate(measured: Mapping) -> list[dict]:
    """`[{id, sections, verdict, evidence, statement: {ja, en}, rule: {ja, en}}]` for a results dict."""
    found = []
    for claim in CLAIMS:
        try:
            verdict, evidence = claim.judge(measured)
        except (KeyError, IndexError, TypeError, ZeroDivisionError):  # a section not run, or a figure that is null
            verdict, evidence = OPEN, {}
        ja, en = claim.statement(measured)
        found.append(
            {
                "id": claim.id,
                "sections": list(claim.sections),
                "verdict": verdict,
                "evidence": evidence,
                "statement": {"ja": ja, "en": en},
                "rule": {"ja": claim.rule[0], "en": claim.rule[1]},
            }
        )
    return found


def above(ends: Ends, limit: float) -> str:
    """Whether a figure known to lie within `ends` is above `limit`."""
    return HOLDS if ends[0] > limit else FAILS if ends[1] <= limit else OPEN


def at_most(ends: Ends, limit: float) -> str:
    """Whether a figure known to lie within `ends` is `limit` or less."""
    return HOLDS if ends[1] <= limit else FAILS if ends[0] > limit else OPEN


def less(a: Ends, b: Ends) -> str:
    """Whether one figure is below another, each known to lie within its ends."""
    return HOLDS if a[1] < b[0] else FAILS if a[0] >= b[1] else OPEN


def all_of(verdicts: Iterable[str]) -> str:
    """Fails where one fails, else open where one is open."""
    verdicts = list(verdicts)
    return FAILS if FAILS in verdicts else OPEN if OPEN in verdicts or not verdicts else HOLDS


def wilson(k: int, n: int) -> Ends:
    """Wilson's 95 % interval of the share k / n."""
    ends = binomtest(k, n).proportion_ci(method="wilson")
    return float(ends.low), float(ends.high)


def _ends(row: Mapping, key: str) -> Ends:
    """The interval of `row[key]`; the figure itself twice where none stands beside it; ±∞ for an end that is None."""
    pair = row.get(f"{key}_ci")
    return _pair(pair) if pair is not None else (row[key], row[key])


def _pair(pair) -> Ends:
    lo, hi = pair
    return (-math.inf if lo is None else lo, math.inf if hi is None else hi)


def _item(row: Mapping, key: str, i: int) -> Ends:
    pairs = row.get(f"{key}_ci")
    return _pair(pairs[i]) if pairs and pairs[i] is not None else (row[key][i], row[key][i])


def _shown(ends: Ends) -> list:
    return [end if math.isfinite(end) else None for end in ends]


def _condition(m: Mapping, section: str, which: int | None) -> Mapping:
    """A section's row: the baseline (None), or the first (0) or last (-1) of the linearized conditions."""
    name = "baseline" if which is None else f"relu_{m['setup']['relu_counts'][which]}"
    row = lookup(m, f"{section}.conditions[condition={name}]")
    if row is None:
        raise KeyError(name)
    return row


def _n(m: Mapping, which: int) -> int:
    return (lookup(m, "setup.relu_counts") or [30, 70])[which]


def _stable_ranking(m: Mapping) -> Finding:
    v2 = m["V2"]
    top = v2["top10"]
    leaders = sorted(top, key=lambda row: row["rank_2k"])[:5]
    first = at_most(_ends(leaders[0], "rank_full"), 1)
    five = all_of(at_most(_ends(row, "rank_full"), len(leaders)) for row in leaders)
    if "spearman" not in v2:
        v2 = v2 | {"spearman": spearman(*([row[f"delta_ppl_{span}"] for row in top] for span in ("2k", "full")))}
    alike = above(_ends(v2, "spearman"), SPEARMAN) if v2["spearman"] is not None else OPEN
    evidence = {
        "same_top": leaders[0]["rank_full"] == 1,
        "top5_same_set": all(row["rank_full"] <= len(leaders) for row in leaders),
        "spearman": v2["spearman"],
        "spearman_ci": v2.get("spearman_ci"),
        "limit": SPEARMAN,
    }
    return all_of([first, five, alike]), evidence


def _constant_bias(m: Mapping) -> Finding:
    v3 = m["V3"]
    share = v3["constant_share_full"]
    harm = above(_ends(v3, "zero_delta_ppl_full"), 0.0)
    known = "constant_share_full_ci" not in v3 or v3["constant_share_full_ci"] is not None
    kept = above(_ends(v3, "constant_share_full"), CONSTANT) if share is not None and known else OPEN
    evidence = {key: v3.get(key) for key in ("layer", "head", "constant_share_full", "constant_share_full_ci")}
    evidence |= {key: v3.get(key) for key in ("reduction_2k", "reduction_full", "reduction_full_ci")}
    return (kept if harm == HOLDS else OPEN), evidence | {"limit": CONSTANT}


def _thresholds(m: Mapping) -> Finding:
    v4 = m["V4"]
    shifts = {}
    for limit, n in v4["thresholds_full"].items():
        a = (v4.get("thresholds_2k_ci") or {}).get(limit) or [v4["thresholds_2k"][limit]] * 2
        b = (v4.get("thresholds_full_ci") or {}).get(limit) or [n] * 2
        shifts[limit] = max(0, a[0] - b[1], b[0] - a[1]), max(a[1] - b[0], b[1] - a[0])
    ends = max(lo for lo, _ in shifts.values()), max(hi for _, hi in shifts.values())
    shift = max(abs(n - v4["thresholds_2k"][limit]) for limit, n in v4["thresholds_full"].items())
    return at_most(ends, SHIFT), {"max_shift": shift, "max_shift_ci": list(ends), "limit": SHIFT}


def _optimistic(m: Mapping) -> Finding:
    average, change = m["V5"]["mean_diff_pct"] / 100, _ends(m["V1"], "change")
    if average > OPTIMISTIC:
        verdict = HOLDS if change[0] > 0 else OPEN
    else:
        verdict = FAILS if average < -OPTIMISTIC or change[1] < OPTIMISTIC else OPEN
    sampling = lookup(m, "V1.sampling.explained")
    evidence = {"mean_diff_pct": 100 * average, "change": m["V1"]["change"], "change_ci": m["V1"].get("change_ci")}
    return verdict, evidence | {"explained_by_sampling": sampling, "limit": OPTIMISTIC}


def _harmless(m: Mapping) -> Finding:
    relu, n_rankable = m["phases"]["relu"], m["setup"].get("n_rankable", 132)
    heads = relu.get("heads")
    if heads:
        ends = [_ends(row, "delta") for row in heads]
        sure = sum(lo > -HARMLESS and hi < HARMLESS for lo, hi in ends) / len(heads)
        possible = sum(lo < HARMLESS and hi > -HARMLESS for lo, hi in ends) / len(heads)
        under = sum(abs(row["delta"]) < HARMLESS for row in heads) / len(heads)
    else:
        sure = possible = under = relu["summary"]["under_1pct"] / n_rankable
    v4 = m["V4"]
    n = v4["thresholds_full"]["1.1"]
    reach = (v4.get("thresholds_full_ci") or {}).get("1.1") or [n, n]
    verdict = all_of([above((sure, possible), MAJORITY), above(reach, RANKABLE_SHARE * n_rankable)])
    evidence = {"share_under_1pct": under, "share_under_1pct_ci": [sure, possible], "threshold": n}
    return verdict, evidence | {"threshold_ci": list(reach), "n_rankable": n_rankable}


def _best_of_three(m: Mapping) -> Finding:
    phases = m["phases"]
    means = {mode: phases[mode]["summary"]["mean"] for mode in ("relu", "l1", "identity")}
    medians = {mode: phases[mode]["summary"]["median"] for mode in means}
    counts = phases["mix"]["counts"]
    total = sum(counts.values())
    share = wilson(counts["relu"], total)
    lowest = all(min(figures, key=figures.get) == "relu" for figures in (means, medians))
    verdict = all_of([above(share, MAJORITY), HOLDS if lowest else FAILS])
    evidence = {"best_for": counts["relu"], "of": total, "share_ci": list(share), "means": means, "medians": medians}
    return verdict, evidence


def _layer0(m: Mapping) -> Finding:
    zero = m["phases"]["zero"]
    heads = zero.get("heads") or []
    if len(heads) >= len(zero["layer_means"]) and all("delta_ci" in row for row in heads):
        sizes = [(row["layer"], abs(row["delta"]), *_size(_ends(row, "delta"))) for row in heads]
    else:
        sizes = [(layer, *[abs(mean)] * 3) for layer, mean in enumerate(zero["layer_means"])]
    value, lo, hi = ([sum(row[i] for row in sizes if (row[0] == 0) is own) for own in (True, False)] for i in (1, 2, 3))
    ends = lo[0] / (lo[0] + hi[1]), hi[0] / (hi[0] + lo[1])
    evidence = {"share": value[0] / sum(value), "share_ci": list(ends), "alpha": lookup(zero, "rank_law.alpha")}
    return above(ends, MAJORITY), evidence | {"limit": MAJORITY}


def _size(ends: Ends) -> Ends:
    return max(0.0, ends[0], -ends[1]), max(abs(ends[0]), abs(ends[1]))


def _degenerates(m: Mapping) -> Finding:
    verdicts, evidence = [], {"limit": REPEATED, "conditions": []}
    for row in m["P2"]["conditions"]:
        last = len(row["ppl"]) - 1
        falls = less(_item(row, "ppl", last), _item(row, "ppl", 0))
        repeated = row.get("repeated_4gram_share")
        if repeated is not None:
            repeats = above(_item(row, "repeated_4gram_share", last), REPEATED)
        else:
            repeats = HOLDS if _item(row, "ppl", last)[1] < DEGENERATE_PPL else OPEN
        verdicts.append(all_of([falls, repeats]))
        evidence["conditions"].append(
            {
                "condition": row["condition"],
                "first_ppl": row["ppl"][0],
                "last_ppl": row["ppl"][last],
                "repeated_4gram_share": repeated[last] if repeated is not None else None,
                "verdict": verdicts[-1],
            }
        )
    return all_of(verdicts), evidence


def _recovers(which: int) -> Callable[[Mapping], Finding]:
    def judge(m: Mapping) -> Finding:
        base, row = _condition(m, "P3", None), _condition(m, "P3", which)
        best, single = (_sampled(row, -1), _sampled(base, 0))
        evidence = {
            "n": m["P3"]["n"][-1],
            "best": best[0],
            "best_ci": _shown(best[1]),
            "baseline": single[0],
            "baseline_ci": _shown(single[1]),
        }
        paired = lookup(m, f"P3.against_baseline[condition={row['condition']}]")
        if paired and paired.get("difference_ci"):
            evidence |= {"difference": paired["difference"], "difference_ci": paired["difference_ci"]}
            return less(_ends(paired, "difference"), (0.0, 0.0)), evidence
        return less(best[1], single[1]), evidence

    return judge


def _sampled(row: Mapping, i: int) -> tuple[float, Ends]:
    if "expected" in row:
        return row["expected"][i], _item(row, "expected", i)
    return row["first_n"][i], (row["first_n"][i],) * 2


def _equal_flops(m: Mapping) -> Finding:
    rows = m["P3"]["equal_flops"]
    needed = m["P3"].get("new_tokens", 64)
    extras = [value for row in rows for key, value in row.items() if key.startswith("extra_") and value is not None]
    evidence = {
        "needed": needed,
        "most": max(extras),
        "extra_attention": {str(row["n_linearized"]): row["extra_attention"] for row in rows},
        "extra_model": {str(row["n_linearized"]): row.get("extra_model") for row in rows},
    }
    return (HOLDS if max(extras) < needed else FAILS), evidence


def _length_stable(m: Mapping) -> Finding:
    row = _condition(m, "P4", 0)
    if len(row["ratio"]) < 2:
        raise IndexError("one length")
    ends = [_item(row, "ratio", i) for i in range(len(row["ratio"]))]
    spread = max(row["ratio"]) / min(row["ratio"])
    bounds = (
        max(1.0, max(lo for lo, _ in ends) / min(hi for _, hi in ends)),
        max(h for _, h in ends) / min(lo for lo, _ in ends),
    )
    evidence = {"lowest": min(row["ratio"]), "highest": max(row["ratio"]), "spread": spread, "spread_ci": list(bounds)}
    return at_most(bounds, STABLE), evidence | {"limit": STABLE}


def _long_helps(m: Mapping) -> Finding:
    row = _condition(m, "P4", -1)
    if len(row["ratio"]) < 2:
        raise IndexError("one length")
    shortest, longest = _item(row, "ratio", 0), _item(row, "ratio", -1)
    evidence = {"shortest": row["ratio"][0], "shortest_ci": _shown(shortest)}
    return less(longest, shortest), evidence | {"longest": row["ratio"][-1], "longest_ci": _shown(longest)}


def _rise(m: Mapping) -> Finding:
    name = _condition(m, "P4", -1)["condition"]
    row = lookup(m, f"P4.rise_at_longest[condition={name}]")
    return above(_pair(row["difference_ci"]), 0.0), {key: row[key] for key in ("difference", "difference_ci")}


def _hypothesis(m: Mapping) -> Finding:
    parts = {
        "relu_nearly_harmless": _harmless,
        "refinement_degenerates": _degenerates,
        "equal_flops_insufficient": _equal_flops,
    }
    verdicts = {name: judge(m)[0] for name, judge in parts.items()}
    return all_of(verdicts.values()), verdicts


def _fixed(ja: str, en: str) -> Callable[[Mapping], tuple[str, str]]:
    return lambda m: (ja, en)


def _focus(m: Mapping) -> str:
    return f"L{lookup(m, 'V3.layer') or 0}H{lookup(m, 'V3.head') or 0}" if "V3" in m else "L0H8"


_BEST_OF = (
    "最大のNでの期待PPLがベースラインのN=1を下回ること。プロンプトを揃えた差の信頼区間、なければ二つの信頼区間で見る。",
    "The expected PPL at the largest N is below the baseline's at N = 1, by the interval of the difference over the "
    "same prompts, or by both intervals where that is not at hand.",
)

CLAIMS = (
    Claim(
        "stable_ranking",
        ("V2",),
        _stable_ranking,
        _fixed(
            "どのヘッドが重要かは、先頭の2Kトークンだけでも見分けられる。",
            "Which heads matter can already be told from the first 2K tokens.",
        ),
        (
            "2Kで1位のヘッドが全トークンでも1位にあり、2Kの上位5個が全トークンでも上位5個に収まり、"
            f"スピアマン順位相関が{SPEARMAN}を上回ること。順位も相関も信頼区間の全体で見る。",
            "The 2K leader leads on all tokens, the 2K five lie within the first five, and Spearman's correlation is "
            f"above {SPEARMAN}; ranks and correlation with their whole intervals.",
        ),
    ),
    Claim(
        "constant_bias",
        ("V3",),
        _constant_bias,
        lambda m: (
            f"{_focus(m)}の働きは、ほぼすべてが入力に依らない定常バイアスである。",
            f"Nearly all that {_focus(m)} does is a constant bias that does not depend on the input.",
        ),
        (
            f"平均置換がゼロ置換の害の{CONSTANT:.0%}より多くを打ち消すこと（信頼区間の下端で判定する）。"
            "ゼロ置換そのものに害が認められなければ判定しない。",
            f"Mean-ablation undoes more than {CONSTANT:.0%} of the harm of zero-ablation, by the lower end of the "
            "interval; open where zero-ablation does no certain harm.",
        ),
    ),
    Claim(
        "thresholds_within_ten",
        ("V4", "V5"),
        _thresholds,
        _fixed(
            "2Kで得た閾値は、全トークンで測り直しても大きくは動かない。",
            "The thresholds found on 2K move little when all tokens are scored.",
        ),
        (
            f"三つの閾値がいずれも{SHIFT}ヘッド以内の移動にとどまること。"
            "両側の信頼区間が許す最大の移動まで収まれば成立、最小の移動でも超えれば不成立とする。",
            f"No threshold moves by more than {SHIFT} heads: holds when the largest move that both intervals allow "
            "stays within, fails when the smallest does not.",
        ),
    ),
    Claim(
        "quick_optimistic",
        ("V1", "V5"),
        _optimistic,
        _fixed("2Kトークンでの推定は楽観的である。", "The estimate from 2K tokens is optimistic."),
        (
            f"比べた値すべての差の平均が+{OPTIMISTIC:.0%}を超え、ベースラインPPLの変化も信頼区間ごと0より大きいこと。",
            f"The average difference of all figures is over +{OPTIMISTIC:.0%}, and the baseline PPL's change is "
            "above 0 with its whole interval.",
        ),
    ),
    Claim(
        "layer0_concentration",
        ("phases",),
        _layer0,
        _fixed("ゼロ置換の影響は層0に集中する。", "The effect of zero-ablation is concentrated in layer 0."),
        (
            f"層0のヘッドの|ΔPPL|が、全ヘッドの|ΔPPL|の和の{MAJORITY:.0%}を超えること。各ヘッドの信頼区間の端を足して判定する。",
            f"Layer 0's heads carry more than {MAJORITY:.0%} of the sum of all heads' |ΔPPL|, with the ends of all "
            "heads' intervals added up.",
        ),
    ),
    Claim(
        "relu_nearly_harmless",
        ("phases", "V4"),
        _harmless,
        _fixed(
            "多くのヘッドでは、softmaxをReLUに替えてもほとんど害がない。",
            "For many heads, ReLU in place of softmax does almost no harm.",
        ),
        (
            f"単独で替えたときの|ΔPPL|が{HARMLESS:.0%}未満のヘッドが半数を超え、PPLを1.1倍以内に保って同時に替えられる数が"
            f"対象ヘッドの{RANKABLE_SHARE:.0%}を超えること。",
            f"More than half of the heads, linearized alone, have |ΔPPL| under {HARMLESS:.0%}, and more than "
            f"{RANKABLE_SHARE:.0%} of the heads can be linearized together within 1.1 times the PPL.",
        ),
    ),
    Claim(
        "relu_best",
        ("phases",),
        _best_of_three,
        _fixed(
            "三つの線形化のうち、ReLUが最も害が少ない。",
            "Of the three ways to linearize, ReLU does the least harm.",
        ),
        (
            "ReLUのΔPPLが平均でも中央値でも最小で、過半数のヘッドで最良であること（割合はウィルソンの95 %信頼区間）。",
            "ReLU's ΔPPL is the lowest in mean and median, and it is the best for most heads (Wilson's 95 % interval).",
        ),
    ),
    Claim(
        "refinement_degenerates",
        ("P2",),
        _degenerates,
        _fixed(
            "自己改良で下がるPPLは改善ではなく、繰り返しへの退化である。",
            "The falling PPL of self-refinement is degeneration into repetition, not improvement.",
        ),
        (
            f"どの条件でもPPLが最初の回より下がり、最後の回では4-gramの{REPEATED:.0%}超が既出であること。"
            f"反復を測っていなければ、最後のPPLが{DEGENERATE_PPL:g}未満であることを代わりに見る。",
            f"In every condition PPL falls from the first iteration to the last, where over {REPEATED:.0%} of the "
            f"4-grams occurred before; where that was not measured, a last PPL below {DEGENERATE_PPL:g} stands for it.",
        ),
    ),
    Claim(
        "best_of_n_recovers",
        ("P3",),
        _recovers(0),
        lambda m: (
            f"{_n(m, 0)}ヘッドをReLU線形化しても、best-of-Nで選べばベースラインの1回の生成を上回る。",
            f"With {_n(m, 0)} ReLU heads, best-of-N beats a single text of the baseline.",
        ),
        _BEST_OF,
    ),
    Claim(
        "best_of_n_recovers_more",
        ("P3",),
        _recovers(-1),
        lambda m: (
            f"{_n(m, -1)}ヘッドをReLU線形化しても、best-of-Nで選べばベースラインの1回の生成を上回る。",
            f"With {_n(m, -1)} ReLU heads, best-of-N still beats a single text of the baseline.",
        ),
        _BEST_OF,
    ),
    Claim(
        "equal_flops_insufficient",
        ("P3",),
        _equal_flops,
        _fixed(
            "浮いたFLOPsでは、候補をもう一つ生成するには足りない。",
            "The FLOPs saved do not pay for one more candidate.",
        ),
        (
            "attentionだけの計算でもモデル全体の計算でも、追加で生成できるトークン数が候補一つの長さに満たないこと。",
            "By the count of attention alone and by that of the whole model, the extra tokens are fewer than one "
            "candidate has.",
        ),
    ),
    Claim(
        "context_stable",
        ("P4",),
        _length_stable,
        lambda m: (
            f"{_n(m, 0)}ヘッドをReLU線形化したときの劣化は、文脈長にほとんど依らない。",
            f"The loss from {_n(m, 0)} ReLU heads hardly depends on the context length.",
        ),
        (
            f"文脈長ごとのPPL比の最大と最小の比が{STABLE:g}以下であること。",
            f"The largest of the PPL ratios at the context lengths is at most {STABLE:g} times the smallest.",
        ),
    ),
    Claim(
        "long_context_helps",
        ("P4",),
        _long_helps,
        lambda m: (
            f"{_n(m, -1)}ヘッドをReLU線形化したときの劣化は、長い文脈では和らぐ。",
            f"The loss from {_n(m, -1)} ReLU heads is milder in long contexts.",
        ),
        (
            "最長の文脈でのPPL比が最短での比を下回ること。",
            "The PPL ratio at the longest context is below the one at the shortest.",
        ),
    ),
    Claim(
        "rise_at_longest",
        ("P4",),
        _rise,
        lambda m: (
            f"{_n(m, -1)}ヘッドのPPL比は、最長の文脈で再び上がる。",
            f"The PPL ratio of {_n(m, -1)} heads rises again at the longest context.",
        ),
        (
            "最長での比から一つ手前での比を引いた差が、信頼区間ごと0より大きいこと。0をまたぐならノイズと区別できない。",
            "The ratio at the longest minus the one before is above 0 with its whole interval; an interval around 0 "
            "cannot be told from noise.",
        ),
    ),
    Claim(
        "hypothesis_5",
        ("phases", "V4", "P2", "P3"),
        _hypothesis,
        _fixed(
            "仮説5は部分的に棄却される。attentionの精密さは下げられるが、浮いた計算で品質は買い戻せない。",
            "Hypothesis 5 is rejected in part: attention can be made coarser, but the computation saved does not buy "
            "the quality back.",
        ),
        (
            "「ReLUはほとんど無害」「自己改良は退化」「等FLOPsでは不足」の三つがすべて成り立つこと。",
            "All three hold: ReLU is nearly harmless, self-refinement degenerates, equal FLOPs do not suffice.",
        ),
    ),
)
IDS = tuple(claim.id for claim in CLAIMS)
