"""The published study's conclusions as rules on this model's figures: each holds, fails, is open, or was not measured.

No rule looks at a timing, so that verdicts are the same on every run.
"""

from __future__ import annotations

from lib.claims import recovery, validation
from lib.claims.judging import FAILS, HOLDS, NOT_MEASURED, OPEN, Claim, Finding, Limits, judged
from lib.results.sections import Results
from lib.results.sections.conclusions import Hypothesis, HypothesisVerdict, JudgedClaim, Reason, Variant
from lib.results.sections.terms import Verdict


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
                "published_in": {"ja": claim.published_in[0], "en": claim.published_in[1]},
                "limit_set": claim.limit_set,
                "limits": dict(claim.limits),
                "kind": claim.kind,
            }
        )
    return found


def sensitivity(measured: Results) -> list[Variant]:
    """Each claim's verdict under other limits, one at a time, and judged in its other ways."""
    found: list[Variant] = []
    for claim in CLAIMS:
        for name, values in claim.others.items():
            for value in values:
                verdict = judged(claim, measured, {name: value})[0]
                own = claim.limits[name]
                found.append({"id": claim.id, "variant": name, "value": value, "own": own, "verdict": verdict})
        for name in claim.variants:
            verdict = judged(claim, measured, variant=name)[0]
            found.append({"id": claim.id, "variant": name, "value": None, "own": None, "verdict": verdict})
    return found


def hypothesis(measured: Results) -> Hypothesis:
    """Hypothesis 5: attention can be made coarser, and generation with the computation saved keeps the quality.

    Its first half holds with "ReLU is nearly harmless". Its second fails where self-refinement degenerates and best of
    N either does not recover or needs more than is saved, and holds where best of N recovers on what is saved. What is
    saved is arithmetic, and decides nothing while a measured part is open. Both halves hold: supported; one: partly
    rejected, as published; none: rejected.
    """
    verdicts = {name: judged(BY_ID[name], measured)[0] for name in REASONS}
    reasons: list[Reason] = [
        {"id": name, "verdict": verdict, "kind": BY_ID[name].kind} for name, verdict in verdicts.items()
    ]
    coarser, bought = verdicts["relu_nearly_harmless"], _bought_back(verdicts)
    halves = (coarser, bought)
    verdict: HypothesisVerdict = "open"
    if NOT_MEASURED in verdicts.values():
        verdict = "not measured"
    elif OPEN not in halves:
        verdict = "supported" if FAILS not in halves else "rejected" if HOLDS not in halves else "partly rejected"
    return {"verdict": verdict, "coarser": coarser, "bought_back": bought, "reasons": reasons}


def _bought_back(verdicts: dict[str, Verdict]) -> Verdict:
    """Whether the computation saved buys the quality back."""
    degenerates, recovers = verdicts["refinement_degenerates"], verdicts["best_of_n_recovers"]
    costs_more = verdicts["equal_flops_insufficient"]
    if NOT_MEASURED in (degenerates, recovers, costs_more):
        return NOT_MEASURED
    if recovers == OPEN:
        return OPEN
    if recovers == HOLDS and costs_more == FAILS:
        return HOLDS
    return FAILS if degenerates == HOLDS else OPEN


def _partly_rejected(m: Results, limits: Limits) -> Finding:
    told = hypothesis(m)
    evidence = {reason["id"]: reason["verdict"] for reason in told["reasons"]}
    verdict = {"partly rejected": HOLDS, "supported": FAILS, "rejected": FAILS}.get(told["verdict"], OPEN)
    return verdict, {"hypothesis": told["verdict"]} | evidence


REASONS = ("relu_nearly_harmless", "equal_flops_insufficient", "refinement_degenerates", "best_of_n_recovers")
HYPOTHESIS = Claim(
    "hypothesis_5",
    ("setup", "phases", "V4", "P2", "P3"),
    _partly_rejected,
    lambda m: (
        "仮説5は部分的に棄却される。attentionの精密さは下げられるが、浮いた計算で品質は買い戻せない。",
        "Hypothesis 5 is rejected in part: attention can be made coarser, but the computation saved does not buy "
        "the quality back.",
    ),
    (
        "「ReLUはほとんど無害」が前半を、残る三つの理由が後半を決める。後半が不成立となるのは、自己改良が退化し、かつ"
        "best-of-Nが回収しないか、回収しても浮いた計算では足りないとき。前半と後半の一方だけが成り立てば部分的棄却である。"
        "浮いた計算の量は算術であり、測定による部分が決まらないうちは何も決めない。",
        "“Nearly harmless” decides the first half, the other three reasons the second, which fails where "
        "self-refinement degenerates and best-of-N either does not recover or needs more than is saved. Rejected in "
        "part: one half holds. What is saved is arithmetic and decides nothing while a measured part is open.",
    ),
    ("最終結論", "The final conclusion"),
)
CLAIMS = (*validation.CLAIMS, *recovery.CLAIMS, HYPOTHESIS)
BY_ID = {claim.id: claim for claim in CLAIMS}
IDS = tuple(BY_ID)
