"""What is said of a claim, wherever it is spoken of: one sentence a verdict, told by the results that are bound.

    say(ja="…は{V3.constant_share_full:.1%}である。{told}", en="… {told}", told=verdicts.sentence("constant_bias"))

A section, the summary and the conclusion that speak through `sentence` can't contradict each other or the claim.
"""

from collections.abc import Iterable

from lib.claims import rules
from lib.claims.judging import FAILS, HOLDS, NOT_MEASURED, OPEN, judged
from lib.results.sections.terms import Asked, Bilingual, Verdict
from report import prose

UNMEASURED = ("この点は測っていない。", "This was not measured.")
WORDS: dict[str, dict[str, tuple[str, str]]] = {
    "heads_unequal": {
        HOLDS: (
            "ヘッドの働きは極度に不均等である。",
            "What the heads do is very unequal.",
        ),
        FAILS: (
            "ヘッドの働きが極度に不均等だ、とはいえない。",
            "It is not the case that what the heads do is extremely unequal.",
        ),
        OPEN: (
            "ヘッドの働きが極度に不均等かどうかは、判定できない。",
            "Whether the heads' work is very unequal cannot be told.",
        ),
    },
    "bias_strengthened": {
        HOLDS: (
            "定常バイアスは、2Kよりも全体でさらにはっきり現れる。",
            "The constant bias shows even more clearly on the full tokens than on the 2K.",
        ),
        FAILS: (
            "定常バイアスは、全体では2Kほどはっきり現れない。",
            "The constant bias shows no more clearly on the full tokens than on the 2K.",
        ),
        OPEN: (
            "定常バイアスが2Kよりも全体ではっきり現れるかどうかは、判定できない。",
            "Whether the constant bias shows more clearly on the full tokens than on the 2K cannot be told.",
        ),
    },
    "many_tokens_needed": {
        HOLDS: (
            "2Kトークンでは足りず、数万トークンでの検証が欠かせない。",
            "The 2K tokens do not suffice; tens of thousands are needed.",
        ),
        FAILS: (
            "数万トークンでの検証が欠かせない、とはいえない。",
            "It is not the case that tens of thousands of tokens are needed.",
        ),
        OPEN: (
            "数万トークンでの検証が欠かせないかどうかは、判定できない。",
            "Whether tens of thousands of tokens are needed cannot be told.",
        ),
    },
    "stable_ranking": {
        HOLDS: (
            "どのヘッドが重要かは、2Kだけでも見分けられる。",
            "Which heads matter can be told from the 2K tokens alone.",
        ),
        FAILS: (
            "どのヘッドが重要かを、2Kだけで見分けることはできない。",
            "Which heads matter cannot be told from the 2K tokens alone.",
        ),
        OPEN: (
            "2Kの順位が全体でも保たれるかどうかは、区間の広さのため判定できない。",
            "Whether the 2K order holds on the full tokens is left open by the width of the intervals.",
        ),
    },
    "constant_bias": {
        HOLDS: (
            "このヘッドの働きは、ほぼすべてが定常バイアスだといえる。",
            "Nearly all that this head does is a constant bias.",
        ),
        FAILS: (
            "このヘッドの働きのほぼすべてが定常バイアスだ、とはいえない。",
            "It is not the case that nearly all this head does is a constant bias.",
        ),
        OPEN: (
            "働きのほぼすべてが定常バイアスなのかどうかは、判定できない。",
            "Whether nearly all that this head does is a constant bias cannot be told.",
        ),
    },
    "thresholds_within_ten": {
        HOLDS: (
            "2Kで得た閾値は、全体で測り直しても大きくは動かない。",
            "The thresholds found on the 2K move little when all tokens are scored.",
        ),
        FAILS: (
            "2Kで得た閾値は、全体で測り直すと大きく動く。",
            "The thresholds found on the 2K move far when all tokens are scored.",
        ),
        OPEN: (
            "2Kで得た閾値が大きく動くのかどうかは、区間の広さのため判定できない。",
            "Whether the thresholds found on the 2K move far is left open by the width of the intervals.",
        ),
    },
    "quick_optimistic": {
        HOLDS: ("2Kの推定は楽観的だったといえる。", "The estimate from the 2K was optimistic."),
        FAILS: ("2Kの推定が楽観的だったとはいえない。", "The estimate from the 2K was not optimistic."),
        OPEN: (
            "2Kの推定が楽観的だったのかどうかは、判定できない。",
            "Whether the estimate from the 2K was optimistic cannot be told.",
        ),
    },
    "layer0_concentration": {
        HOLDS: (
            "ゼロ置換の影響は最初の層に集中している。",
            "The effect of zero-ablation is concentrated in the first layer.",
        ),
        FAILS: (
            "ゼロ置換の影響は最初の層に集中してはいない。",
            "The effect of zero-ablation is not concentrated in the first layer.",
        ),
        OPEN: (
            "ゼロ置換の影響が最初の層に集中しているかどうかは、判定できない。",
            "Whether the effect of zero-ablation is concentrated in the first layer cannot be told.",
        ),
    },
    "relu_nearly_harmless": {
        HOLDS: (
            "多くのヘッドでは、softmaxをReLUに替えてもほとんど劣化しない。",
            "For many heads, ReLU in place of softmax does almost no harm.",
        ),
        FAILS: (
            "多くのヘッドでReLUがほとんど無害だ、とはいえない。",
            "It is not the case that ReLU does almost no harm for many heads.",
        ),
        OPEN: (
            "多くのヘッドでReLUがほとんど無害なのかどうかは、判定できない。",
            "Whether ReLU does almost no harm for many heads cannot be told.",
        ),
    },
    "relu_best": {
        HOLDS: (
            "三つの線形化のうち、最も劣化が小さいのはReLUである。",
            "Of the three ways to linearize, ReLU does the least harm.",
        ),
        FAILS: (
            "三つの線形化のうち、ReLUの劣化が最も小さいとはいえない。",
            "Of the three ways to linearize, ReLU is not the one that does the least harm.",
        ),
        OPEN: (
            "三つの線形化のうちReLUの劣化が最も小さいかどうかは、判定できない。",
            "Whether ReLU does the least harm of the three ways to linearize cannot be told.",
        ),
    },
    "refinement_degenerates": {
        HOLDS: (
            "自己改良で下がるPPLは、改善ではなく繰り返しへの退化である。",
            "The falling PPL of self-refinement is degeneration into repetition, not improvement.",
        ),
        FAILS: (
            "自己改良が繰り返しへの退化だ、とはいえない。",
            "It is not the case that self-refinement degenerates into repetition.",
        ),
        OPEN: (
            "自己改良が繰り返しへの退化なのかどうかは、判定できない。",
            "Whether self-refinement degenerates into repetition cannot be told.",
        ),
    },
    "conditions_converge": {
        HOLDS: (
            "最後の回では、どの条件もベースラインとの差がなくなる。",
            "At the last iteration the gap between the conditions and the baseline has vanished.",
        ),
        FAILS: (
            "最後の回でも、条件間の差はなくならない。",
            "At the last iteration the gap between the conditions has not vanished.",
        ),
        OPEN: (
            "条件間の差がなくなるかどうかは、判定できない。",
            "Whether the gap between the conditions vanishes cannot be told.",
        ),
    },
    "best_of_n_recovers": {
        HOLDS: (
            "少ないほうのヘッド数では、best-of-Nで選べば、選ばないベースラインを上回る。",
            "With the smaller number of heads, best-of-N beats a baseline that does not choose.",
        ),
        FAILS: (
            "少ないほうのヘッド数でも、best-of-Nは、選ばないベースラインを上回らない。",
            "Even with the smaller number of heads, best-of-N does not beat a baseline that does not choose.",
        ),
        OPEN: (
            "少ないほうのヘッド数で、best-of-Nが選ばないベースラインを上回るかどうかは、判定できない。",
            "Whether best-of-N with the smaller number of heads beats a baseline that does not choose cannot be told.",
        ),
    },
    "best_of_n_recovers_more": {
        HOLDS: (
            "多いほうのヘッド数でも、best-of-Nで選べば、選ばないベースラインを上回る。",
            "With the larger number of heads, too, best-of-N beats a baseline that does not choose.",
        ),
        FAILS: (
            "多いほうのヘッド数では、best-of-Nは、選ばないベースラインを上回らない。",
            "With the larger number of heads, best-of-N does not beat a baseline that does not choose.",
        ),
        OPEN: (
            "多いほうのヘッド数で、best-of-Nが選ばないベースラインを上回るかどうかは、判定できない。",
            "Whether best-of-N with the larger number of heads beats a baseline that does not choose cannot be told.",
        ),
    },
    "equal_flops_insufficient": {
        HOLDS: (
            "計算量の数え方では、浮いたFLOPsは候補一つ分に足りない。これは算術であり、測定による証拠ではない。",
            "By the count, the FLOPs saved do not pay for one more candidate; this is arithmetic, not evidence.",
        ),
        FAILS: (
            "計算量の数え方では、浮いたFLOPsで候補をもう一つ作れる。これは算術であり、測定による証拠ではない。",
            "By the count, the FLOPs saved pay for one more candidate; this is arithmetic, not evidence.",
        ),
        OPEN: (
            "浮いたFLOPsが候補一つ分に足りるかどうかは、数えられない。",
            "Whether the FLOPs saved pay for one more candidate cannot be counted.",
        ),
    },
    "context_stable": {
        HOLDS: (
            "少ないほうのヘッド数では、劣化は文脈長にほとんど依らない。",
            "With the smaller number of heads, the loss hardly depends on the context length.",
        ),
        FAILS: (
            "少ないほうのヘッド数でも、劣化は文脈長に依る。",
            "Even with the smaller number of heads, the loss depends on the context length.",
        ),
        OPEN: (
            "少ないほうのヘッド数で、劣化が文脈長に依るかどうかは、判定できない。",
            "Whether the loss with the smaller number of heads depends on the context length cannot be told.",
        ),
    },
    "long_context_helps": {
        HOLDS: (
            "多いほうのヘッド数では、劣化は長い文脈で和らぐ。",
            "With the larger number of heads, the loss is milder in long contexts.",
        ),
        FAILS: (
            "多いほうのヘッド数では、劣化は長い文脈でも和らがない。",
            "With the larger number of heads, the loss is no milder in long contexts.",
        ),
        OPEN: (
            "多いほうのヘッド数で、劣化が長い文脈で和らぐかどうかは、判定できない。",
            "Whether the loss with the larger number of heads is milder in long contexts cannot be told.",
        ),
    },
    "rise_at_longest": {
        HOLDS: (
            "多いほうのヘッド数の比は、最長の文脈で再び上がる。",
            "With the larger number of heads, the ratio rises again at the longest context.",
        ),
        FAILS: (
            "多いほうのヘッド数の比は、最長の文脈でも上がらない。",
            "With the larger number of heads, the ratio does not rise at the longest context.",
        ),
        OPEN: (
            "多いほうのヘッド数の比が最長の文脈で上がるかどうかは、標本の揺れと区別できない。",
            "Whether the ratio with the larger number of heads rises at the longest context is not told from noise.",
        ),
    },
}
HYPOTHESIS: dict[str, tuple[str, str]] = {
    "supported": (
        "仮説5は、この実行では支持される。attentionの精密さは下げられ、浮いた計算で品質を買い戻せる。",
        "Hypothesis 5 is supported by this run: attention can be made coarser, and the saving buys quality back.",
    ),
    "partly rejected": (
        "仮説5は、この実行でも部分的に棄却される。前半と後半のうち、成り立つのは一方だけである。",
        "Hypothesis 5 is rejected in part by this run: only one of its two halves stands.",
    ),
    "rejected": (
        "仮説5は、この実行では棄却される。前半も後半も成り立たない。",
        "Hypothesis 5 is rejected by this run: neither of its halves stands.",
    ),
    "open": (
        "仮説5を支持するか棄却するかは、この実行では判定できない。",
        "Whether hypothesis 5 is supported or rejected cannot be told from this run.",
    ),
    "not measured": (
        "仮説5を判定する節の一部が測られていない。",
        "Some of the sections that judge hypothesis 5 were not measured.",
    ),
}


