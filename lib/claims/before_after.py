"""Verdicts before and after the rules were mended, as a table with the reason of each change.

    python -m lib.claims.before_after docs/data/2026-11-25-verdicts-embedded.json embedded > docs/verdicts.md

The first names a dated record: verdicts and figures of an earlier run under `before`, and under `reasons` what was
changed in each claim's rule. The second is a finished profile, or a folder `results/data`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lib.claims import rules
from lib.errors import InputError
from lib.results import diff, io
from lib.results.sections.conclusions import JudgedClaim

NONE = "no rule"
NEW = "Without a rule when the record was made."


def table(record: Mapping[str, Any], claims: Iterable[JudgedClaim]) -> str:
    """Markdown: each claim, its verdict before and now, the figures that decided, and why they differ.

    A claim that the record does not speak of had no rule when it was made.
    """
    lines = [
        "| Conclusion | Before | Now | Before, by | Now, by | What was changed |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for claim in claims:
        name = claim["id"]
        before = record["before"].get(name, {"verdict": NONE, "evidence": {}})
        evidence = {key: claim["evidence"][key] for key in before["evidence"] if key in claim["evidence"]}
        verdicts = (
            before["verdict"],
            claim["verdict"] if before["verdict"] == claim["verdict"] else f"**{claim['verdict']}**",
        )
        cells = (
            claim["statement"]["en"],
            *verdicts,
            _figures(before["evidence"]),
            _figures(evidence or claim["evidence"]),
        )
        lines.append("| " + " | ".join((*cells, record["reasons"].get(name, NEW))).replace("\n", " ") + " |")
    return "\n".join(lines)


def _figures(evidence: Mapping[str, Any]) -> str:
    """Figures with their intervals; limits are left out, and of conditions the differences are shown."""
    shown = [
        _figures({row["condition"]: row["difference"], f"{row['condition']}_ci": row["difference_ci"]})
        for row in evidence.get("conditions", [])
        if "difference" in row
    ]
    for key, value in evidence.items():
        if key == "limit" or key.endswith("_ci") or not isinstance(value, (int, float, str)):
            continue
        ends = evidence.get(f"{key}_ci")
        own = f"{value:.3g}" if isinstance(value, float) else str(value)
        shown.append(
            f"{key} {own}" + (f" [{', '.join('∞' if e is None else f'{e:.3g}' for e in ends)}]" if ends else "")
        )
    return "; ".join(shown) or "—"


def document(record: Mapping[str, Any], claims: Iterable[JudgedClaim], about: str) -> str:
    """The whole page."""
    commit = record["provenance"]["commit"]
    return (
        "# Verdicts before and after\n\n"
        f"The embedded profile at commit `{str(commit)[:7]}`, {record['date']}, beside {about}. Bold: a verdict that"
        f" differs.\n\n{table(record, claims)}\n"
    )


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.claims.before_after", description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("run", help="a profile, or a folder results/data")
    given = parser.parse_args(words)
    try:
        record = io.read_json(given.record)
        folder = diff.data_folder(given.run)
        setup = io.read_json(io.section_path(folder, "setup"), "section")["provenance"]
        about = f"a run of {setup['times']['started'][:10]} at commit `{str(setup['commit'])[:7]}`"
        print(document(record, rules.evaluate(io.load(folder)), about), end="")
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
