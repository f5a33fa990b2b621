"""What the published study left open, and how far its answers carry: judged as its conclusions are, but not its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lib.claims.judging import (
    FAILS,
    HOLDS,
    NOT_MEASURED,
    OPEN,
    Finding,
    Limits,
    Undefined,
    Words,
    above,
    at_most,
    ends,
    known,
    less,
)
from lib.results.sections.terms import Asked


@dataclass(frozen=True)
class Question:
    """`judge` maps a section's data and the limits to a verdict and the values that it was told by."""

    id: str
    section: str
    judge: Callable[[Mapping[str, Any], Limits], Finding]
    statement: Words
    rule: Words
    limits: Limits = field(default_factory=dict)


def asked(section: str, data: Mapping[str, Any]) -> list[Asked]:
    """The verdicts of the questions that a section answers."""
    found: list[Asked] = []
    for question in QUESTIONS:
        if question.section != section:
            continue
        try:
            verdict, evidence = question.judge(data, question.limits)
        except Undefined:
            verdict, evidence = OPEN, {}
        ja, en = (words.format(**question.limits) for words in question.rule)
        found.append(
            {
                "id": question.id,
                "verdict": verdict,
                "evidence": evidence,
                "statement": {"ja": question.statement[0], "en": question.statement[1]},
                "rule": {"ja": ja, "en": en},
            }
        )
    return found


def _thinking(data: Mapping[str, Any], limits: Limits) -> Finding:
    """Thinking with a third of the heads on ReLU against the untouched model's answers at once, problem by problem."""
    row = next(row for row in data["rungs"] if row["n_linearized"] == data["third"])
    paired = row["think_against_answer"]
    evidence = {"n_linearized": row["n_linearized"], "not_below": data["reach"]["not_below"]}
    return above(ends(paired["difference_ci"]), 0), evidence | {
        key: paired[key] for key in ("difference", "difference_ci")
    }


def _redundancy(data: Mapping[str, Any], limits: Limits) -> Finding:
    if not data["family"]:
        return NOT_MEASURED, {}
    row = next(row for row in data["slopes"] if row["figure"] == "half")
    known(row["slope"])
    return above(ends(row["slope_ci"]), 0), {key: row[key] for key in ("slope", "slope_ci", "n_models")}


def _recovers(data: Mapping[str, Any], limits: Limits) -> Finding:
    """By the longest training with the most heads: the kept data's, where there are any, else this run's."""
    rows = data["kept_rows"] or data["rows"]
    most = max(row["n_heads"] for row in rows)
    row = max((row for row in rows if row["n_heads"] == most), key=lambda row: known(row["share"]))
    evidence = {key: row[key] for key in ("arm", "n_heads", "share", "share_ci")} | {"limit": limits["share"]}
    return above(ends(row["share_ci"]), limits["share"]), evidence | {"tokens": row["points"][-1]["tokens"]}


def _better_order(data: Mapping[str, Any], limits: Limits) -> Finding:
    """Whether any of the orders compared surely beats |ΔPPL|'s; their intervals allow for how many they are."""
    others = [row for row in data["rows"] if row["order"] not in ("abs_delta", "ranking", "random")]
    best = min(others, key=lambda row: row["difference_ci"][1])
    verdicts = [less(ends(row["difference_ci"]), (0.0, 0.0)) for row in others]
    verdict = HOLDS if HOLDS in verdicts else OPEN if OPEN in verdicts else FAILS
    return verdict, {"order": best["order"], **{key: best[key] for key in ("difference", "difference_ci")}}


def _copying_first(data: Mapping[str, Any], limits: Limits) -> Finding:
    """By the first rung at which copying is surely broken: does PPL, there, stay within its limit?"""
    known(data["rungs"][0]["kept"])
    broken = data["first_broken"]
    if broken is None:
        return FAILS, {"first_broken": None, "first_told": data["first_told"]}
    row = next(row for row in data["rungs"] if row["n_linearized"] == broken)
    evidence = {"n_linearized": broken, "kept": row["kept"], "kept_ci": row["kept_ci"]}
    evidence |= {"ratio": row["ratio"], "ratio_ci": row["ratio_ci"]}
    return at_most(ends(row["ratio_ci"]), data["told_limit"]), evidence


QUESTIONS = (
    Question(
        "thinking_buys_back",
        "R2",
        _thinking,
        (
            "ヘッドの三分の一をReLUにしても、考えを書けば、介入なしのすぐの答えを上回る。",
            "With a third of the heads on ReLU, thinking aloud is more accurate than the untouched model's answers at "
            "once.",
        ),
        (
            "同じ問題での正答率の差が、信頼区間ごと0より大きいこと。",
            "The difference in accuracy on the same problems is above 0 with its whole interval.",
        ),
    ),
    Question(
        "larger_models_more_redundant",
        "R3",
        _redundancy,
        (
            "大きなモデルほど、冗長なヘッドの割合が高い。",
            "The larger a model, the larger its share of redundant heads.",
        ),
        (
            "全ヘッドの損失の半分に達するまでに線形化できるヘッドの割合を、パラメータ数の常用対数に回帰した傾きが、信頼区間ごと0より大きいこと。"
            "一つの種で学習した一つのモデルを一つの観測とする。",
            "The share of heads that can be linearized before half of the whole ladder's loss, regressed on log10 of "
            "the parameters, has a slope above 0 with its whole interval; one model of one seed is one observation.",
        ),
    ),
    Question(
        "training_recovers",
        "R4",
        _recovers,
        (
            "置き換えのあとの学習は、線形化で失ったものの半分より多くを取り戻す。",
            "Training after the replacement wins back more than half of what linearizing lost.",
        ),
        (
            "順位のあるヘッドをすべて線形化したとき、同じ学習をした無変更モデルに対する超過（対数PPL）の{share:.0%}より多くが、"
            "最もよい学習で消えること（信頼区間の下端で判定する）。",
            "With all ranked heads linearized, the best training takes away more than {share:.0%} of the excess in log "
            "PPL over the untouched model under the same training, by the lower end of the interval.",
        ),
        {"share": 0.5},
    ),
    Question(
        "better_order_exists",
        "S1",
        _better_order,
        ("|ΔPPL|の順よりもよい、ヘッドの並べ方がある。", "There is a better order of the heads than that of |ΔPPL|."),
        (
            "選んだのとは別の文書の上で、梯子全体の平均対数PPL比が|ΔPPL|の順より小さい並べ方が一つでもあること"
            "（差の信頼区間の全体で判定し、比べる数だけ区間を広げる）。",
            "On documents that it was not chosen on, some order has a smaller mean log PPL ratio along the whole "
            "ladder than that of |ΔPPL|, with the whole interval of the difference, widened for the number of "
            "comparisons.",
        ),
    ),
    Question(
        "copying_breaks_first",
        "S2",
        _copying_first,
        ("PPLが知らせるより先に、写す力が壊れる。", "Copying breaks before PPL tells."),
        (
            "写しの利得が元の{kept:.0%}を信頼区間ごと下回る最初の段で、PPL比がまだ信頼区間ごと{told}以下であること。",
            "At the first rung at which the gain of copying is below {kept:.0%} of what it was, with its whole "
            "interval, the PPL ratio is still at most {told} with its whole interval.",
        ),
        {"kept": 0.8, "told": 1.1},
    ),
)


def limits_of(name: str) -> Limits:
    """The limits of a question's rule."""
    return next(question.limits for question in QUESTIONS if question.id == name)
