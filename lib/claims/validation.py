"""The conclusions of Part V and of the phases before it."""

from __future__ import annotations

from typing import Any

from lib.claims.judging import (
    FAILS,
    HOLDS,
    OPEN,
    Claim,
    Ends,
    Finding,
    Limits,
    Words,
    above,
    all_of,
    at_most,
    ends,
    wilson,
)
from lib.results.sections import Results


def _stable_ranking(m: Results, limits: Limits) -> Finding:
    v2 = m["V2"]
    top = v2["top10"]
    leaders = sorted(top, key=lambda row: row["rank_2k"])[:5]
    first = at_most(ends(leaders[0]["rank_full_ci"]), 1)
    five = all_of(at_most(ends(row["rank_full_ci"]), len(leaders)) for row in leaders)
    alike = above(ends(v2["spearman_ci"]), limits["spearman"])
    evidence = {
        "same_top": leaders[0]["rank_full"] == 1,
        "top5_same_set": all(row["rank_full"] <= len(leaders) for row in leaders),
        "spearman": v2["spearman"],
        "spearman_ci": v2["spearman_ci"],
        "limit": limits["spearman"],
    }
    return all_of([first, five, alike]), evidence


def _constant_bias(m: Results, limits: Limits) -> Finding:
    v3 = m["V3"]
    harm = above(ends(v3["zero_delta_ppl_full_ci"]), 0.0)
    kept = above(ends(v3["constant_share_full_ci"]), limits["share"])
    evidence = {
        "layer": v3["layer"],
        "head": v3["head"],
        "constant_share_full": v3["constant_share_full"],
        "constant_share_full_ci": v3["constant_share_full_ci"],
        "reduction_2k": v3["reduction_2k"],
        "reduction_full": v3["reduction_full"],
        "reduction_full_ci": v3["reduction_full_ci"],
        "limit": limits["share"],
    }
    return (kept if harm == HOLDS else OPEN), evidence


def _thresholds(m: Results, limits: Limits) -> Finding:
    v4 = m["V4"]
    moves = []
    for limit in v4["thresholds_full"]:
        quick, full = ends(v4["thresholds_2k_ci"][limit]), ends(v4["thresholds_full_ci"][limit])
        moves.append((max(0, quick[0] - full[1], full[0] - quick[1]), max(quick[1] - full[0], full[1] - quick[0])))
    bounds = max(low for low, _ in moves), max(high for _, high in moves)
    shift = max(abs(n - v4["thresholds_2k"][limit]) for limit, n in v4["thresholds_full"].items())
    return at_most(bounds, limits["heads"]), {
        "max_shift": shift,
        "max_shift_ci": list(bounds),
        "limit": limits["heads"],
    }


def _optimistic(m: Results, limits: Limits) -> Finding:
    average, limit = m["V5"]["mean_diff_pct"] / 100, limits["average"]
    low, high = ends(m["V1"]["change_ci"])
    below = FAILS if average < -limit or high < limit else OPEN
    verdict = (HOLDS if low > 0 else OPEN) if average > limit else below
    return verdict, {
        "mean_diff_pct": 100 * average,
        "change": m["V1"]["change"],
        "change_ci": m["V1"]["change_ci"],
        "explained_by_sampling": m["V1"]["sampling"]["explained"],
        "limit": limit,
    }


def harmless(m: Results, limits: Limits) -> Finding:
    heads, n_rankable, small = m["phases"]["relu"]["heads"], m["setup"]["n_rankable"], limits["harmless"]
    intervals = [ends(row["delta_ci"]) for row in heads]
    sure = sum(low > -small and high < small for low, high in intervals) / len(heads)
    possible = sum(low < small and high > -small for low, high in intervals) / len(heads)
    under = sum(abs(row["delta"]) < small for row in heads) / len(heads)
    v4 = m["V4"]
    reach = v4["thresholds_full_ci"]["1.1"]
    verdict = all_of([above((sure, possible), limits["majority"]), above(ends(reach), limits["reach"] * n_rankable)])
    return verdict, {
        "share_under_1pct": under,
        "share_under_1pct_ci": [sure, possible],
        "threshold": v4["thresholds_full"]["1.1"],
        "threshold_ci": list(reach),
        "n_rankable": n_rankable,
    }


