"""Runs the notebooks that have to run, in the order of their needs, and then has the report assembled.

A notebook is measured again when its measuring cells, its parameters, the modules that they reach, the pinned packages
or the results that it needs have changed, and only redrawn when its text, its drawing cells or what those reach have;
all of that is told by content, never by dates.
"""

import argparse
import ast
import os
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import nbformat

from lib.errors import KEPT, InputError
from lib.layout import build_root
from lib.machine import check_packages
from lib.params import RULES, near, resolve_for_model
from lib.pipeline import children, estimate, execution, notebooks, workers
from lib.pipeline.freshness import Profile
from lib.pipeline.kernels import DrawingKernels, Kernel, Kernels, start
from lib.pipeline.locking import locked
from lib.pipeline.measuring import WITHOUT
from lib.pipeline.notebooks import Notebook, closure, discover
from lib.store import open_store

DRAWN_AT_ONCE = 3

Plan = tuple[Profile, list[Notebook], dict[str, tuple[str, str]]]


def check_overrides(overrides: Iterable[str], sections: Sequence[Notebook]) -> None:
    for name in overrides:
        if name in RULES and not any(name in nb.parameters for nb in sections):
            raise InputError(
                f"-p {name}: used by none of {', '.join(nb.name for nb in sections)}; allowed there:"
                f" {', '.join(sorted({p for nb in sections for p in nb.parameters} - {'profile'}))}"
            )


def check_places(values: Mapping[str, Any]) -> None:
    """What the folders of tokenizer and dataset tell of themselves, before any notebook starts."""
    from lib.model import loading, texts

    texts.check(values["dataset"], values["dataset_config"], values["split"])
    folder = loading.local_folder(values["model"])
    if values["tokenizer"] or folder:
        name = values["tokenizer"] or values["model"]
        if loading.local_folder(name) or not loading.looks_like_hub_id(name):
            loading.check_tokenizer(loading.tokenizer_folder(name, Path(name)))


def check_model(values: Mapping[str, Any], given: Collection[str] = ()) -> None:
    """The checks that need the model's shape, before any notebook starts; a hub model is left to the set-up.

    With it those of the folders of tokenizer and dataset.
    """
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
    check_places(values)


def plan(
    profile_name: str, names: Iterable[str] | None, overrides: dict[str, Any] | None, kernels: Kernels | None = None
) -> Plan:
    """`(profile, wanted, todo)`: the notebooks in question, and `{name: (task, why)}` of what has to be done now.

    Everything that can be refused without running a notebook is refused here; `kernels` import ahead meanwhile.
    """
    sections = discover()
    profile = Profile(profile_name, overrides)
    wanted = closure(sections, names or list(sections))
    check_overrides(profile.overrides, wanted if overrides else list(sections.values()))
    todo: dict[str, tuple[str, str]] = {}
    for nb in wanted:
        again = next((need for need in nb.needs if todo.get(need, ("",))[0] == "measure"), None)
        found = ("measure", f"{again} is measured again") if again else profile.todo(nb)
        if found:
            todo[nb.name] = found
    if any(task == "measure" for task, _ in todo.values()):
        if kernels and not profile.values["workers"]:
            kernels.import_ahead(**{workers.VARIABLE: "0"})
        check_model(profile.values, profile.overrides)
    return profile, wanted, todo


def run_notebooks(
    profile_name: str,
    names: Iterable[str] | None = None,
    overrides: dict[str, Any] | None = None,
    dry: bool = False,
) -> Profile:
    """Brings the named notebooks, all by default, and what they need up to date; returns their `Profile`.

    `overrides` of None keeps those of the profile's last run.
    """
    with closing(Kernels()) as kernels:
        return carry_out(plan(profile_name, names, overrides, None if dry else kernels), overrides, dry, kernels)


def carry_out(planned: Plan, overrides: dict[str, Any] | None, dry: bool, kernels: Kernels) -> Profile:
    """What `plan` found to be done: done, or where it is `dry` said."""
    profile, wanted, todo = planned
    if not todo:
        print(f"profile {profile.name}: {', '.join(nb.name for nb in wanted)}: nothing to do")
    elif dry:
        known = estimate.rates(profile.name, profile.values, profile.manifest["seconds"])
        for name, (task, why) in todo.items():
            seconds = known[task].get(name)
            print(
                f"would {task:7} {name:12} {why}"
                + (f" (about {estimate.words(seconds)})" if seconds is not None else "")
            )
        print(estimate.total([(name, task) for name, (task, _) in todo.items()], known))
    else:
        measuring = any(task == "measure" for task, _ in todo.values())
        with locked(profile.name), workers.ready(profile.values | ({} if measuring else {"workers": 0})):
            profile = Profile(profile.name, overrides)  # as another run may have left it meanwhile
            profile.remove_leftovers()
            measured = measure(profile, wanted, kernels)
            found = {nb: profile.todo(nb) for nb in wanted}
            failed = redraw(profile, {nb: now[1] for nb, now in found.items() if now and now[0] == "redraw"})
        if failed:
            raise InputError(next(iter(failed.values())))
        if measured:
            print(f"store: {open_store()}", flush=True)
    return profile


