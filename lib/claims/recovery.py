"""The conclusions of Part P: whether generation wins back what linearized heads lose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lib.claims.judging import (
    FAILS,
    HOLDS,
    OPEN,
    Claim,
    Finding,
    Judge,
    Limits,
    Undefined,
    Words,
    above,
    all_of,
    at_most,
    condition,
    ends,
    known,
    less,
    with_units,
)
from lib.results.sections import Results
from lib.results.sections.terms import Verdict

NOTHING = (0.0, 0.0)


def degenerates(m: Results, limits: Limits) -> Finding:
    p2 = m["P2"]
    falls = {(row["condition"], row["iteration"]): row for row in p2["falls"]}
    verdicts, rows = [], []
    for row in p2["conditions"]:
        fall = falls.get((row["condition"], p2["iterations"]))
        if fall is None:
            raise Undefined
        repeats = above(ends(row["repeated_4gram_share_ci"][-1]), limits["repeated"])
        verdicts.append(all_of([less(ends(fall["difference_ci"]), NOTHING), repeats]))
        rows.append(
            {
                "condition": row["condition"],
                "first_ppl": row["ppl"][0],
                "last_ppl": row["ppl"][-1],
                "difference": fall["difference"],
                "difference_ci": fall["difference_ci"],
                "repeated_4gram_share": row["repeated_4gram_share"][-1],
                "verdict": verdicts[-1],
            }
        )
    return all_of(verdicts), {"limit": limits["repeated"], "conditions": rows}


def _converges(m: Results, limits: Limits) -> Finding:
    p2 = m["P2"]
    rows = [row for row in p2["gaps"] if row["iteration"] == p2["iterations"]]
    if not rows:
        raise Undefined
    verdicts = []
    for row in rows:
        low, high = ends(row["relative_ci"])
        verdicts.append(at_most((max(0.0, low, -high), max(high, -low)), limits["gap"]))
    return all_of(verdicts), {
        "gap": {str(row["n_linearized"]): row["relative"] for row in rows},
        "gap_ci": {str(row["n_linearized"]): row["relative_ci"] for row in rows},
        "limit": limits["gap"],
    }


def recovers(which: int) -> Judge:
    def judge(m: Results, limits: Limits) -> Finding:
        p3 = m["P3"]
        base, row = condition(m, p3["conditions"], None), condition(m, p3["conditions"], which)
        paired = condition(m, p3["against_baseline"], which)
        n = paired["best_of"]
        place = p3["n"].index(n)
        equal = condition(m, [gap for gap in p3["equal_n"] if gap["n"] == n], which)
        return less(ends(paired["difference_ci"]), NOTHING), {
            "n": n,
            "best": row["expected"][place],
            "best_ci": row["expected_ci"][place],
            "baseline": base["expected"][0],
            "baseline_ci": base["expected_ci"][0],
            "difference": paired["difference"],
            "difference_ci": paired["difference_ci"],
            "equal_n": equal["difference"],
            "equal_n_ci": equal["difference_ci"],
        }

    return judge


def _variants(which: int) -> dict[str, Judge]:
    """By document, at as many samples on both sides, and with the second judge choosing, scoring, or both."""

    def equal_n(m: Results, limits: Limits) -> Finding:
        p3 = m["P3"]
        rows = [row for row in p3["equal_n"] if row["n"] == p3["n"][-1]]
        return less(ends(condition(m, rows, which)["difference_ci"]), (0.0, 0.0)), {}

    def judged_by(chooser: str, scorer: str) -> Judge:
        def judge(m: Results, limits: Limits) -> Finding:
            p3 = m["P3"]
            most = m["P3"]["against_baseline"][0]["best_of"]
            rows = [
                row for row in p3["judged"] if (row["chosen_by"], row["scored_by"], row["n"]) == (chooser, scorer, most)
            ]
            if not rows:
                raise Undefined
            return less(ends(condition(m, rows, which)["difference_ci"]), (0.0, 0.0)), {}

        return judge

    return {
        "documents as units": with_units(recovers(which), "P3", "document"),
        "equal n": equal_n,
        "second judge scores": judged_by("model", "judge"),
        "second judge chooses and scores": judged_by("judge", "judge"),
    }


def equal_flops(m: Results, limits: Limits) -> Finding:
    rows, needed = m["P3"]["equal_flops"], m["P3"]["new_tokens"]
    most = max(
        extra
        for row in rows
        for extra in (
            row["extra_attention"],
            row["extra_model"],
            row["extra_model_factored"],
            row["extra_model_kernelized"],
        )
    )
    return (HOLDS if most < needed else FAILS), {
        "needed": needed,
        "most": most,
        "extra_attention": {str(row["n_linearized"]): row["extra_attention"] for row in rows},
        "extra_model": {str(row["n_linearized"]): row["extra_model"] for row in rows},
    }


def _length_stable(m: Results, limits: Limits) -> Finding:
    excess = [known(ratio) - 1 for ratio in condition(m, m["P4"]["conditions"], 0)["ratio"]]
    name = condition(m, m["P4"]["conditions"], 0)["condition"]
    pairs = [row for row in m["P4"]["excess_ratios"] if row["condition"] == name]
    if not pairs:
        raise Undefined
    verdicts = [_within(ends(row["ratio_ci"]), limits["stable"]) for row in pairs]
    return all_of(verdicts), {"lowest": min(excess), "highest": max(excess), "limit": limits["stable"]}


def _within(pair: tuple[float, float], factor: float) -> Verdict:
    """Whether a quotient known to lie within `pair` is within a factor of 1, either way."""
    low, high = pair
    return all_of([at_most(pair, factor), HOLDS if low >= 1 / factor else FAILS if high < 1 / factor else OPEN])


def _long_helps(m: Results, limits: Limits) -> Finding:
    ratios = condition(m, m["P4"]["conditions"], -1)["ratio"]
    if not m["P4"]["longest_against_shortest"]:
        raise Undefined
    paired = condition(m, m["P4"]["longest_against_shortest"], -1)
    return less(ends(paired["difference_ci"]), NOTHING), {
        "shortest": ratios[0],
        "longest": ratios[-1],
        "difference": paired["difference"],
        "difference_ci": paired["difference_ci"],
    }


def _rise(m: Results, limits: Limits) -> Finding:
    rises = m["P4"]["rise_at_longest"]
    if not rises:
        raise Undefined
    row = condition(m, rises, -1)
    return above(ends(row["difference_ci"]), 0.0), {
        "difference": row["difference"],
        "difference_ci": row["difference_ci"],
    }


def _context_units(judge: Judge) -> dict[str, Judge]:
    return {
        "chunks as units": with_units(judge, "P4", "chunk"),
        "blocks of tokens as units": with_units(judge, "P4", "tokens"),
    }


def _counted(which: int, ja: str, en: str) -> Callable[[Results], Words]:
    """A statement about the first (0) or last (-1) number of linearized heads, by its number where that is known."""

    def words(m: Results) -> Words:
        if "setup" in m:
            n = str(m["setup"]["relu_counts"][which])
            return ja.format(n=n), en.format(n=n)
        return ja.format(n=("少数の", "多数の")[which]), en.format(n=("a few", "many")[which])

    return words


def _said(ja: str, en: str) -> Any:
    return lambda m: (ja, en)


_BEST_OF = (
    "公表どおりのNでの期待PPLがベースラインのN=1を下回ること。プロンプトを揃えた差の信頼区間で見る。"
    "選んだものと選ばないものの比較なので、同じNどうしの差を併記する。",
    "The expected PPL at the published N is below the baseline's at N = 1, by the interval of the difference over the "
    "same prompts. It compares what was selected with what was not: the difference at the same N stands beside it.",
)

CLAIMS = (
    Claim(
        "refinement_degenerates",
        ("P2",),
        degenerates,
        _said(
            "自己改良で下がるPPLは改善ではなく、繰り返しへの退化である。",
            "The falling PPL of self-refinement is degeneration into repetition, not improvement.",
        ),
        (
            "どの条件でもプロンプトごとに見てPPLが最初の回より下がり、最後の回では4-gramの{repeated:.0%}超が既出であること。",
            "In every condition PPL falls from the first iteration to the last, prompt by prompt, and at the last over "
            "{repeated:.0%} of the 4-grams occurred before.",
        ),
        ("P2、最終結論の理由3", "P2 and the third reason of the final conclusion"),
        {"repeated": 0.5},
        others={"repeated": (0.25, 0.75)},
        limit_set="after",
        variants={"documents as units": with_units(degenerates, "P2", "document")},
    ),
    Claim(
        "conditions_converge",
        ("P2",),
        _converges,
        _said(
            "自己改良を重ねると、どの条件のPPLもベースラインに近づき、差はなくなる。",
            "Under self-refinement all conditions converge, and the gap to the baseline vanishes.",
        ),
        (
            "最後の回に、どの条件のPPLもベースラインの±{gap:.0%}以内にあること。"
            "同じプロンプトで見た相対差の信頼区間で判定する。",
            "At the last iteration every condition's PPL is within ±{gap:.0%} of the baseline's, by the interval of "
            "the relative difference over the same prompts.",
        ),
        ("P2", "P2"),
        {"gap": 0.1},
        others={"gap": (0.05, 0.2)},
        limit_set="after",
        variants={"documents as units": with_units(_converges, "P2", "document")},
    ),
    Claim(
        "best_of_n_recovers",
        ("setup", "P3"),
        recovers(0),
        _counted(
            0,
            "{n}ヘッドをReLU線形化しても、best-of-Nで選べばベースラインの1回の生成を上回る。",
            "With {n} ReLU heads, best-of-N beats a single text of the baseline.",
        ),
        _BEST_OF,
        ("P3、最終結論の理由4", "P3 and the fourth reason of the final conclusion"),
        variants=_variants(0),
    ),
    Claim(
        "best_of_n_recovers_more",
        ("setup", "P3"),
        recovers(-1),
        _counted(
            -1,
            "{n}ヘッドをReLU線形化しても、best-of-Nで選べばベースラインの1回の生成を上回る。",
            "With {n} ReLU heads, best-of-N still beats a single text of the baseline.",
        ),
        _BEST_OF,
        ("P3", "P3"),
        variants=_variants(-1),
    ),
    Claim(
        "equal_flops_insufficient",
        ("P3",),
        equal_flops,
        _said(
            "浮いたFLOPsでは、候補をもう一つ生成するには足りない。",
            "The FLOPs saved do not pay for one more candidate.",
        ),
        (
            "attentionだけの計算でもモデル全体の計算でも、追加で生成できるトークン数が候補一つの長さに満たないこと。"
            "モデルの形から求まる算術であり、測定ではない。",
            "By the count of attention alone and by that of the whole model, the extra tokens are fewer than one "
            "candidate has. This is arithmetic on the model's shape, no measurement.",
        ),
        ("P3、最終結論の理由2", "P3 and the second reason of the final conclusion"),
        kind="arithmetic",
    ),
    Claim(
        "context_stable",
        ("setup", "P4"),
        _length_stable,
        _counted(
            0,
            "{n}ヘッドをReLU線形化したときの劣化は、文脈長にほとんど依らない。",
            "The loss from {n} ReLU heads hardly depends on the context length.",
        ),
        (
            "PPL比が1を超える分が、どの二つの文脈長のあいだでも{stable:g}倍を超えて変わらないこと。"
            "同じテキスト区間で見た信頼区間で判定する。",
            "What the PPL ratio has beyond 1 changes by no more than a factor of {stable:g} between any two context "
            "lengths, by intervals over the same spans of text.",
        ),
        ("P4", "P4"),
        {"stable": 2.0},
        others={"stable": (1.5, 3.0)},
        limit_set="after",
        variants=_context_units(_length_stable),
    ),
    Claim(
        "long_context_helps",
        ("setup", "P4"),
        _long_helps,
        _counted(
            -1,
            "{n}ヘッドをReLU線形化したときの劣化は、長い文脈では和らぐ。",
            "The loss from {n} ReLU heads is milder in long contexts.",
        ),
        (
            "最長の文脈でのPPL比から最短での比を引いた差が、信頼区間ごと0より小さいこと。",
            "The PPL ratio at the longest context minus the one at the shortest is below 0 with its whole interval.",
        ),
        ("P4", "P4"),
        variants=_context_units(_long_helps),
    ),
    Claim(
        "rise_at_longest",
        ("setup", "P4"),
        _rise,
        _counted(
            -1,
            "{n}ヘッドのPPL比は、最長の文脈で再び上がる。",
            "The PPL ratio of {n} heads rises again at the longest context.",
        ),
        (
            "最長での比から一つ手前での比を引いた差が、信頼区間ごと0より大きいこと。0をまたぐならノイズと区別できない。",
            "The ratio at the longest minus the one before is above 0 with its whole interval; an interval around 0 "
            "cannot be told from noise.",
        ),
        ("P4", "P4"),
        variants=_context_units(_rise),
    ),
)
