"""Runs one notebook: its measuring cells in one kernel, its drawing cells in another; its executed copy appears only
when every cell has run."""

import itertools
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from nbformat import NotebookNode

from lib.errors import KEPT, InputError, first_line
from lib.files import replacing
from lib.pipeline import notebooks
from lib.pipeline.freshness import Profile
from lib.pipeline.kernels import Kernel


class Measured(NamedTuple):
    """A notebook's measuring cells as they have run, and the files that they wrote under `results/`."""

    cells: list[NotebookNode]
    written: list[Path]


def measure(profile: Profile, nb: notebooks.Notebook, kernel: Kernel) -> Measured:
    """Runs a notebook as far as it measures.

    Raises `InputError` in one line for a failed cell; the notebook as far as it ran is kept under `failed/`.
    """
    before = profile.data_files()
    whole = nbformat.read(nb.path, as_version=4)
    last = max(i for i, cell in enumerate(whole.cells) if notebooks.measures(cell))
    executed = run(profile, nb, kernel, whole, whole.cells[: last + 1], save=True)
    written = written_since(before, profile)
    if profile.section(nb.name) not in written:
        remains = as_far_as_it_ran(unfinished(profile, nb))
        raise InputError(f"{nb.name}: ended without run.finish(…), so it has no results{remains}")
    return Measured(executed.cells, written)


def draw(profile: Profile, nb: notebooks.Notebook, kernel: Kernel, measured: Measured | None = None) -> list[Path]:
    """Runs a notebook's drawing cells, and puts it together with its `measured` cells, or with those that stand.

    Returns the files written under `results/`; figures are put there when all of them are drawn. Raises `InputError`
    as `measure` does, and where a cell draws and measures.
    """
    target = profile.executed(nb)
    before = profile.data_files()
    whole = nbformat.read(nb.path, as_version=4)
    drawing = [cell for cell in whole.cells if not notebooks.measures(cell)]
    executed = run(profile, nb, kernel, whole, drawing, save=False)
    drawn = {path.name: path.read_bytes() for path in sorted(kernel.figures.iterdir())}
    if measured is None:
        astray = written_since(before, profile)
        if astray:
            raise InputError(f"{nb.name}: a drawing cell wrote {os.path.relpath(astray[0])}; tag it measure")
        measured = Measured(nbformat.read(target, as_version=4).cells, [])
    executed.cells = with_measuring_cells(executed.cells, whole.cells, measured.cells)
    written = list(measured.written)
    for name, content in drawn.items():
        written.append(profile.figures / name)
        with replacing(written[-1]) as partial:
            partial.write_bytes(content)
    with replacing(target) as partial:
        nbformat.write(tidy(executed), partial)
    unfinished(profile, nb).unlink()
    return written


def written_since(before: Mapping[Path, Any], profile: Profile) -> list[Path]:
    """The results, but for figures, that are not as they were in `before`, a `Profile.data_files`."""
    return [path for path, mark in profile.data_files().items() if before.get(path) != mark]


def unfinished(profile: Profile, nb: notebooks.Notebook) -> Path:
    """Where papermill writes a notebook while it runs."""
    return profile.folder / "failed" / f".{nb.name}.ipynb"


def run(
    profile: Profile,
    nb: notebooks.Notebook,
    kernel: Kernel,
    whole: NotebookNode,
    cells: Sequence[NotebookNode],
    save: bool,
) -> NotebookNode:
    """The `whole` notebook with those `cells` alone, as they have run; `save`: written down after each one."""
    import papermill

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it tells of is told here, in one line
    running = unfinished(profile, nb)
    running.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            NotebookNode(whole | {"cells": list(cells)}),
            str(running),
            parameters=profile.parameters(nb),
            kernel_name="python3",
            language="python",
            progress_bar=False,
            cwd=str(notebooks.NOTEBOOKS),
            coalesce_streams=True,
            stderr_file=sys.stderr,
            log_output=False,
            km=kernel.manager,
            request_save_on_cell_execute=save,
            on_cell_executed=lambda **_: kernel.note_memory(),
        )
    except papermill.PapermillExecutionError as error:
        number = number_in(whole.cells, cells, error.cell_index)
        remains = as_far_as_it_ran(running)
        if error.ename == "InputError":
            raise InputError(f"{nb.name}: {error.evalue}") from None
        what = f"cell {number}: {error.ename}: {(error.evalue.splitlines() or [''])[0]}"
        raise InputError(f"{nb.name}: {what}{remains}") from None
    except Exception as error:
        what = kernel.end() or f"its kernel stopped ({type(error).__name__}: {first_line(error)})"
        raise InputError(f"{nb.name}: {what}{as_far_as_it_ran(running)}; {KEPT}") from None
    executed = nbformat.read(running, as_version=4)
    for i, cell in enumerate(executed.cells):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        if cell.execution_count is None or any(output.output_type == "error" for output in cell.outputs):
            number = number_in(whole.cells, cells, i)
            raise InputError(f"{nb.name}: cell {number} did not run to its end{as_far_as_it_ran(running)}")
    return executed


def number_in(whole: Sequence[NotebookNode], cells: Sequence[NotebookNode], number: int) -> int:
    """The number in the whole notebook of cell `number` of those that ran; papermill's own cell is one of either."""
    parameters = next(i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", []))
    injected = int(number > parameters)
    return [cell.id for cell in whole].index(cells[number - injected].id) + injected


def as_far_as_it_ran(running: Path) -> str:
    """Keeps a notebook that did not end well under its own name: what its error adds, nothing where a disk cut it."""
    try:
        nbformat.read(running, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError):
        running.unlink(missing_ok=True)
        return ""
    failed = running.replace(running.with_name(running.name.removeprefix(".")))
    return f"; see {os.path.relpath(failed)}"


def with_measuring_cells(
    drawn: Iterable[NotebookNode], whole: Iterable[NotebookNode], earlier: Iterable[NotebookNode]
) -> list[NotebookNode]:
    """The cells of a redraw, with the measuring cells of the `earlier` run put back where they stand in the `whole`."""
    own, before = {cell.id: cell for cell in drawn}, {cell.id: cell for cell in earlier}
    cells = []
    for cell in whole:
        if not notebooks.measures(cell):
            cells.append(own.pop(cell.id))
        elif cell.id in before:  # else a later version's, which has not run on these results
            cells.append(before[cell.id])
        if "parameters" in cell.metadata.get("tags", []):
            cells += [injected for injected in own.values() if is_injected(injected)]
    return cells


def is_injected(cell: NotebookNode) -> bool:
    return "injected-parameters" in cell.metadata.get("tags", [])


def tidy(notebook: NotebookNode) -> NotebookNode:
    """The executed notebook without what differs from run to run: times, random ids, progress bars, gaps in counts."""
    notebook.metadata.pop("papermill", None)
    counts = itertools.count(1)
    for cell in notebook.cells:
        for name in ("papermill", "execution"):
            cell.metadata.pop(name, None)
        if is_injected(cell):
            cell.id = "injected-parameters"
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if not (o.output_type == "stream" and o.name == "stderr")]
            cell.execution_count = next(counts) if cell.source.strip() else None
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = cell.execution_count
    return notebook
