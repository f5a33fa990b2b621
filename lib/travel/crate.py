"""A profile's folder described as a Process Run Crate 0.5 (an RO-Crate 1.1): what made which file, from what, and when.

Each section is a `CreateAction`: its parameters, inputs and their digests are the `object`s, its results, figures and
executed notebook the `result`s. Everything that is written comes from the results, nothing from the clock.
"""

import datetime
import mimetypes
from collections.abc import Iterable, Mapping
from typing import Any

from lib.archive import METADATA

PROCESS_RUN = "https://w3id.org/ro/wfrun/process/0.5"
CONTEXT = ["https://w3id.org/ro/crate/1.1/context", {"sha256": "https://w3id.org/ro/terms/workflow-run#sha256"}]
SOFTWARE, AUTHORS, LICENCE = "#experiment10", "#authors", "https://spdx.org/licenses/MIT"
URLS = {
    "python": "https://www.python.org",
    "torch": "https://pytorch.org",
    "transformers": "https://github.com/huggingface/transformers",
}
TYPES = {".ipynb": "application/x-ipynb+json", ".npy": "application/octet-stream", ".txt": "text/plain"}
KINDS = {
    "results/data/sections/": "Results of section {}",
    "results/data/": "Data {}",
    "results/figures/": "Figure {}",
    "results/tables/": "Table {}",
    "notebooks/": "Executed notebook {}",
    "report/": "Report {}",
    "keys/": "Entries of the store that {} used",
}

Entity = dict[str, Any]


def described(
    profile: str,
    sections: Mapping[str, Mapping[str, Any]],
    manifest: Mapping[str, Any],
    files: Mapping[str, tuple[str, int]],
    citation: Mapping[str, Any],
    digest: str,
) -> Entity:
    """The content of `ro-crate-metadata.json`.

    `sections` are the sections' records as on disk, `files` maps every path of the pack to `(sha256, bytes)`, `digest`
    is that of the results without times.
    """
    newest = max(sections.values(), key=lambda record: record["provenance"]["times"]["started"])["provenance"]
    actions = [action(name, record, manifest["notebooks"].get(name, {}), files) for name, record in sections.items()]
    graph: list[Entity] = [
        {
            "@id": METADATA,
            "@type": "CreativeWork",
            "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
            "about": {"@id": "./"},
        },
        {
            "@id": "./",
            "@type": "Dataset",
            "name": f"{citation['title']}: results of profile {profile}",
            "description": " ".join(citation["abstract"].split()),
            "datePublished": ended(newest["times"]),
            "license": {"@id": LICENCE},
            "author": {"@id": AUTHORS},
            "publisher": {"@id": AUTHORS},
            "keywords": ", ".join(citation["keywords"]),
            "identifier": f"sha256:{digest}",
            "conformsTo": {"@id": PROCESS_RUN},
            "hasPart": [{"@id": name} for name in files],
            "mentions": [{"@id": entities[0]["@id"]} for entities in actions],
        },
        {"@id": PROCESS_RUN, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"},
        {
            "@id": LICENCE,
            "@type": "CreativeWork",
            "name": "MIT License",
            "description": "Permission to use, copy, change and pass on, with the notice kept.",
        },
        {"@id": AUTHORS, "@type": "Organization", "name": citation["authors"][0]["name"]},
        *software(newest, citation),
        *(entity for entities in actions for entity in entities),
        *(file(name, *described) for name, described in files.items()),
    ]
    return {"@context": CONTEXT, "@graph": graph}


def software(provenance: Mapping[str, Any], citation: Mapping[str, Any]) -> list[Entity]:
    """This project and the packages that it ran with, each with its version."""
    packages: list[Entity] = [
        {
            "@id": f"pkg:pypi/{name}@{version}" if name != "python" else f"pkg:generic/python@{version}",
            "@type": "SoftwareApplication",
            "name": name,
            "softwareVersion": version,
            **({"url": URLS[name]} if name in URLS else {}),
        }
        for name, version in provenance["versions"].items()
    ]
    own = {
        "@id": SOFTWARE,
        "@type": "SoftwareApplication",
        "name": citation["title"],
        "softwareVersion": f"{citation['version']} {provenance['commit'] or 'without a commit'}",
        "license": {"@id": LICENCE},
        "softwareRequirements": [{"@id": package["@id"]} for package in packages],
    }
    return [own, *packages]


def action(
    name: str, record: Mapping[str, Any], noted: Mapping[str, Any], files: Mapping[str, tuple[str, int]]
) -> list[Entity]:
    """A section's `CreateAction`, and after it the values that it points to."""
    origin, depends = record["provenance"], noted.get("measuring", {})
    values = [("parameter", key, value) for key, value in record["parameters"].items()]
    values += [(kind, origin[kind]["name"], f"sha256:{origin[kind]['fingerprint']}") for kind in ("model", "corpus")]
    values += [("input", key, f"sha256:{digest}") for key, digest in depends.get("inputs", {}).items()]
    values += [("module", key, f"sha256:{digest}") for key, digest in depends.get("modules", {}).items()]
    values += [("environment", key, value) for key, value in depends.get("packages", {}).items()]
    values += [("machine", key, value) for key, value in origin["machine"].items()]
    values += [("machine", key, origin[key]) for key in ("device", "backend")]
    properties = [
        {"@id": f"#{name}-{kind}-{number}", "@type": "PropertyValue", "name": f"{kind} {key}", "value": plain(value)}
        for number, (kind, key, value) in enumerate(values)
    ]
    needs = [f"results/data/sections/{need}.json" for need in depends.get("needs", {})]
    made = [path for path in noted.get("files", {f"results/data/sections/{name}.json": ""}) if path in files]
    return [
        {
            "@id": f"#{name}",
            "@type": "CreateAction",
            "name": f"Section {name}",
            "description": f"The notebook notebooks/{name}.ipynb under profile {origin['profile']}",
            "startTime": origin["times"]["started"],
            "endTime": ended(origin["times"]),
            "actionStatus": "http://schema.org/CompletedActionStatus",
            "instrument": {"@id": SOFTWARE},
            "agent": {"@id": AUTHORS},
            "object": references([p for p in needs if p in files] + [str(p["@id"]) for p in properties]),
            "result": references(made),
        },
        *properties,
    ]


def file(name: str, digest: str, size: int) -> Entity:
    suffix = "." + name.rsplit(".", 1)[-1]
    kind = next((words for start, words in KINDS.items() if name.startswith(start)), "{}")
    return {
        "@id": name,
        "@type": "File",
        "name": kind.format(name.rsplit("/", 1)[-1]),
        "encodingFormat": TYPES.get(suffix) or mimetypes.types_map.get(suffix, "application/octet-stream"),
        "contentSize": str(size),
        "sha256": digest,
    }


def references(ids: Iterable[str]) -> list[Entity]:
    return [{"@id": found} for found in ids]


def plain(value: Any) -> str | int | float | bool:
    return value if isinstance(value, (str, int, float, bool)) else str(value)


def ended(times: Mapping[str, Any]) -> str:
    """When it ended, in whole seconds, from `{started, seconds}`."""
    started = datetime.datetime.fromisoformat(times["started"])
    return (started + datetime.timedelta(seconds=times["seconds"])).isoformat(timespec="seconds")