def _best_of_three(m: Results, limits: Limits) -> Finding:
    phases = m["phases"]
    summaries = {mode: phases[mode]["summary"] for mode in ("relu", "l1", "identity")}
    means = {mode: summary["mean"] for mode, summary in summaries.items()}
    medians = {mode: summary["median"] for mode, summary in summaries.items()}
    counts = phases["mix"]["counts"]
    total = counts["relu"] + counts["l1"] + counts["identity"]
    share = wilson(counts["relu"], total)
    lowest = all(min(figures, key=lambda mode: figures[mode]) == "relu" for figures in (means, medians))
    return all_of([above(share, limits["majority"]), HOLDS if lowest else FAILS]), {
        "best_for": counts["relu"],
        "of": total,
        "share_ci": list(share),
        "means": means,
        "medians": medians,
    }


def _layer0(m: Results, limits: Limits) -> Finding:
    zero = m["phases"]["zero"]
    sizes = [(row["layer"] == 0, abs(row["delta"]), *_size(ends(row["delta_ci"]))) for row in zero["heads"]]
    own, others = ([[size[i] for size in sizes if size[0] is first] for i in (1, 2, 3)] for first in (True, False))
    value, low, high = ([sum(own[i]), sum(others[i])] for i in range(3))
    bounds = low[0] / (low[0] + high[1]), high[0] / (high[0] + low[1])
    evidence: dict[str, Any] = {"share": value[0] / sum(value), "share_ci": list(bounds)}
    evidence |= {"alpha": zero["rank_law"]["alpha"], "limit": limits["majority"]}
    return above(bounds, limits["majority"]), evidence


def _size(pair: Ends) -> Ends:
    return max(0.0, pair[0], -pair[1]), max(abs(pair[0]), abs(pair[1]))


def _said(ja: str, en: str) -> Any:
    return lambda m: (ja, en)


def _bias(m: Results) -> Words:
    ja, en = ("注目ヘッド", "the focus head")
    if "V3" in m:
        ja = en = f"L{m['V3']['layer']}H{m['V3']['head']}"
    return (
        f"{ja}の働きは、ほぼすべてが入力に依らない定常バイアスである。",
        f"Nearly all that {en} does is a constant bias that does not depend on the input.",
    )


