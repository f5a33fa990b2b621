"""The report's tables as CSV: the numbers as they were computed, after lines that say where they come from."""

import csv
import io
import re
from collections.abc import Mapping
from typing import Any

from report import provenance
from report.document import Document, outputs
from report.prose import TABLE_MIME

FORMULA = re.compile(r"[=+\-@\t\r]")  # what a spreadsheet would compute
INTERVAL = ("[95%] from", "[95%] to")


def files(document: Document) -> dict[str, bytes]:
    """`{name of the file: its bytes}`, one for each table and language, named as the page names its downloads."""
    about = provenance.about(document)
    found = {}
    for output in outputs(document):
        meta = output.get("metadata", {}).get("report", {})
        if meta.get("kind") == "table":
            text = csv_of(output.data[TABLE_MIME], about | {"item": meta.name})
            found[f"exp10_{meta.name}_{meta.lang}.csv"] = text.encode("utf-8-sig")
    return found


def csv_of(content: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """A table's CSV (RFC 4180), lines `# key: value` before its head; a column with intervals is three columns."""
    with_interval = [any("interval" in row[i] for row in content["rows"]) for i in range(len(content["columns"]))]
    text = io.StringIO()
    for key, value in about.items():
        text.write(f"# {key}: {' '.join(str(value).split())}\r\n")
    rows = csv.writer(text, lineterminator="\r\n")
    heads = [(guarded(column["text"]), wide) for column, wide in zip(content["columns"], with_interval, strict=True)]
    rows.writerow([name for head, wide in heads for name in (head, *(f"{head} {end}" for end in INTERVAL if wide))])
    for row in content["rows"]:
        rows.writerow([value for cell, wide in zip(row, with_interval, strict=True) for value in values(cell, wide)])
    return text.getvalue()


def values(cell: Mapping[str, Any], wide: bool) -> list[str]:
    """A cell's exact number, or else its text; where the column is `wide`, the ends of the interval after it."""
    if not wide:
        return [cell["exact"] if "exact" in cell else guarded(cell["text"])]
    ends = cell.get("interval_exact") or [None, None]
    return [*values(cell, False), *("" if end is None else repr(end) for end in ends)]


def guarded(text: str) -> str:
    return f"'{text}" if FORMULA.match(text) else text
