"""Runs one notebook in a kernel; its executed copy appears only when every cell has run."""

import itertools
import logging
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from lib.errors import KEPT, InputError, first_line
from lib.files import replacing
from lib.pipeline import notebooks
from lib.pipeline.freshness import Profile
from lib.pipeline.kernels import Kernel


def execute(
    profile: Profile,
    nb: notebooks.Notebook,
    kernel: Kernel,
    task: str = "measure",
    measured: Callable[[], object] = int,
) -> list[Path]:
    """Runs one notebook, or for a redraw its drawing cells; its executed copy appears only when every cell has run.

    `measured` is called when the last measuring cell has run: another notebook may measure from then on. Returns the
    files that this one wrote under `results/`; figures are put there when all of them are drawn.
    Raises `InputError` in one line for a failed cell; the notebook as far as it ran is kept under `failed/`.
    """
    import papermill

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it tells of is told here, in one line
    target = profile.executed(nb)
    before = profile.data_files()
    written: list[Path] = []
    running = profile.folder / "failed" / f".{target.name}"  # written by papermill in place
    running.parent.mkdir(parents=True, exist_ok=True)
    source = nbformat.read(nb.path, as_version=4)
    whole = list(source.cells)
    if task == "redraw":
        source.cells = [cell for cell in whole if not notebooks.measures(cell)]
    last = [cell.id for cell in source.cells if notebooks.measures(cell)][-1:]

    def after_cell(cell: NotebookNode, execute_reply: Any, **_: Any) -> None:
        kernel.note_memory()
        if [cell.id] == last and execute_reply["content"]["status"] == "ok":
            written.extend(path for path, mark in profile.data_files().items() if before.get(path) != mark)
            measured()

    try:
        papermill.execute_notebook(
            source,
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
            request_save_on_cell_execute=task == "measure",  # after every cell; a redraw's cells are soon run again
            on_cell_executed=after_cell,
        )
        drawn = {path.name: path.read_bytes() for path in sorted(kernel.figures.iterdir())}
    except papermill.PapermillExecutionError as error:
        remains = as_far_as_it_ran(running)
        if error.ename == "InputError":
            raise InputError(f"{nb.name}: {error.evalue}") from None
        what = f"cell {error.cell_index}: {error.ename}: {(error.evalue.splitlines() or [''])[0]}"
        raise InputError(f"{nb.name}: {what}{remains}") from None
    except Exception as error:
        what = kernel.end() or f"its kernel stopped ({type(error).__name__}: {first_line(error)})"
        raise InputError(f"{nb.name}: {what}{as_far_as_it_ran(running)}; {KEPT}") from None
    executed = nbformat.read(running, as_version=4)
    for i, cell in enumerate(executed.cells):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        if cell.execution_count is None or any(output.output_type == "error" for output in cell.outputs):
            raise InputError(f"{nb.name}: cell {i} did not run to its end{as_far_as_it_ran(running)}")
    if task == "measure" and profile.section(nb.name) not in written:
        raise InputError(f"{nb.name}: ended without run.finish(…), so it has no results{as_far_as_it_ran(running)}")
    if task == "redraw":
        astray = [path for path, mark in profile.data_files().items() if before.get(path) != mark]
        if astray:
            raise InputError(f"{nb.name}: a drawing cell wrote {os.path.relpath(astray[0])}; tag it measure")
        executed.cells = with_measuring_cells(executed.cells, whole, nbformat.read(target, as_version=4).cells)
    for name, content in drawn.items():
        written.append(profile.figures / name)
        with replacing(written[-1]) as partial:
            partial.write_bytes(content)
    with replacing(target) as partial:
        nbformat.write(tidy(executed), partial)
    running.unlink()
    return written


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
