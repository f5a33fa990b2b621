"""Runs the notebooks that have to run, in the order of their needs, and then has the report assembled.

A notebook is measured again when its measuring cells, its parameters, the modules that they reach, the pinned packages
or the results that it needs have changed, and only redrawn when its text, its drawing cells or what those reach have;
all of that is told by content, never by dates.
"""

import argparse
import ast
import os
import subprocess
import sys
import time
from contextlib import closing

import nbformat

from lib.errors import InputError
from lib.layout import ROOT, build_root
from lib.machine import check_packages
from lib.params import RULES, near, resolve_for_model
from lib.pipeline import notebooks
from lib.pipeline.execution import Kernels, execute
from lib.pipeline.freshness import Profile
from lib.pipeline.notebooks import closure, discover
from lib.store import open_store


def check_overrides(overrides, sections):
    for name in overrides:
        if name in RULES and not any(name in nb.parameters for nb in sections):
            raise InputError(
                f"-p {name}: used by none of {', '.join(nb.name for nb in sections)}; allowed there:"
                f" {', '.join(sorted({p for nb in sections for p in nb.parameters} - {'profile'}))}"
            )


def check_model(values, given=()):
    """The checks that need the model's shape, before any notebook starts; a hub model is left to the set-up."""
    from lib.model import loading

    if loading.local_folder(values["model"]) or not loading.looks_like_hub_id(values["model"]):
        shape = loading.shape(loading.load_config(loading.model_folder(values["model"])))
        resolve_for_model(values, *shape)
        n_heads = shape[0] * shape[1]
        if "top_heads" in given and values["top_heads"] > n_heads:
            raise InputError(f"top_heads: given {values['top_heads']}, allowed: at most {n_heads}, all heads")
        if values["focus_head"] != "auto":
            from lib.params import read_head

            read_head(values["focus_head"], *shape[:2])


def run_notebooks(profile_name, names=None, overrides=None, dry=False):
    """Brings the named notebooks, all by default, and what they need up to date; returns their `Profile`.

    `overrides` of None keeps those of the profile's last run.
    """
    sections = discover()
    profile = Profile(profile_name, overrides)
    wanted = closure(sections, names or list(sections))
    check_overrides(profile.overrides, wanted if overrides else list(sections.values()))
    anything, measured = False, set()
    with closing(Kernels()) as kernels:
        for at, nb in enumerate(wanted):
            again = next((name for name in nb.needs if dry and name in measured), None)
            todo = ("measure", f"{again} is measured again") if again else profile.todo(nb)
            if todo is None:
                continue
            task, reason = todo
            anything = True
            if task == "measure" and not measured:
                check_model(profile.values, profile.overrides)
            if task == "measure":
                measured.add(nb.name)
            if dry:
                print(f"would {task:7} {nb.name:12} {reason}")
                continue
            print(f"{nb.name:12} {task}: {reason}", flush=True)
            started = time.time()
            depends = {"drawing": profile.drawing(nb)}
            if task == "measure":
                depends["measuring"] = profile.measuring(nb)
            following = profile.todo(wanted[at + 1]) if at + 1 < len(wanted) else None
            kernel = kernels.take(task)
            if following and not (task == "measure" and nb.measures_times):
                kernels.start_ahead(following[0])
            written = execute(profile, nb, kernel, task)
            profile.record(nb, task, depends, written)
            print(f"{nb.name:12} done in {time.time() - started:.0f} s", flush=True)
    if measured and not dry:
        print(f"store: {open_store()}", flush=True)
    if not anything:
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
            "--loading",
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

    path = notebooks.NOTEBOOKS / "embedded_model.ipynb"
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
            cwd=str(notebooks.NOTEBOOKS),
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
    parser.add_argument("--as-before", action="store_true", help="with the parameters of the profile's last run")
    parser.add_argument("-p", dest="given", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"))
    args = parser.parse_args(words)
    try:
        check_packages()
        overrides = None if args.as_before else dict(args.given)
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
