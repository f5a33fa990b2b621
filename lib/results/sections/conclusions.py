"""What the conclusions hold: claims, the hypothesis, and the scorecard."""

from typing import Any, Literal, TypedDict

from lib.results.sections.terms import Bilingual, Count, Verdict

LimitSet = Literal["published", "after", "none"]
Kind = Literal["empirical", "arithmetic"]


class JudgedClaim(TypedDict):
    """A conclusion of the published study, tested on this model; `published_in` says where it stands in the study.

    limit_set: whether the limits of the rule are the study's own, were set after its figures were known, or are none.
    kind: arithmetic where no measurement enters, which is no evidence.
    """

    id: str
    sections: list[str]
    verdict: Verdict
    evidence: dict[str, Any]
    statement: Bilingual
    rule: Bilingual
    published_in: Bilingual
    limit_set: LimitSet
    limits: dict[str, float]
    kind: Kind


class Variant(TypedDict):
    """A claim judged otherwise: `variant` names the limit, which is then `value`, or the other way of judging."""

    id: str
    variant: str
    value: float | None
    own: float | None
    verdict: Verdict


class Reason(TypedDict):
    id: str
    verdict: Verdict
    kind: Kind


HypothesisVerdict = Literal["supported", "partly rejected", "rejected", "open", "not measured"]


class Hypothesis(TypedDict):
    """Hypothesis 5, its two halves and the study's four reasons."""

    verdict: HypothesisVerdict
    coarser: Verdict
    bought_back: Verdict
    reasons: list[Reason]


VerdictCounts = TypedDict("VerdictCounts", {"holds": int, "fails": int, "open": int, "not measured": int})


class ScoreRow(TypedDict):
    id: str
    section: str
    printed: str
    published: float
    kind: Literal["exact", "weights", "sampled", "machine"]
    reason: str
    measured: float | None
    difference: float | None
    tolerance: float | None
    verdict: Literal["reproduced", "differs", "missing", "not comparable"]


class Scorecard(TypedDict):
    """The published figures beside the measured ones; `reason` says why the card does not count, if so."""

    rows: list[ScoreRow]
    reproduced: Count
    total: Count
    missing: list[str]
    differing: list[str]
    counts: bool
    reason: Literal["model", "corpus"] | None


class Conclusions(TypedDict):
    claims: list[JudgedClaim]
    counts: VerdictCounts
    hypothesis: Hypothesis
    sensitivity: list[Variant]
    scorecard: Scorecard
