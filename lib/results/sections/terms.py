"""What several sections share: what a value keeps to beyond its type, intervals, limits, small types."""

from typing import Annotated, Any, Literal, TypedDict


class Keep:
    """What a value keeps to beyond its type, in JSON schema's words."""

    def __init__(self, **words: Any):
        self.words = words


Positive = Annotated[float, Keep(exclusiveMinimum=0)]
Count = Annotated[int, Keep(minimum=0)]
Interval = Annotated[list[float | None], Keep(minItems=2, maxItems=2)]
Pair = Annotated[list[Count], Keep(minItems=2, maxItems=2)]
Condition = Annotated[str, Keep(pattern="^(baseline|relu_\\d+)$")]
SpeedCondition = Annotated[str, Keep(pattern="^(baseline|(relu|softmax)_\\d+)$")]
Figures = Annotated[list[float | None], Keep(minItems=1)]
LIMITS = (1.1, 1.5, 2.0)  # of PPL over the baseline's
BY_LIMIT = Keep(propertyNames={"pattern": "^\\d+\\.\\d+$"}, required=[str(limit) for limit in LIMITS])
Thresholds = Annotated[dict[str, Count], BY_LIMIT]
ThresholdIntervals = Annotated[dict[str, Interval], BY_LIMIT]
Crossings = Annotated[dict[str, float], BY_LIMIT]


class Kept(TypedDict):
    """A dated file of the repository, from which figures that no run of the report measures are shown."""

    file: str
    date: str
    command: str
    commit: str | None
    words: str
    tokens: int


class Bilingual(TypedDict):
    ja: str
    en: str


Verdict = Literal["holds", "fails", "open", "not measured"]


class Asked(TypedDict):
    """A question that the published study left open, judged by a rule."""

    id: str
    verdict: Verdict
    evidence: dict[str, Any]
    statement: Bilingual
    rule: Bilingual