@dataclass
class Measuring:
    """A notebook that runs: `measured` is set when its results stand or it has failed; `ended` gives what it wrote."""

    notebook: Notebook
    process_id: int
    measured: Event
    ended: Future[list[Path]]
    depends: dict[str, Any]
    started: float


def measure(profile: Profile, wanted: Sequence[Notebook], kernels: Kernels) -> int:
    """Runs those notebooks that have to be measured, after what they need; returns how many.

    One starts when the one before it has measured and still draws; one that measures times has the machine to itself.
    All are drawn by one kernel, or by two where drawing falls behind: a kernel's first drawing takes it a second.
    """
    left = list(wanted)
    before: Measuring | None = None
    n_measured = 0
    with closing(DrawingKernels()) as drawing, ThreadPoolExecutor(2) as pool:
        while left:
            nb = next_of(left, before is not None)
            left.remove(nb)
            task, why = profile.todo(nb) or (None, None)
            if task != "measure":
                continue
            if before and nb.measures_times:
                finish(profile, before)
                before = None
            print(f"{nb.name:12} measure: {why}", flush=True)
            now = begin(profile, nb, kernels.take(), drawing, pool)
            n_measured += 1
            if not nb.measures_times and one_waits(profile, left, nb):
                kernels.start_ahead()
            try:
                if before:
                    finish(profile, before)
            except InputError:
                if not now.measured.is_set():
                    children.kill(now.process_id)
                raise
            now.measured.wait()
            if now.ended.done():
                finish(profile, now)
            before = None if now.ended.done() else now
            if one_waits(profile, left):
                kernels.start_ahead()
        if before:
            finish(profile, before)
    return n_measured


def next_of(left: Sequence[Notebook], drawing: bool) -> Notebook:
    """The first that needs none of the others; while another one is `drawing`, rather one that measures no times."""
    ready = ready_of(left)
    return next((nb for nb in ready if not (drawing and nb.measures_times)), ready[0])


def ready_of(left: Sequence[Notebook], *running: Notebook) -> list[Notebook]:
    """Those that need none of the others, nor one that is running."""
    names = {nb.name for nb in (*left, *running)}
    return [nb for nb in left if not names & set(nb.needs)]


def one_waits(profile: Profile, left: Sequence[Notebook], *running: Notebook) -> bool:
    """Whether one of those that are ready has to be measured, as far as can be told now."""
    return any((profile.todo(nb) or ("",))[0] == "measure" for nb in ready_of(left, *running))


def begin(
    profile: Profile, nb: Notebook, kernel: Kernel, drawing: DrawingKernels, pool: ThreadPoolExecutor
) -> Measuring:
    depends = {"measuring": profile.measuring(nb), "drawing": profile.drawing(nb)}
    measured = Event()

    def run() -> list[Path]:
        try:
            done = execution.measure(profile, nb, kernel)
        finally:
            kernel.stop()
        measured.set()
        with drawing.one() as another:
            return execution.draw(profile, nb, another, done)

    ended = pool.submit(run)
    ended.add_done_callback(lambda _: measured.set())
    return Measuring(nb, kernel.process.pid, measured, ended, depends, time.time())


def finish(profile: Profile, now: Measuring) -> None:
    """Waits until a notebook is drawn, and notes it as measured. Raises its `InputError`."""
    written = now.ended.result()
    seconds = time.time() - now.started
    profile.took(now.notebook.name, "measure", seconds)
    profile.record(now.notebook, "measure", now.depends, written)
    print(f"{now.notebook.name:12} done in {seconds:.0f} s", flush=True)


