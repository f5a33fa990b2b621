"""What has to be measured or drawn again, told by content: one profile's folder under `build/`, and its record."""

import copy
import hashlib
import platform
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from lib.errors import InputError
from lib.layout import ROOT, build_root, used_keys
from lib.model.loading import local_folder
from lib.params import OF_THE_RUN, load_profile
from lib.pipeline.notebooks import Notebook, sha
from lib.results import io
from lib.sources import digest_of, digests


def packages() -> dict[str, str]:
    """`{what: digest or version}` of what stands outside the project and decides results."""
    return {"requirements.txt": file_digest(ROOT / "requirements.txt"), "Python": platform.python_version()}


EMPTY: dict[str, Any] = {"overrides": {}, "notebooks": {}, "report": None, "seconds": {}}
SEAL = "sha256"  # of all else in a profile's record: a record that was altered is none
FOLDERS = ("model", "tokenizer", "dataset", "judge", "reasoner")


def inputs(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    """`{parameter: digest}` of the files of the folders that a notebook's parameters name, where they are local."""
    found = {}
    for key in [key for key in FOLDERS if key in names]:
        folder = local_folder(values[key]) if values[key] else None
        files = sorted(p for p in folder.rglob("*") if p.is_file()) if folder else []
        found[key] = sha([[p.name, p.stat().st_size, file_digest(p)] for p in files])
    return found


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_digest(section: Path) -> str:
    """The digest of a section's results, whatever their provenance. Raises `InputError` where they can't be read."""
    return _data_digest(section, file_digest(section) if section.is_file() else None)


@lru_cache(maxsize=256)
def _data_digest(section: Path, content: str | None) -> str:
    return sha(io.read_json(section, "section")["data"])


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """What differs between two records of what a notebook depends on, in words; None where nothing does."""
    words = {"parameters": "parameter {}", "needs": "the results of {}", "inputs": "what {} names"}
    for kind, value in now.items():
        old = before.get(kind)
        if old == value:
            continue
        if not isinstance(value, dict) or not isinstance(old, dict):
            return f"its {kind} have changed"
        names = sorted(name for name in old.keys() | value.keys() if old.get(name) != value.get(name))
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        named = ", ".join(words.get(kind, "{}").format(name) for name in names[:3])
        return f"{named}{more} changed"
    return None


def read_record(path: Path) -> dict[str, Any]:
    """What `Profile.save` has written, or an earlier version, which left no seal. Raises `InputError` where altered."""
    record = io.read_json(path)
    seal = record.pop(SEAL, None) if isinstance(record, dict) else None
    if not isinstance(record, dict) or record.keys() - EMPTY or seal not in (None, sha(record)):
        raise InputError(f"{path}: damaged (another digest than its own)")
    return record


def drawn(path: str) -> bool:
    """Whether a file under a profile's folder is one that drawing cells write."""
    return path.startswith("results/figures/")


class Profile:
    """One profile's folder under `build/` and the record of what has run there."""

    def __init__(self, name: str, overrides: dict[str, Any] | None = None) -> None:
        self.name = name
        self.folder = build_root() / name
        self.manifest_path = self.folder / "manifest.json"
        self.manifest: dict[str, Any] = copy.deepcopy(EMPTY)
        if self.manifest_path.is_file():
            try:
                self.manifest |= read_record(self.manifest_path)
            except InputError as error:
                print(f"{error}: taken as empty", file=sys.stderr)
        given: dict[str, Any] = self.manifest["overrides"] if overrides is None else overrides
        self.values = load_profile(name, given)
        self.overrides = {key: value for key, value in given.items() if key not in OF_THE_RUN}
        self.lost: dict[str, str] = {}  # sections that a redraw goes without, and why

    def executed(self, nb: Notebook) -> Path:
        return self.folder / "notebooks" / f"{nb.name}.ipynb"

    def section(self, name: str) -> Path:
        return io.section_path(self.folder / "results" / "data", name)

    def unfit(self, name: str) -> str | None:
        """Why a section's results can't be used as they lie there; None where they can."""
        return io.unfit(self.section(name))

    def parameters(self, nb: Notebook) -> dict[str, Any]:
        return {"profile": self.name} | {k: self.values[k] for k in nb.parameters if k != "profile"}

    def measuring(self, nb: Notebook) -> dict[str, Any]:
        """What the results of a notebook depend on; its needs must have been measured."""
        return {
            "measuring cells": nb.measured,
            "parameters": self.parameters(nb),
            "modules": digests(nb.measuring),
            "packages": packages(),
            "needs": {name: data_digest(self.section(name)) for name in nb.needs},
            "inputs": inputs(self.values, nb.parameters),
        }

    def drawing(self, nb: Notebook) -> dict[str, Any]:
        """What the executed notebook and its figures depend on, beside its own results."""
        needs = {name: data_digest(self.section(name)) for name in nb.needs if name not in self.lost}
        return {"cells": nb.drawn, "modules": digests(nb.drawing), "packages": packages(), "needs": needs}

    def todo(self, nb: Notebook) -> tuple[str, str] | None:
        """`("measure" or "redraw", why)`, or None where nothing has to be done."""
        record = self.manifest["notebooks"].get(nb.name)
        if record is None or "measuring" not in record:
            return "measure", "has not run yet"
        missing = [name for name in nb.needs if not self.section(name).is_file()]
        if missing:
            return "measure", f"needs {missing[0]}"
        altered = [path for path, digest in record["files"].items() if self.altered(path, digest)]
        for path in altered:
            if not drawn(path):
                return "measure", f"{path} is missing or was altered"
        unfit = self.unfit(nb.name)
        if unfit:
            return "measure", unfit
        why = changed(record["measuring"], self.measuring(nb))
        if why:
            return "measure", why
        why = self.undrawn(nb)
        return ("redraw", why) if why else None

    def undrawn(self, nb: Notebook) -> str | None:
        """Why the drawing cells have to run on the results that stand; None where they need not, or have none."""
        record = self.manifest["notebooks"].get(nb.name, {})
        standing = [self.section(name) for name in (nb.name, *nb.needs) if name not in self.lost]
        standing = [self.executed(nb), *standing]
        if "drawing" not in record or not all(path.is_file() for path in standing):
            return None
        altered = [path for path, digest in record["files"].items() if drawn(path) and self.altered(path, digest)]
        if altered:
            return f"{altered[0]} is missing or was altered"
        return changed(record["drawing"], self.drawing(nb))

    def altered(self, path: str, digest: str) -> bool:
        file = self.folder / path
        return not file.is_file() or file_digest(file) != digest

    @property
    def figures(self) -> Path:
        return self.folder / "results" / "figures"

    def data_files(self) -> dict[Path, tuple[int, int]]:
        """`{path: a mark that changes with every writing}` of all results but the figures."""
        paths = [p for p in (self.folder / "results").rglob("[!.]*") if p.is_file()]
        paths = [p for p in paths if not p.is_relative_to(self.figures)]
        return {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in paths}

    def remove_leftovers(self) -> None:
        """Takes away what writers that were killed had not put into place."""
        for path in self.folder.rglob(".*.*"):
            if path.is_file():
                path.unlink(missing_ok=True)

    def record(self, nb: Notebook, task: str, depends: dict[str, Any], written: Iterable[Path]) -> None:
        """Notes that a notebook has been measured or redrawn; figures that it no longer draws are removed."""
        before = self.manifest["notebooks"].get(nb.name, {"files": {}})
        files = {path: digest for path, digest in before["files"].items() if task == "redraw" and not drawn(path)}
        keys = used_keys(self.folder, nb.name)
        for path in [self.executed(nb), *sorted(written), *([keys] if keys.is_file() else [])]:
            files[path.relative_to(self.folder).as_posix()] = file_digest(path)
        others = [record["files"] for name, record in self.manifest["notebooks"].items() if name != nb.name]
        for path in before["files"].keys() - files.keys():
            if drawn(path) and not any(path in theirs for theirs in others):
                (self.folder / path).unlink(missing_ok=True)
        self.manifest["notebooks"][nb.name] = before | depends | {"files": files}
        self.save()

    def took(self, name: str, task: str, seconds: float) -> None:
        """Notes how long a notebook's task has taken here, for `estimate`."""
        self.manifest["seconds"].setdefault(task, {})[name] = round(seconds, 1)

    def save(self) -> None:
        self.manifest["overrides"] = self.overrides
        io.write_json(self.manifest_path, self.manifest | {SEAL: sha(io.plain(self.manifest))})

    def report_key(self, notebooks: Iterable[Notebook]) -> str:
        """Changes with what the report is made from, and with its files."""
        records = [[nb.name, self.manifest["notebooks"].get(nb.name)] for nb in notebooks]
        made = [file_digest(path) if path.is_file() else None for path in self.report_files()]
        linked = (self.folder / "report" / "playground.html").is_file()
        sources = digest_of(["report.assemble"]), file_digest(ROOT / "CITATION.cff")
        return sha(records, sorted(self.lost), *sources, made, linked)

    def report_files(self) -> list[Path]:
        return [self.folder / "report" / name for name in ("report.html", "report.ja.pdf", "report.en.pdf")]
