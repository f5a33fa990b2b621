"""The conclusions of Part V and of the phases before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from lib.claims.judging import (
    FAILS,
    HOLDS,
    OPEN,
    Claim,
    Ends,
    Finding,
    Judge,
    Limits,
    Row,
    Words,
    above,
    all_of,
    at_most,
    ends,
    less,
    shown,
    wilson,
)
from lib.results.sections import Results
from lib.results.sections.validation import V4


def _stable_ranking(m: Results, limits: Limits) -> Finding:
    v2 = m["V2"]
    top = v2["top10"]
    leaders = sorted(top, key=lambda row: row["rank_2k"])[:5]
    first = at_most(ends(leaders[0]["rank_all_ci"]), 1)
    five = all_of(at_most(ends(row["rank_all_ci"]), len(leaders)) for row in leaders)
    alike = above(ends(v2["spearman_ci"]), limits["spearman"])
    evidence = {
        "same_top": leaders[0]["rank_all"] == 1,
        "top5_same_set": all(row["rank_all"] <= len(leaders) for row in leaders),
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
    found: Any = m["V4"]["cross_fit"] or m["V4"]
    moves = [(max(0.0, low, -high), max(high, -low)) for low, high in map(ends, found["shifts_ci"].values())]
    bounds = max(low for low, _ in moves), max(high for _, high in moves)
    return at_most(bounds, limits["heads"]), {
        "max_shift": max(map(abs, found["shifts"].values())),
        "max_shift_ci": shown(bounds),
        "limit": limits["heads"],
    }


def _crossing(v4: V4, limit: str) -> Ends:
    """Where a limit is crossed on other text: with the choice of the ranking where that was cross-fitted."""
    fitted = v4["cross_fit"]
    return ends((v4["crossings_full_ci"] if fitted is None else fitted["crossings_ci"])[limit])


def _optimistic(m: Results, limits: Limits) -> Finding:
    v5, fitted, limit = m["V5"], m["V4"]["cross_fit"], limits["average"]
    n, selection = _at_condition(m, [] if fitted is None else fitted["optimism"])
    gap = None if selection is None else selection["excess_ci"]
    average, median = v5["mean_diff_pct"] / 100, v5["median_diff_pct"] / 100
    sizes = all_of(HOLDS if figure > limit else FAILS if figure < -limit else OPEN for figure in (average, median))
    return all_of([sizes, less(ends(gap), (0.0, 0.0))]), {
        "mean_diff_pct": v5["mean_diff_pct"],
        "median_diff_pct": v5["median_diff_pct"],
        "n_linearized": n,
        "selection": None if selection is None else selection["excess"],
        "selection_ci": gap,
        "change": m["V1"]["change"],
        "change_ci": m["V1"]["change_ci"],
        "explained_by_sampling": m["V1"]["sampling"]["explained"],
        "limit": limit,
    }


def _at_condition(m: Results, rows: Sequence[Row]) -> tuple[int | None, Row | None]:
    """The row of the largest measured number of heads that is no more than the first condition's, and that number."""
    row = max((row for row in rows if row["n"] <= m["setup"]["relu_counts"][0]), key=lambda row: row["n"], default=None)
    return (None, None) if row is None else (row["n"], row)


def harmless(m: Results, limits: Limits) -> Finding:
    heads, n_rankable, small = m["phases"]["relu"]["heads"], m["setup"]["n_rankable"], limits["harmless"]
    intervals = [ends(row["delta_ci"]) for row in heads]
    sure = sum(low > -small and high < small for low, high in intervals) / len(heads)
    possible = sum(low < small and high > -small for low, high in intervals) / len(heads)
    under = sum(abs(row["delta"]) < small for row in heads) / len(heads)
    v4 = m["V4"]
    reach = _crossing(v4, "1.1")
    controls = [] if v4["controls"] is None else v4["controls"]["rows"]
    frozen = next((row["against_relu"] for row in controls if row["control"] == "mean"), [])
    n, gap = _at_condition(m, frozen)
    better = less(ends(None if gap is None else gap["difference_ci"]), (0.0, 0.0))
    verdict = all_of([above((sure, possible), limits["majority"]), above(reach, limits["reach"] * n_rankable), better])
    return verdict, {
        "share_under_1pct": under,
        "share_under_1pct_ci": [sure, possible],
        "threshold": v4["crossings_full"]["1.1"],
        "threshold_ci": shown(reach),
        "n_rankable": n_rankable,
        "n_linearized": n,
        "against_freezing": None if gap is None else gap["difference"],
        "against_freezing_ci": None if gap is None else gap["difference_ci"],
    }


