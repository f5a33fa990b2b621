"""Runs the notebooks that have to run, in the order of their needs, and then has the report assembled.

A notebook has to run again when its own cells, its parameters, the code in `lib/` and `kernels/`, the pinned
packages or the results that it needs have changed; all of that is told by content, never by dates.
"""

import argparse
import ast
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import nbformat

from lib import results
from lib.errors import InputError, first_line
from lib.params import ROOT, RULES, load_profile, near, resolve_for_model
from lib.run import build_root, open_store

NOTEBOOKS = ROOT / "notebooks"


@dataclass(frozen=True)
class Notebook:
    """What the pipeline reads off a notebook without running it."""

    name: str
    path: Path
    needs: tuple[str, ...]
    parameters: tuple[str, ...]
    digest: str

    @property
    def measures_times(self):
        return "speed_runs" in self.parameters


def sha(*parts):
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def read_notebook(path):
    """`Notebook` of a file, or None where it opens no `Run`. Raises `InputError` without one tagged parameters cell."""
    try:
        cells = nbformat.read(path, as_version=4).cells
    except (ValueError, nbformat.ValidationError) as error:
        raise InputError(f"{path.name}: no notebook ({first_line(error)})") from None
    code = [cell for cell in cells if cell.cell_type == "code"]
    call = next((found for cell in code for found in run_calls(cell.source, path)), None)
    if call is None:
        return None
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise InputError(f"{path.name}: {len(tagged)} cells tagged parameters, allowed: exactly one")
    section, needs = call
    if section != path.stem:
        raise InputError(f"{path.name}: opens the section {section!r}, allowed: its own name, {path.stem!r}")
    names = tuple(target.id for node in ast.parse(tagged[0].source).body for target in targets(node, path))
    unknown = [name for name in names if name not in RULES and name != "profile"]
    if unknown:
        raise InputError(f"{path.name}: parameter {unknown[0]}: unknown{near(unknown[0], RULES)}")
    content = [[cell.cell_type, cell.source, cell.metadata.get("tags", [])] for cell in cells]
    return Notebook(path.stem, path, tuple(needs), names, sha(content))


def targets(node, path):
    if not isinstance(node, ast.Assign) or not all(isinstance(target, ast.Name) for target in node.targets):
        raise InputError(f"{path.name}: the parameters cell may hold plain assignments only")
    return node.targets


def run_calls(source, path):
    """`(section, needs)` of each `Run(section, globals(), needs=[…])` in a cell."""
    if "Run(" not in source:
        return
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError as error:
        raise InputError(f"{path.name}: the cell that opens its Run does not parse ({error})") from None
    for node in nodes:
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "Run":
            try:
                needs = next((ast.literal_eval(k.value) for k in node.keywords if k.arg == "needs"), [])
                yield ast.literal_eval(node.args[0]), needs
            except (ValueError, IndexError):
                raise InputError(f"{path.name}: Run takes its section and its needs as literals") from None


def discover():
    """`{name: Notebook}` of every section, needs before those that need them."""
    found = {nb.name: nb for nb in map(read_notebook, sorted(NOTEBOOKS.glob("*.ipynb"))) if nb}
    for nb in found.values():
        for need in nb.needs:
            if need not in found:
                raise InputError(f"{nb.name}: needs {need!r}{near(need, found)}, allowed: {', '.join(found)}")
    try:
        order = TopologicalSorter({nb.name: nb.needs for nb in found.values()}).static_order()
        return {name: found[name] for name in order}
    except CycleError as error:
        raise InputError(f"notebooks need each other in a circle: {' → '.join(error.args[1])}") from None


def closure(notebooks, names):
    """The named notebooks and all that they need, in order."""
    wanted, stack = set(), list(names)
    while stack:
        name = stack.pop()
        if name not in notebooks:
            raise InputError(f"notebook: given {name!r}{near(name, notebooks)}, allowed: {', '.join(notebooks)}")
        if name not in wanted:
            wanted.add(name)
            stack += notebooks[name].needs
    return [nb for name, nb in notebooks.items() if name in wanted]


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
    from lib.models import local_folder

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
                self.manifest |= results.read_json(self.manifest_path)
            except InputError as error:
                print(f"{error}: taken as empty", file=sys.stderr)
        self.overrides = self.manifest["overrides"] if overrides is None else overrides
        self.values = load_profile(name, self.overrides)
        self.code = code_digest()

    def executed(self, nb):
        return self.folder / "notebooks" / f"{nb.name}.ipynb"

    def section(self, name):
        return results.section_path(self.folder / "results" / "data", name)

    def parameters(self, nb):
        return {"profile": self.name} | {k: self.values[k] for k in nb.parameters if k != "profile"}

    def key(self, nb):
        needed = [sha(results.read_json(self.section(name), "section")["data"]) for name in nb.needs]
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
        results.write_json(self.manifest_path, self.manifest)

    def report_key(self, notebooks):
        records = [[nb.name, self.manifest["notebooks"].get(nb.name)] for nb in notebooks]
        return sha(records, files_digest(ROOT / "report", ROOT / "lib"))

    def report_files(self):
        return [self.folder / "report" / name for name in ("report.html", "report.ja.pdf", "report.en.pdf")]


