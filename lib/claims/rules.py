"""The write-up's conclusions as rules on measured values: each holds, fails, can't be told here, or was not measured.

No rule looks at a timing, so that verdicts are the same on every run.
"""

from __future__ import annotations

from lib.claims import recovery, validation
from lib.claims.judging import Claim, Finding, Limits, all_of, judged
from lib.results.sections import JudgedClaim, Results


def evaluate(measured: Results) -> list[JudgedClaim]:
    """Every claim's verdict on these results, with the values it was told by and the words for both.

    Raises `InputError` where a section lacks a key that a rule reads.
    """
    found: list[JudgedClaim] = []
    for claim in CLAIMS:
        verdict, evidence = judged(claim, measured)
        ja, en = claim.statement(measured)
        found.append(
            {
                "id": claim.id,
                "sections": list(claim.sections),
                "verdict": verdict,
                "evidence": evidence,
                "statement": {"ja": ja, "en": en},
                "rule": {"ja": claim.rule[0].format(**claim.limits), "en": claim.rule[1].format(**claim.limits)},
            }
        )
    return found


def _hypothesis(m: Results, limits: Limits) -> Finding:
    verdicts = {name: judged(BY_ID[name], m)[0] for name in REASONS}
    return all_of(verdicts.values()), verdicts


REASONS = ("relu_nearly_harmless", "refinement_degenerates", "equal_flops_insufficient")
HYPOTHESIS = Claim(
    "hypothesis_5",
    ("setup", "phases", "V4", "P2", "P3"),
    _hypothesis,
    lambda m: (
        "仮説5は部分的に棄却される。attentionの精密さは下げられるが、浮いた計算で品質は買い戻せない。",
        "Hypothesis 5 is rejected in part: attention can be made coarser, but the computation saved does not buy "
        "the quality back.",
    ),
    (
        "「ReLUはほとんど無害」「自己改良は退化」「等FLOPsでは不足」の三つがすべて成り立つこと。",
        "All three hold: ReLU is nearly harmless, self-refinement degenerates, equal FLOPs do not suffice.",
    ),
)
CLAIMS = (*validation.CLAIMS, *recovery.CLAIMS, HYPOTHESIS)
BY_ID = {claim.id: claim for claim in CLAIMS}
IDS = tuple(BY_ID)
