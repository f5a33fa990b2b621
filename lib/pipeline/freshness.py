"""What has to run again, told by content: one profile's folder under `build/` and the record of what has run there."""

import hashlib
import platform
import sys

from lib.errors import InputError
from lib.layout import ROOT, build_root
from lib.params import load_profile
from lib.pipeline.notebooks import sha
from lib.results import io


def files_digest(*folders, suffixes=(".py", ".json", ".yaml", ".metal", ".txt", ".css", ".js", ".j2", ".typ")):
    return sha(
        [
            [str(path.relative_to(ROOT)), hashlib.sha256(path.read_bytes()).hexdigest()]
            for folder in folders
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.suffix in suffixes and "__pycache__" not in path.parts
        ]
    )


def code_digest():
    return sha(
        files_digest(ROOT / "lib", ROOT / "kernels"),
        (ROOT / "requirements.txt").read_bytes(),
        platform.python_version(),
    )


def inputs_digest(values):
    """Of the model's and the corpus's files, where they are local."""
    from lib.model.loading import local_folder

    digests = []
    for key in ("model", "tokenizer", "dataset"):
        folder = local_folder(values[key]) if values[key] else None
        files = sorted(p for p in folder.rglob("*") if p.is_file()) if folder else []
        digests.append([[p.name, p.stat().st_size, hashlib.sha256(p.read_bytes()).hexdigest()] for p in files])
    return sha(digests)


class Profile:
    """One profile's folder under `build/` and the record of what has run there."""

    def __init__(self, name, overrides=None):
        self.name = name
        self.folder = build_root() / name
        self.manifest_path = self.folder / "manifest.json"
        self.manifest = {"overrides": {}, "notebooks": {}, "report": None}
        if self.manifest_path.is_file():
            try:
                self.manifest |= io.read_json(self.manifest_path)
            except InputError as error:
                print(f"{error}: taken as empty", file=sys.stderr)
        self.overrides = self.manifest["overrides"] if overrides is None else overrides
        self.values = load_profile(name, self.overrides)
        self.code = code_digest()

    def executed(self, nb):
        return self.folder / "notebooks" / f"{nb.name}.ipynb"

    def section(self, name):
        return io.section_path(self.folder / "results" / "data", name)

    def parameters(self, nb):
        return {"profile": self.name} | {k: self.values[k] for k in nb.parameters if k != "profile"}

    def key(self, nb):
        needed = [sha(io.read_json(self.section(name), "section")["data"]) for name in nb.needs]
        inputs = inputs_digest(self.values) if not nb.needs else ""
        return sha(nb.digest, self.parameters(nb), self.code, needed, inputs)

    def fresh(self, nb):
        """None where the notebook need not run, else the reason why it has to."""
        record = self.manifest["notebooks"].get(nb.name)
        if record is None:
            return "has not run yet"
        if not all(self.section(name).is_file() for name in nb.needs):
            return "what it needs is missing"
        for path, digest in record["files"].items():
            file = self.folder / path
            if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
                return f"{path} is missing or was altered"
        return None if record["key"] == self.key(nb) else "its cells, parameters, code or inputs have changed"

    def result_files(self):
        """`{path: a mark that changes with every writing}` of everything under `results/`."""
        paths = [p for p in (self.folder / "results").rglob("[!.]*") if p.is_file()]
        return {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in paths}

    def record(self, nb, key, written):
        files = [self.executed(nb), *sorted(written)]
        self.manifest["notebooks"][nb.name] = {
            "key": key,
            "files": {str(p.relative_to(self.folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files},
        }
        self.save()

    def save(self):
        self.manifest["overrides"] = self.overrides
        io.write_json(self.manifest_path, self.manifest)

    def report_key(self, notebooks):
        records = [[nb.name, self.manifest["notebooks"].get(nb.name)] for nb in notebooks]
        return sha(records, files_digest(ROOT / "report", ROOT / "lib"))

    def report_files(self):
        return [self.folder / "report" / name for name in ("report.html", "report.ja.pdf", "report.en.pdf")]
