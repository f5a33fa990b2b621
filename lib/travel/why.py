"""Why two runs differ: their inputs side by side in the order of their effect, and the results that each one moved."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.archive import Archive
from lib.errors import InputError, steady
from lib.results import diff, io

# Kinds of inputs by their first words: what stands first can move what comes after.
RANKS = (
    "interpreter", "package", "pins", "machine", "cpu", "device", "backend", "corpus", "weights", "tokens", "files",
    "parameter", "measuring", "code",
)  # fmt: skip
Sections = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Origins:
    """What a run says of itself: its sections' records, and of each the digests of what it depended on."""

    name: str
    sections: Sections
    noted: Mapping[str, Any]


@dataclass(frozen=True)
class Cause:
    """An input that differs: its two values, and the sections that read it and whose results differ."""

    kind: str
    a: str
    b: str
    moved: tuple[str, ...]


def read(name: str) -> Origins:
    """A profile's run or a pack. Raises `InputError` where there is none."""
    if name.endswith(".zip"):
        with Archive(Path(name)) as archive:
            records = list(diff.packed(archive).values())
            manifest = archive.read("manifest.json") if "manifest.json" in archive.names else b"{}"
    else:
        folder = diff.data_folder(name)
        records = [io.read_json(path, "section") for path in sorted((folder / "sections").glob("[!.]*.json"))]
        path = folder.parents[1] / "manifest.json"
        manifest = path.read_bytes() if path.is_file() else b"{}"
    try:
        noted = json.loads(manifest).get("notebooks", {})
    except (ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{name}: manifest.json is damaged ({error})") from None
    return Origins(name, {record["section"]: record for record in records}, noted)


def inputs(origins: Origins, section: str) -> dict[str, Any]:
    """`{input: digest, version or value}` of one section, the deepest first: what stands above can move what is below.

    The order: interpreter, packages, processor, corpus, weights, tokens, parameters, code.
    """
    record, noted = origins.sections[section], origins.noted.get(section, {}).get("measuring", {})
    origin = record["provenance"]
    cpu = {f"cpu {name}": value for name, value in origin.get("cpu", {}).items()}
    files = {k: v for note in origins.noted.values() for k, v in note.get("files", {}).items()}
    versions = dict(origin["versions"])
    found = {"interpreter": versions.pop("python")}
    found |= {f"package {name}": version for name, version in versions.items()}
    found["pins"] = noted.get("packages", {}).get("requirements.txt")
    found |= {f"machine {name}": value for name, value in origin["machine"].items()} | cpu
    found |= {"device": origin["device"], "backend": origin["backend"]}
    found |= {"corpus": origin["corpus"]["fingerprint"], "weights": origin["model"]["fingerprint"]}
    found["tokens"] = files.get("results/data/tokens.npy")
    found |= {f"files of parameter {name}": digest for name, digest in noted.get("inputs", {}).items()}
    found |= {f"parameter {name}": value for name, value in origin["parameters"].items()}
    found["measuring cells"] = noted.get("measuring cells")
    return found | {f"code {name}": digest for name, digest in noted.get("modules", {}).items()}


def causes(a: Origins, b: Origins) -> tuple[list[Cause], list[str]]:
    """`(inputs that differ, in their order; sections whose results differ although none of their inputs does)`."""
    shared = [name for name in a.sections if name in b.sections]
    moved = {name for name in shared if a.sections[name]["data"] != b.sections[name]["data"]}
    found: dict[str, Cause] = {}
    explained: set[str] = set()
    order: dict[str, int] = {}
    for section in shared:
        left, right = inputs(a, section), inputs(b, section)
        for place, kind in enumerate({**left, **right}):
            order.setdefault(kind, place)
            if left.get(kind) == right.get(kind):
                continue
            before = found[kind].moved if kind in found else ()
            reached = (*before, section) if section in moved else before
            found[kind] = Cause(steady(kind), shown(left.get(kind)), shown(right.get(kind)), reached)
            explained.add(section)
    for section in shared:  # a result that an explained one was made from is explained with it
        needs = a.noted.get(section, {}).get("measuring", {}).get("needs", {})
        if explained & set(needs):
            explained.add(section)
    rank = {kind: i for i, kind in enumerate(RANKS)}
    ordered = sorted(found.values(), key=lambda cause: (rank[cause.kind.split()[0]], order[cause.kind]))
    return ordered, [name for name in shared if name in moved - explained]


def explained(a: str, b: str) -> str:
    """The answer in words: the first input that differs and what it moved, the others, what nothing explains."""
    left, right = read(a), read(b)
    found, unexplained = causes(left, right)
    data = [{name: record["data"] for name, record in side.sections.items()} for side in (left, right)]
    compared = diff.compare(*data)
    lines = []
    if found:
        first = found[0]
        lines += [f"first that differs: {first.kind}: {first.a} against {first.b}", f"  moved: {listed(first.moved)}"]
    else:
        lines += ["no input differs: interpreter, packages, machine, corpus, weights, tokens, parameters, code"]
    if found[1:]:
        lines += ["also different:"]
        lines += ["\n".join(diff.columns([(f"  {c.kind}", c.a, c.b, listed(c.moved)) for c in found[1:]]))]
    if unexplained:
        lines += [f"moved though no input of theirs differs (times measured, or chance): {', '.join(unexplained)}"]
    return "\n".join([*lines, diff.summary(compared, a, b)])


def listed(sections: tuple[str, ...]) -> str:
    return ", ".join(sections) or "nothing"


def shown(value: object) -> str:
    if value is None:
        return "not recorded"
    text = steady(str(value))
    return text if len(text) <= 24 else f"{text[:12]}…"