def check_overrides(overrides, notebooks):
    for name in overrides:
        if name in RULES and not any(name in nb.parameters for nb in notebooks):
            raise InputError(
                f"-p {name}: used by none of {', '.join(nb.name for nb in notebooks)}; allowed there:"
                f" {', '.join(sorted({p for nb in notebooks for p in nb.parameters} - {'profile'}))}"
            )


def check_model(values, given=()):
    """The checks that need the model's shape, before any notebook starts; a hub model is left to the set-up."""
    from lib import models

    if models.local_folder(values["model"]) or not models.looks_like_hub_id(values["model"]):
        shape = models.shape(models.load_config(models.model_folder(values["model"])))
        resolve_for_model(values, *shape)
        n_heads = shape[0] * shape[1]
        if "top_heads" in given and values["top_heads"] > n_heads:
            raise InputError(f"top_heads: given {values['top_heads']}, allowed: at most {n_heads}, all heads")
        if values["focus_head"] != "auto":
            from lib.params import read_head

            read_head(values["focus_head"], *shape[:2])


@contextmanager
def kernel_environment():
    """What kernels inherit while the pipeline starts them; a notebook that has a section run stays as it was."""
    before = dict(os.environ)
    terminal = str(int(sys.stderr.isatty()))
    os.environ |= {"EXPERIMENT10_PIPELINE": "0", "PYTHONHASHSEED": "0", "EXPERIMENT10_TERMINAL": terminal}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before


class Kernels:
    """Kernels for one notebook after another, the next one started ahead.

    Starting one and importing what all sections import takes a core some seconds, which a section that computes can
    spare; a section that measures times cannot.
    """

    ARGUMENTS = [
        "--IPKernelApp.exec_lines=import lib.charts, lib.evaluate, lib.generate, lib.prose, lib.stats",
        "--HistoryManager.hist_file=:memory:",
    ]

    def __init__(self):
        self.spare = None

    def take(self):
        kernel, self.spare = self.spare or self._start(), None
        return kernel

    def start_ahead(self):
        self.spare = self.spare or self._start()

    def close(self):
        if self.spare is not None:
            stop(self.spare)

    def _start(self):
        from jupyter_client import AsyncKernelManager
        from jupyter_core.utils import run_sync
        from traitlets.config import Config

        config = Config({"KernelManager": {"transport_encryption": "required"}})
        kernel = AsyncKernelManager(kernel_name="python3", config=config)
        with kernel_environment():
            run_sync(kernel.start_kernel)(cwd=str(NOTEBOOKS), extra_arguments=self.ARGUMENTS)
        return kernel


def stop(kernel):
    from jupyter_core.utils import run_sync

    run_sync(kernel.shutdown_kernel)(now=True)


def execute(profile, nb, kernel):
    """Runs one notebook; its executed copy takes the old one's place only when every cell has run.

    Returns the files that it wrote under `results/`.
    Raises `InputError` in one line for a failed cell; the notebook as far as it ran is kept under `failed/`.
    """
    import papermill

    target = profile.executed(nb)
    before = profile.result_files()
    failed = profile.folder / "failed" / target.name
    failed.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            str(nb.path),
            str(failed),
            parameters=profile.parameters(nb),
            kernel_name="python3",
            language="python",
            progress_bar=False,
            cwd=str(NOTEBOOKS),
            coalesce_streams=True,
            stderr_file=sys.stderr,
            log_output=False,
            km=kernel,
        )
    except papermill.PapermillExecutionError as error:
        if error.ename == "InputError":
            raise InputError(f"{nb.name}: {error.evalue}") from None
        what = f"cell {error.cell_index}: {error.ename}: {(error.evalue.splitlines() or [''])[0]}"
        raise InputError(f"{nb.name}: {what}; see {os.path.relpath(failed)}") from None
    except Exception as error:
        what = f"its kernel stopped ({type(error).__name__}: {error})"
        raise InputError(f"{nb.name}: {what}; see {os.path.relpath(failed)}") from None
    finally:
        stop(kernel)
    executed = nbformat.read(failed, as_version=4)
    for i, cell in enumerate(executed.cells):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        if cell.execution_count is None or any(output.output_type == "error" for output in cell.outputs):
            raise InputError(f"{nb.name}: cell {i} did not run to its end; see {os.path.relpath(failed)}")
    written = [path for path, mark in profile.result_files().items() if before.get(path) != mark]
    if profile.section(nb.name) not in written:
        raise InputError(f"{nb.name}: ended without run.finish(…), so it has no results; see {os.path.relpath(failed)}")
    with results.replacing(target) as partial:
        nbformat.write(tidy(executed), partial)
    failed.unlink()
    return written