def _best_of_three(m: Results, limits: Limits) -> Finding:
    phases = m["phases"]
    counts = phases["mix"]["counts"]
    total = counts["relu"] + counts["l1"] + counts["identity"]
    share = wilson(counts["relu"], total)
    against = {"l1": phases["paired"]["l1"], "identity": phases["paired"]["identity"]}
    gaps = [ends(row[key]) for row in against.values() for key in ("mean_ci", "median_ci")]
    return all_of([above(share, limits["majority"]), *(less(gap, (0.0, 0.0)) for gap in gaps)]), {
        "best_for": counts["relu"],
        "of": total,
        "share_ci": list(share),
        "against_l1": against["l1"]["mean"],
        "against_l1_ci": against["l1"]["mean_ci"],
        "against_identity": against["identity"]["mean"],
        "against_identity_ci": against["identity"]["mean_ci"],
    }


def _layer0(m: Results, limits: Limits) -> Finding:
    phases = m["phases"]
    return above(ends(phases["layer0_share_ci"]), limits["majority"]), {
        "share": phases["layer0_share"],
        "share_ci": phases["layer0_share_ci"],
        "alpha": phases["zero"]["rank_law"]["alpha"],
        "alpha_ci": phases["alpha_ci"],
        "limit": limits["majority"],
    }


def _unequal(m: Results, limits: Limits) -> Finding:
    phases = m["phases"]
    return above(ends(phases["alpha_ci"]), limits["alpha"]), {
        "alpha": phases["zero"]["rank_law"]["alpha"],
        "alpha_ci": phases["alpha_ci"],
        "limit": limits["alpha"],
    }


def _strengthened(m: Results, limits: Limits) -> Finding:
    v3 = m["V3"]
    return above(ends(v3["constant_share_change_ci"]), 0.0), {
        "constant_share_change": v3["constant_share_change"],
        "constant_share_change_ci": v3["constant_share_change_ci"],
        "reduction_2k": v3["reduction_2k"],
        "reduction_2k_ci": v3["reduction_2k_ci"],
        "reduction_full": v3["reduction_full"],
        "reduction_full_ci": v3["reduction_full_ci"],
    }


def _many_tokens(m: Results, limits: Limits) -> Finding:
    row = m["V1"]["coverage"][0]
    share = wilson(round(row["covered"] * row["n_disjoint"]), row["n_disjoint"])
    enough = m["V1"]["total_tokens"] >= limits["tokens"]
    verdict = FAILS if share[0] >= limits["covered"] else HOLDS if share[1] < limits["covered"] and enough else OPEN
    return verdict, {
        "covered": row["covered"],
        "covered_ci": list(share),
        "n_disjoint": row["n_disjoint"],
        "total_tokens": m["V1"]["total_tokens"],
        "limit": limits["covered"],
    }


def _by_chunk(judge: Judge, section: Literal["V2", "V3", "V4"]) -> Judge:
    """The same with each chunk as a unit of its own, as the intervals of the published kind have it."""

    def judged(m: Results, limits: Limits) -> Finding:
        data: Any = m[section]
        own = dict(data["by_chunk"])
        if section == "V2":
            places = own.pop("rank_all_ci")
            own["top10"] = [row | {"rank_all_ci": pair} for row, pair in zip(data["top10"], places, strict=True)]
        if section == "V4":
            own["cross_fit"] = None
        changed: Any = {section: data | own}
        return judge(m | changed, limits)

    return judged


