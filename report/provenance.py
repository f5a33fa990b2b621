"""What ran: the report's footer and the books' colophon, from the provenance of the results."""

import re
import shlex
from typing import Any

from lib.errors import InputError
from lib.params import load_profile
from report.document import Document
from report.words import PARTS, word


def latest(document: Document) -> dict[str, Any]:
    """The provenance of the section that was written last in the order of the document, the most complete one."""
    records = [section["provenance"] for section in document.sections.values() if section["provenance"]]
    return max(records, key=lambda record: str(record.get("times", {}).get("started", "")), default={})


def short(document: Document) -> str:
    model, corpus = _names(document)
    return " · ".join(filter(None, ("Experiment 10", model, corpus)))


def run_line(document: Document, lang: str) -> str:
    """One line under the title: model, corpus, profile, date."""
    return " · ".join(filter(None, (what_ran(document, lang), date(document))))


def what_ran(document: Document, lang: str) -> str:
    """Model, corpus and profile, in one line."""
    record = latest(document)
    model, corpus = _names(document)
    named = [("model", model), ("corpus", corpus), ("profile", record.get("profile"))]
    parts = [f"{word(key, lang)}: {value}" for key, value in named if value]
    return " · ".join(parts)


def about(document: Document) -> dict[str, str | None]:
    """Where a downloaded table or figure comes from: the lines that travel with it."""
    record, setup = latest(document), document.setup
    return {
        "report": "Experiment 10",
        "profile": record.get("profile"),
        "model": _with_print(setup.get("model", {})),
        "corpus": _with_print(setup.get("corpus", {})),
        "commit": record.get("commit"),
        "date": date(document),
        "again": again(document),
    }


def date(document: Document) -> str:
    """The day of the last computation, `YYYY-MM-DD`, or nothing."""
    return str(latest(document).get("times", {}).get("started", ""))[:10]


def rows(document: Document) -> list[tuple[str, str]]:
    """`[(word, value)]` of everything that a reader needs to make the report again."""
    record = latest(document)
    setup = document.setup
    model, corpus = setup.get("model", {}), setup.get("corpus", {})
    times = [s["provenance"].get("times", {}) for s in document.sections.values() if s["provenance"]]
    backends = dict.fromkeys(str(s["provenance"].get("backend")) for s in document.sections.values() if s["provenance"])
    parameters = setup.get("parameters") or record.get("parameters", {})
    found = [
        ("profile", record.get("profile")),
        ("model", _with_print(model)),
        ("corpus", _with_print(corpus, corpus.get("split"))),
        ("commit", record.get("commit") or "—"),
        ("dirty", "✓" if record.get("dirty") else None),
        ("machine", ", ".join(f"{v} cores" if k == "cores" else str(v) for k, v in record.get("machine", {}).items())),
        ("device", record.get("device")),
        ("backend", ", ".join(b for b in backends if b not in ("None", "none"))),
        ("seed", record.get("seed")),
        ("started", min((str(t.get("started")) for t in times if t.get("started")), default=None)),
        ("seconds", f"{sum(t.get('seconds', 0) for t in times):,.0f} s" if times else None),
        ("reused", f"{sum(t.get('reused', 0) for t in times):,.0f} s" if times else None),
        ("ledger", ", ".join(ledger(document))),
        ("versions", ", ".join(f"{k} {v}" for k, v in record.get("versions", {}).items())),
        ("parameters", ", ".join(f"{k} = {v}" for k, v in parameters.items() if v != "")),
    ]
    return [(key, str(value)) for key, value in found if value not in (None, "", {})]


def ledger(document: Document) -> list[str]:
    """Each section's seconds, in the order of the report: computed, and after a plus sign found in the store."""
    order = dict.fromkeys(name for part in PARTS for name in part.notebooks) | dict.fromkeys(document.sections)
    times = {
        name: document.sections[name]["provenance"].get("times", {}) for name in order if name in document.sections
    }
    return [f"{name} {t['seconds']:,.0f} + {t.get('reused', 0):,.0f} s" for name, t in times.items() if "seconds" in t]


def again(document: Document) -> str:
    """The command that makes this report again, with the parameters that differ from the profile's."""
    profile = latest(document).get("profile")
    if not profile:
        return "make report"
    try:
        usual = load_profile(profile)
    except InputError:
        usual = {}
    given = {k: v for section in document.sections.values() for k, v in section["parameters"].items()}
    changed = [f"-p {key} {_argument(value)}" for key, value in given.items() if key in usual and usual[key] != value]
    words = [f"PROFILE={profile}", *([f"PARAMS={' '.join(changed)}"] if changed else [])]
    return " ".join(["make report", *map(_for_make, words)])


def _for_make(word: str) -> str:
    """A variable for make on a command line: what is in it is neither the shell's nor make's."""
    name, _, value = word.partition("=")
    quoted = value.replace("$", "$$")
    if not re.search(r"[^\w.,/@:+-]", value):
        return word
    return f'{name}="{quoted}"' if not re.search(r'["$`\\!]', value) else f"{name}={shlex.quote(quoted)}"


def _argument(value: object) -> str:
    return shlex.quote(" ".join(map(str, value)) if isinstance(value, list) else str(value))


def _names(document: Document) -> tuple[str | None, str | None]:
    setup = document.setup
    return setup.get("model", {}).get("name"), setup.get("corpus", {}).get("name")


def _with_print(thing: dict[str, Any], extra: str | None = None) -> str | None:
    parts = [thing.get("name"), extra, thing.get("fingerprint")]
    return " · ".join(str(p) for p in parts if p) or None
