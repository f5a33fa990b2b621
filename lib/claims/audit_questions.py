"""What Part R's and Part S's answers follow from, for the audit."""

from collections.abc import Iterator

from lib.analysis import beyond, scale
from lib.claims import questions
from lib.claims.audit_recovery import Data, Relation


def slopes(m: Data) -> Iterator[Relation]:
    yield "R3.slopes", m["R3"]["slopes"], scale.slopes(m["R3"]["family"]), "R3.family"
    yield from asked(m, "R3")


def beyond_ppl(m: Data) -> Iterator[Relation]:
    data = m["S2"]
    broken = beyond.first_break(data["rungs"], data["kept_limit"])
    yield "S2.first_broken", data["first_broken"], broken, "S2.rungs"
    yield "S2.first_told", data["first_told"], beyond.first_told(data["rungs"], data["told_limit"]), "S2.rungs"
    yield from asked(m, "S2")


def asked(m: Data, section: str) -> Iterator[Relation]:
    """A section's answers are what its rules say of its own figures."""
    data = m[section]
    try:
        answers = questions.asked(section, data)
    except StopIteration:
        raise LookupError("a row that its rules read is not there") from None
    for i, (own, expected) in enumerate(zip(data["asked"], answers, strict=True)):
        yield f"{section}.asked[{i}].verdict", own["verdict"], expected["verdict"], f"{section}'s rules"
        yield f"{section}.asked[{i}].evidence", own["evidence"], expected["evidence"], f"{section}'s rules"
