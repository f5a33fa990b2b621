"""Runs one notebook in a kernel; its executed copy appears only when every cell has run."""

import os
import sys
from contextlib import contextmanager

import nbformat

from lib.errors import InputError
from lib.files import replacing
from lib.pipeline import notebooks


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
        "--IPKernelApp.exec_lines=import lib.engine.generation, lib.engine.scoring, report.charts.charts, report.prose",
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
            run_sync(kernel.start_kernel)(cwd=str(notebooks.NOTEBOOKS), extra_arguments=self.ARGUMENTS)
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
            cwd=str(notebooks.NOTEBOOKS),
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
    with replacing(target) as partial:
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