def tidy(notebook):
    """The executed notebook without what differs from run to run: times, random ids, progress bars."""
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        for name in ("papermill", "execution"):
            cell.metadata.pop(name, None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = "injected-parameters"
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if not (o.output_type == "stream" and o.name == "stderr")]
    return notebook


def run_notebooks(profile_name, names=None, overrides=None, dry=False):
    """Brings the named notebooks, all by default, and what they need up to date; returns their `Profile`.

    `overrides` of None keeps those of the profile's last run.
    """
    notebooks = discover()
    profile = Profile(profile_name, overrides)
    wanted = closure(notebooks, names or list(notebooks))
    check_overrides(profile.overrides, wanted if overrides else list(notebooks.values()))
    check_model(profile.values, profile.overrides)
    stale = set()
    with closing(Kernels()) as kernels:
        for at, nb in enumerate(wanted):
            rerun = [name for name in nb.needs if dry and name in stale]
            reason = profile.fresh(nb) or (f"{rerun[0]} runs again" if rerun else None)
            if reason is None:
                continue
            stale.add(nb.name)
            if dry:
                print(f"would run {nb.name:12} {reason}")
                continue
            print(f"{nb.name:12} {reason}", flush=True)
            started = time.time()
            kernel = kernels.take()
            if at + 1 < len(wanted) and not nb.measures_times:
                kernels.start_ahead()
            written = execute(profile, nb, kernel)
            profile.record(nb, profile.key(nb), written)
            print(f"{nb.name:12} done in {time.time() - started:.0f} s", flush=True)
    if stale and not dry:
        print(f"store: {open_store()}", flush=True)
    if not stale:
        print(f"profile {profile_name}: {', '.join(nb.name for nb in wanted)}: nothing to do")
    return profile


def report(profile_name, overrides, dry=False):
    profile = run_notebooks(profile_name, None, overrides, dry)
    key = profile.report_key(discover().values())
    if profile.manifest["report"] == key and all(path.is_file() for path in profile.report_files()):
        print(f"report: nothing to do: {os.path.relpath(profile.report_files()[0])}")
        return
    if dry:
        print("would assemble the report")
        return
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "report.assemble",
            "--notebooks",
            profile.folder / "notebooks",
            "--results",
            profile.folder / "results",
            "--out",
            profile.folder / "report",
        ],
        cwd=ROOT,
    )
    if done.returncode:
        raise InputError("report: could not be assembled, see above; the notebooks' results are kept")
    profile.manifest["report"] = key
    profile.save()


def train(overrides):
    """Runs the notebook that trains the embedded model, with overrides of its own parameters cell."""
    import papermill
    from traitlets.config import Config

    path = NOTEBOOKS / "embedded_model.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    cell = next(cell for cell in cells if "parameters" in cell.metadata.get("tags", []))
    defaults = {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(cell.source).body}
    for name, value in overrides.items():
        if name not in defaults:
            raise InputError(f"-p {name}: unknown{near(name, defaults)}, allowed: {', '.join(defaults)}")
        try:
            overrides[name] = type(defaults[name])(value)
        except ValueError:
            raise InputError(f"-p {name}: given {value!r}, allowed: a whole number") from None
    target = build_root() / "embedded-model" / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            str(path),
            str(target),
            parameters=overrides,
            kernel_name="python3",
            progress_bar=False,
            cwd=str(NOTEBOOKS),
            coalesce_streams=True,
            stderr_file=sys.stderr,
            config=Config({"KernelManager": {"transport_encryption": "required"}}),
        )
    except papermill.PapermillExecutionError as error:
        raise InputError(f"{path.name}: cell {error.cell_index}: {error.ename}: {error.evalue}") from None


def main(words=None):
    parser = argparse.ArgumentParser(prog="python -m lib.pipeline", description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=["report", "run", "dry-run", "list", "train"])
    parser.add_argument("names", nargs="*", help="notebooks (for run)")
    parser.add_argument("--profile", default="embedded")
    parser.add_argument("-p", dest="given", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"))
    args = parser.parse_args(words)
    try:
        overrides = dict(args.given)
        if args.task == "list":
            for nb in discover().values():
                print(f"{nb.name:12} needs {', '.join(nb.needs) or 'nothing':40} takes {', '.join(nb.parameters)}")
        elif args.task == "train":
            train(overrides)
        elif args.task == "run":
            run_notebooks(args.profile, args.names, overrides)
        else:
            report(args.profile, overrides, dry=args.task == "dry-run")
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; what is finished is kept, run the same command to go on")


if __name__ == "__main__":
    main()
