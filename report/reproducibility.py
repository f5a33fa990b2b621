"""ACM's badges and NeurIPS' checklist, answered by rule from `reproducibility.yaml`, each with what proves it.

`python -m report.reproducibility` writes `docs/reproducibility.md`, in which what a run decides is left to its report.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lib.errors import InputError
from lib.files import replacing
from lib.layout import ROOT
from lib.results import query
from report.words import LANGUAGES, REPRODUCIBILITY_WORDS

PAGE = ROOT / "docs" / "reproducibility.md"
YES, NO, NOT_APPLICABLE, BY_RUN = "yes", "no", "n/a", "by_run"


@dataclass(frozen=True)
class Answer:
    """One question, answered: `name` and `says` by language, the proofs by their names."""

    group: str
    name: Mapping[str, str]
    says: Mapping[str, str]
    answer: str
    tests: tuple[str, ...]
    results: tuple[str, ...]

    def words(self, lang: str) -> str:
        return spoken(self.answer, lang)


@cache
def questions() -> dict[str, list[dict[str, Any]]]:
    return yaml.safe_load(Path(__file__).with_name("reproducibility.yaml").read_text(encoding="utf-8"))


def answers(results: Mapping[str, Any] | None) -> Iterator[Answer]:
    """All answers for a run's `{section: data}`; without one, those that a run decides stay open."""
    for group, items in questions().items():
        for item in items:
            places = ("conclusions.scorecard",) if item.get("scorecard") else tuple(item.get("results", ()))
            yield Answer(group, item["name"], item["says"], rule(item, results), tuple(item.get("tests", ())), places)


def rule(item: Mapping[str, Any], results: Mapping[str, Any] | None) -> str:
    if not item.get("applies", True):
        return NOT_APPLICABLE
    if item.get("scorecard"):
        if results is None:
            return BY_RUN
        card = results.get("conclusions", {}).get("scorecard", {})
        return YES if card.get("counts") and card["reproduced"] == card["total"] else NO
    if not (item.get("tests") or item.get("results")):
        return NO
    if results is None:
        return YES if item.get("tests") else BY_RUN
    return YES if all(there(place, results) for place in item.get("results", ())) else NO


def there(place: str, results: Mapping[str, Any]) -> bool:
    """Whether a run has measured what stands at a place."""
    try:
        return query.follow(results, query.parse(place), place)[1] is not None
    except InputError:
        return False


def spoken(key: str, lang: str) -> str:
    return REPRODUCIBILITY_WORDS[key][LANGUAGES.index(lang)]


def markdown() -> str:
    """`docs/reproducibility.md`."""
    parts = []
    for lang in reversed(LANGUAGES):
        parts.append(f"# {spoken('title', lang)}\n\n{spoken('intro', lang)}")
        for group in questions():
            head = " | ".join(spoken(key, lang) for key in ("question", "answer", "why", "proof"))
            rows = [
                f"| {a.name[lang]} | {a.words(lang)} | {a.says[lang]} | {proof(a)} |"
                for a in answers(None)
                if a.group == group
            ]
            parts.append("\n".join([f"## {spoken(group, lang)}\n", f"| {head} |", "| --- | --- | --- | --- |", *rows]))
    return "\n\n".join(parts) + "\n"


def proof(answer: Answer) -> str:
    tests = [f"[`{test.split('::')[1]}`](../{test.split('::')[0]})" for test in answer.tests]
    return ", ".join([*(f"`{place}`" for place in answer.results), *tests]) or "—"


if __name__ == "__main__":
    with replacing(PAGE) as partial:
        partial.write_text(markdown(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