def _ranking_fixed(judge: Judge) -> Judge:
    """The same without what the choice of the ranking adds to the thresholds' intervals."""

    def judged(m: Results, limits: Limits) -> Finding:
        changed: Any = {"V4": m["V4"] | {"cross_fit": None}}
        return judge(m | changed, limits)

    return judged


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
            "スピアマン順位相関が{spearman}を上回ること。順位には2Kが見落としたヘッドも入れ、順位も相関も信頼区間の全体で見る。",
            "The 2K leader leads on all tokens and the 2K five lie within the first five, heads that the 2K missed "
            "included, and Spearman's correlation is above {spearman}: ranks and correlation with their whole "
            "intervals.",
        ),
        ("V2「ランキングは安定」", "V2, “the ranking is stable”"),
        {"spearman": 0.8},
        others={"spearman": (0.6, 0.9)},
        limit_set="after",
        variants={"chunks as units": _by_chunk(_stable_ranking, "V2")},
    ),
    Claim(
        "constant_bias",
        ("V3",),
        _constant_bias,
        _bias,
        (
            "平均置換がゼロ置換による劣化の{share:.0%}より多くを打ち消すこと（信頼区間の下端で判定する）。"
            "ゼロ置換そのもので劣化するといえなければ判定しない。",
            "Mean-ablation undoes more than {share:.0%} of the harm of zero-ablation, by the lower end of the "
            "interval; open where zero-ablation does no certain harm.",
        ),
        ("V3、最終結論の表", "V3 and the final table"),
        {"share": 0.95},
        others={"share": (0.9, 0.99)},
        limit_set="after",
        variants={"chunks as units": _by_chunk(_constant_bias, "V3")},
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
            "補間した三つの閾値がいずれも{heads}ヘッド以内の移動にとどまること。移動そのものの信頼区間で判定し、"
            "区間は順位の選び方まで含む。",
            "No interpolated threshold moves by more than {heads} heads, by the interval of the move itself, which "
            "includes the choice of the ranking.",
        ),
        ("V5「全閾値変化 ≤ 10ヘッド」", "V5, “all thresholds move by ≤ 10 heads”"),
        {"heads": 10},
        others={"heads": (5, 20)},
        limit_set="published",
        variants={
            "ranking held fixed": _ranking_fixed(_thresholds),
            "ranking held fixed, chunks as units": _by_chunk(_thresholds, "V4"),
        },
    ),
    Claim(
        "quick_optimistic",
        ("setup", "V1", "V4", "V5"),
        _optimistic,
        _said("2Kトークンでの推定は楽観的である。", "The estimate from 2K tokens is optimistic."),
        (
            "比べた値すべての差の平均も中央値も+{average:.0%}を超え、かつ順位を選んだテキストの上でPPL比が低く出る分が、"
            "交差適合で信頼区間ごと0より小さいこと。",
            "The mean and the median difference of all figures are over +{average:.0%}, and cross-fitting finds PPL "
            "ratios lower on the text that the ranking was made on, with the whole interval.",
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
            "層0のヘッドの|ΔPPL|が、全ヘッドの|ΔPPL|の和の{majority:.0%}を超えること（割合そのものの信頼区間で判定する）。",
            "Layer 0's heads carry more than {majority:.0%} of the sum of all heads' |ΔPPL|, by the interval of that "
            "share itself.",
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
            "多くのヘッドでは、softmaxをReLUに替えてもほとんど劣化しない。",
            "For many heads, ReLU in place of softmax does almost no harm.",
        ),
        (
            "単独で替えたときの|ΔPPL|が{harmless:.0%}未満のヘッドが{majority:.0%}を超え、PPLを1.1倍以内に保って同時に"
            "替えられる数が対象ヘッドの{reach:.0%}を超え、しかも同じヘッドを平均に固定するより劣化が小さいこと"
            "（対にした差の信頼区間で判定する）。",
            "More than {majority:.0%} of the heads, linearized alone, have |ΔPPL| under {harmless:.0%}; more than "
            "{reach:.0%} of the heads can be linearized together within 1.1 times the PPL; and ReLU does less harm to "
            "the same heads than fixing them at their mean, by the interval of the paired difference.",
        ),
        ("V5、最終結論の理由1", "V5 and the first reason of the final conclusion"),
        {"harmless": 0.01, "majority": 0.5, "reach": 0.1},
        others={"harmless": (0.005, 0.02), "reach": (0.05, 0.2)},
        limit_set="after",
        variants={
            "ranking held fixed": _ranking_fixed(harmless),
            "ranking held fixed, chunks as units": _by_chunk(harmless, "V4"),
        },
    ),
    Claim(
        "relu_best",
        ("phases",),
        _best_of_three,
        _said(
            "三つの線形化のうち、ReLUの劣化が最も小さい。",
            "Of the three ways to linearize, ReLU does the least harm.",
        ),
        (
            "同じヘッドどうしで比べたReLUとL1、ReLUと恒等のΔPPLの差が、平均でも中央値でも信頼区間ごと0より小さく、"
            "ReLUが最良となるヘッドの割合が{majority:.0%}を超えること（割合はウィルソンの95 %信頼区間）。",
            "Head by head, ReLU's ΔPPL lies below L1's and the identity's, in mean and in median, each difference "
            "with its whole interval; and ReLU is the best for more than {majority:.0%} of the heads (Wilson's 95 % "
            "interval).",
        ),
        ("フェーズ2", "Phase 2"),
        {"majority": 0.5},
        others={"majority": (0.4, 0.6)},
        limit_set="after",
    ),
    Claim(
        "heads_unequal",
        ("phases",),
        _unequal,
        _said(
            "ヘッドの働きは極度に不均等で、ゼロ置換の影響は順位とともに急に減る。",
            "What heads do is very unequal: the effect of zero-ablation falls off steeply with rank.",
        ),
        (
            "|ΔPPL|を順位のべき則に当てはめた指数αが、信頼区間ごと{alpha:g}より大きいこと。",
            "The exponent α of the rank law of |ΔPPL| is above {alpha:g}, with its whole interval.",
        ),
        ("最終結論の表「Zipf α」", "the final table, “Zipf α”"),
        {"alpha": 1.0},
        others={"alpha": (0.5, 1.37)},
        limit_set="after",
    ),
    Claim(
        "bias_strengthened",
        ("V3",),
        _strengthened,
        _said(
            "定常バイアスは、全トークンではさらにはっきり現れる。",
            "The constant bias shows even more clearly on all tokens.",
        ),
        (
            "定常バイアスの割合（公表されたゼロ/平均の比と大小は同じ）が2Kより全体で大きいこと。差の信頼区間で判定する。",
            "The share of the constant bias, which is larger where the published zero/mean ratio is, is larger on all "
            "tokens than on the 2K, by the interval of the difference.",
        ),
        ("主要結論、V3「さらに強化された」", "the main conclusions and V3, “strengthened further”"),
        variants={"chunks as units": _by_chunk(_strengthened, "V3")},
    ),
    Claim(
        "many_tokens_needed",
        ("V1",),
        _many_tokens,
        _said(
            "2Kトークンでは足りず、数万トークンでの検証が欠かせない。",
            "Two thousand tokens do not suffice: tens of thousands are needed.",
        ),
        (
            "2Kと同じ長さの窓の区間が全体のPPLを含む割合が{covered:.0%}に届かず（重ならない窓の数によるウィルソンの"
            "信頼区間で判定する）、全体が{tokens:,}トークン以上あること。",
            "Of the intervals made from windows as long as the 2K, fewer than {covered:.0%} hold the PPL of all "
            "tokens, by Wilson's interval for as many windows as do not overlap; and there are {tokens:,} or more.",
        ),
        ("最終結論の表「50K+トークンでの検証は必須」", "the final table, “50K+ tokens are essential”"),
        {"covered": 0.9, "tokens": 50_000},
        others={"covered": (0.8, 0.95)},
        limit_set="after",
    ),
)