def redraw(profile: Profile, todo: Mapping[Notebook, str]) -> dict[Notebook, str]:
    """Has notebooks drawn again whose results stand, a few at a time: none of them needs what another draws.

    Returns those that could not be drawn, each with its line.
    """
    failed: dict[Notebook, str] = {}
    depends = {nb: {"drawing": profile.drawing(nb)} for nb in todo}

    def draw(nb: Notebook) -> list[Path]:
        print(f"{nb.name:12} redraw: {todo[nb]}\n", end="", flush=True)  # one write, for several threads
        started = time.time()
        with kernels.one() as kernel:
            written = execution.draw(profile, nb, kernel)
        profile.took(nb.name, "redraw", time.time() - started)
        return written

    n_kernels = min(DRAWN_AT_ONCE, 1 + (os.cpu_count() or 1))
    with closing(DrawingKernels()) as kernels, ThreadPoolExecutor(n_kernels) as pool:
        drawing = {pool.submit(draw, nb): nb for nb in todo}
        for done in as_completed(drawing):
            nb = drawing[done]
            try:
                profile.record(nb, "redraw", depends[nb], done.result())
            except InputError as error:
                failed[nb] = str(error)
    return failed


def report(profile_name: str, overrides: dict[str, Any] | None, dry: bool = False) -> None:
    with closing(Kernels()) as kernels:
        planned = plan(profile_name, None, overrides, None if dry else kernels)
        with nullcontext() if dry or not (planned[2] or stale_report(planned[0])) else locked(profile_name):
            profile = carry_out(planned, overrides, dry, kernels)
            if not stale_report(profile):
                print(f"report: nothing to do: {os.path.relpath(profile.report_files()[0])}")
            elif dry:
                print("would assemble the report")
            else:
                assemble(profile)


def redraw_report(profile_name: str) -> None:
    """Draws and assembles from the results that stand, whatever they were measured with: needs no model.

    A section whose results are missing or not of this version's form, or that can't be drawn without such a one, is
    named in one line and stands in the report as not measured.
    """
    with locked(profile_name):
        profile = Profile(profile_name)
        if not profile.manifest["notebooks"]:
            raise InputError(f"{profile_name}: no results to draw; make them with `make report PROFILE={profile_name}`")
        profile.remove_leftovers()
        sections = [nb for nb in discover().values() if nb.name in profile.manifest["notebooks"]]
        profile.lost = {nb.name: why for nb in sections if (why := profile.unfit(nb.name))}
        os.environ[WITHOUT] = " ".join(profile.lost)
        standing = [nb for nb in sections if nb.name not in profile.lost]
        failed = redraw(profile, {nb: why for nb in standing if (why := profile.undrawn(nb))})
        profile.lost |= {nb.name: why for nb, why in failed.items()}
        for name, why in profile.lost.items():
            print(f"{name:12} left as not measured: {why}", flush=True)
        if len(profile.lost) == len(sections):
            raise InputError(
                f"{profile_name}: no section can be drawn; measure with `make report PROFILE={profile_name}`"
            )
        if stale_report(profile):
            assemble(profile)
        else:
            print(f"report: nothing to do: {os.path.relpath(profile.report_files()[0])}")


def stale_report(profile: Profile) -> bool:
    return profile.manifest["report"] != profile.report_key(discover().values())


def assemble(profile: Profile) -> None:
    """Has page and books put together, by a process of their own."""
    executed, results, out = (profile.folder / name for name in ("notebooks", "results", "report"))
    words = ("--notebooks", executed, "--results", results, "--out", out, "--loading", "--without", *profile.lost)
    if children.run("report.assemble", *words):
        raise InputError("report: could not be assembled, see above; the notebooks' results are kept")
    profile.manifest["report"] = profile.report_key(discover().values())
    profile.save()


TRAININGS = ("embedded_model", "reasoner")


def train(overrides: dict[str, Any], name: str = TRAININGS[0]) -> None:
    """Runs a notebook that trains a model, with overrides of its own parameters cell."""
    import papermill

    if name not in TRAININGS:
        raise InputError(f"train: given {name!r}{near(name, TRAININGS)}, allowed: {', '.join(TRAININGS)}")
    path = notebooks.NOTEBOOKS / f"{name}.ipynb"
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
    target = build_root() / name.replace("_", "-") / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent.name):
        kernel = start()
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
                km=kernel.manager,
            )
        except papermill.PapermillExecutionError as error:
            raise InputError(f"{path.name}: cell {error.cell_index}: {error.ename}: {error.evalue}") from None
        finally:
            kernel.stop()


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.pipeline", description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=["report", "run", "redraw", "dry-run", "list", "train"])
    parser.add_argument("names", nargs="*", help="notebooks (for run), or what to train")
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
            train(dict(args.given), *args.names)
        elif args.task == "run":
            run_notebooks(args.profile, args.names, overrides)
        elif args.task == "redraw":
            redraw_report(args.profile)
        else:
            report(args.profile, overrides, dry=args.task == "dry-run")
    except InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        where = error.filename or build_root()
        sys.exit(f"error: {where} can't be written ({error.strerror or error}); {KEPT}")