def verdict(claim: str) -> Verdict:
    """A claim's verdict on the bound results."""
    return judged(rules.BY_ID[claim], prose.bound().results)[0]


def sentence(claim: str) -> Bilingual:
    """What is said of a claim under its verdict, in both languages."""
    found = verdict(claim)
    ja, en = UNMEASURED if found == NOT_MEASURED else WORDS[claim][found]
    return {"ja": ja, "en": en}


def sentences(*claims: str) -> Bilingual:
    """Several claims' sentences in a row."""
    told = [sentence(claim) for claim in claims]
    return {"ja": "".join(words["ja"] for words in told), "en": " ".join(words["en"] for words in told)}


def hypothesis() -> Bilingual:
    """What is said of hypothesis 5."""
    ja, en = HYPOTHESIS[rules.hypothesis(prose.bound().results)["verdict"]]
    return {"ja": ja, "en": en}


def tell(asked: Iterable[Asked]) -> None:
    """Says of each question that a section asks what came of it, and by what rule."""
    for question in asked:
        words = question["statement"]
        prose.say(
            ja="「{statement}」の判定: **{verdict:term}**。規則: {rule}",
            en="Verdict on “{statement}”: **{verdict:term}**. Rule: {rule}",
            statement={"ja": words["ja"].removesuffix("。"), "en": words["en"].removesuffix(".")},
            verdict=question["verdict"],
            rule=question["rule"],
        )