CLAIMS = (
    Claim(
        "stable_ranking",
        ("V2",),
        _stable_ranking,
        _said(
            "どのヘッドが重要かは、先頭の2Kトークンだけでも見分けられる。",
            "Which heads matter can already be told from the first 2K tokens.",
        ),
        (
            "2Kで1位のヘッドが全トークンでも1位にあり、2Kの上位5個が全トークンでも上位5個に収まり、"
            "スピアマン順位相関が{spearman}を上回ること。順位も相関も信頼区間の全体で見る。",
            "The 2K leader leads on all tokens, the 2K five lie within the first five, and Spearman's correlation is "
            "above {spearman}; ranks and correlation with their whole intervals.",
        ),
        ("V2「ランキングは安定」", "V2, “the ranking is stable”"),
        {"spearman": 0.8},
        others={"spearman": (0.6, 0.9)},
        limit_set="after",
    ),
    Claim(
        "constant_bias",
        ("V3",),
        _constant_bias,
        _bias,
        (
            "平均置換がゼロ置換の害の{share:.0%}より多くを打ち消すこと（信頼区間の下端で判定する）。"
            "ゼロ置換そのものに害が認められなければ判定しない。",
            "Mean-ablation undoes more than {share:.0%} of the harm of zero-ablation, by the lower end of the "
            "interval; open where zero-ablation does no certain harm.",
        ),
        ("V3、最終結論の表", "V3 and the final table"),
        {"share": 0.95},
        others={"share": (0.9, 0.99)},
        limit_set="after",
    ),
    Claim(
        "thresholds_within_ten",
        ("V4",),
        _thresholds,
        _said(
            "2Kで得た閾値は、全トークンで測り直しても大きくは動かない。",
            "The thresholds found on 2K move little when all tokens are scored.",
        ),
        (
            "三つの閾値がいずれも{heads}ヘッド以内の移動にとどまること。"
            "両側の信頼区間が許す最大の移動まで収まれば成立、最小の移動でも超えれば不成立とする。",
            "No threshold moves by more than {heads} heads: holds when the largest move that both intervals allow "
            "stays within, fails when the smallest does not.",
        ),
        ("V5「全閾値変化 ≤ 10ヘッド」", "V5, “all thresholds move by ≤ 10 heads”"),
        {"heads": 10},
        others={"heads": (5, 20)},
        limit_set="published",
    ),
    Claim(
        "quick_optimistic",
        ("V1", "V5"),
        _optimistic,
        _said("2Kトークンでの推定は楽観的である。", "The estimate from 2K tokens is optimistic."),
        (
            "比べた値すべての差の平均が+{average:.0%}を超え、ベースラインPPLの変化も信頼区間ごと0より大きいこと。",
            "The average difference of all figures is over +{average:.0%}, and the baseline PPL's change is "
            "above 0 with its whole interval.",
        ),
        ("主要結論、V5「バイアス方向」", "the main conclusions and V5, “direction of the bias”"),
        {"average": 0.05},
        others={"average": (0.02, 0.1)},
        limit_set="after",
    ),
    Claim(
        "layer0_concentration",
        ("phases",),
        _layer0,
        _said(
            "ゼロ置換の影響は層0に集中する。",
            "The effect of zero-ablation is concentrated in layer 0.",
        ),
        (
            "層0のヘッドの|ΔPPL|が、全ヘッドの|ΔPPL|の和の{majority:.0%}を超えること。各ヘッドの信頼区間の端を足して判定する。",
            "Layer 0's heads carry more than {majority:.0%} of the sum of all heads' |ΔPPL|, with the ends of all "
            "heads' intervals added up.",
        ),
        ("フェーズ1", "Phase 1"),
        {"majority": 0.5},
        others={"majority": (0.25, 0.75)},
        limit_set="after",
    ),
    Claim(
        "relu_nearly_harmless",
        ("setup", "phases", "V4"),
        harmless,
        _said(
            "多くのヘッドでは、softmaxをReLUに替えてもほとんど害がない。",
            "For many heads, ReLU in place of softmax does almost no harm.",
        ),
        (
            "単独で替えたときの|ΔPPL|が{harmless:.0%}未満のヘッドが{majority:.0%}を超え、PPLを1.1倍以内に保って同時に"
            "替えられる数が対象ヘッドの{reach:.0%}を超えること。",
            "More than {majority:.0%} of the heads, linearized alone, have |ΔPPL| under {harmless:.0%}, and more than "
            "{reach:.0%} of the heads can be linearized together within 1.1 times the PPL.",
        ),
        ("V5、最終結論の理由1", "V5 and the first reason of the final conclusion"),
        {"harmless": 0.01, "majority": 0.5, "reach": 0.1},
        others={"harmless": (0.005, 0.02), "reach": (0.05, 0.2)},
        limit_set="after",
    ),
    Claim(
        "relu_best",
        ("phases",),
        _best_of_three,
        _said(
            "三つの線形化のうち、ReLUが最も害が少ない。",
            "Of the three ways to linearize, ReLU does the least harm.",
        ),
        (
            "ReLUのΔPPLが平均でも中央値でも最小で、最良となるヘッドの割合が{majority:.0%}を超えること"
            "（割合はウィルソンの95 %信頼区間）。",
            "ReLU's ΔPPL is the lowest in mean and median, and it is the best for more than {majority:.0%} of the "
            "heads (Wilson's 95 % interval).",
        ),
        ("フェーズ2", "Phase 2"),
        {"majority": 0.5},
        others={"majority": (0.4, 0.6)},
        limit_set="after",
    ),
)
