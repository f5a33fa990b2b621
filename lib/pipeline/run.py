"""What a notebook holds on to.

    run = Run("V1", globals(), needs=["setup"])

Measuring cells end in `run.finish({...})`; drawing cells start from `run.data` and read nothing but results. A notebook
that is run by hand gets what earlier sections have measured, and has them measured where they have not.
"""

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from IPython import get_ipython

from lib.errors import InputError
from lib.pipeline.measuring import Measuring
from lib.results import io
from lib.results.published import value


class Run(Measuring):
    """One section's session; `namespace` is the notebook's `globals()`. Raises `InputError` for a bad parameter."""

    def __init__(self, section: str, namespace: Mapping[str, Any], needs: Iterable[str] = ()) -> None:
        show_input_errors()
        super().__init__(section, namespace, needs)
        # The pipeline has figures wait elsewhere until all are drawn.
        self.figures = Path(os.environ.get("EXPERIMENT10_FIGURES") or self.folder / "results" / "figures")

    @property
    def data(self) -> Any:
        """This section's results: those just finished, or else those that stand.

        Raises `InputError` where there are none, or where they were measured with other parameters.
        """
        if self.section not in self.results:
            path = io.section_path(self.data_folder, self.section)
            if not path.is_file():
                raise InputError(f"{self.section}: not measured yet; run its measuring cells, which end in run.finish")
            record = io.read_json(path, "section")
            if record["parameters"] != self.parameters:
                names = [k for k, v in self.parameters.items() if record["parameters"].get(k) != v]
                raise InputError(
                    f"{self.section}: measured with another {', '.join(names) or 'set of parameters'};"
                    " run its measuring cells first"
                )
            self.results[self.section] = record["data"]
        return self.results[self.section]

    def published(self, path: str) -> Any:
        """The write-up's figure for a path of the results, None where it states none."""
        return value(path)

    def published_rows(self, path: str, key: str, values: Iterable[Any], *fields: str) -> list[dict[str, Any]]:
        """Published rows `[{key, field…}]` of a list in the results, those for which every field is stated."""
        rows = [{key: v} | {f: self.published(f"{path}[{key}={v}].{f}") for f in fields} for v in values]
        return [row for row in rows if None not in row.values()]


def show_input_errors() -> None:
    """In Jupyter, an `InputError` is one line, not a traceback."""
    shell = get_ipython()
    if shell is not None and "EXPERIMENT10_PIPELINE" not in os.environ:
        shell.set_custom_exc(
            (InputError,), lambda self, kind, error, trace, tb_offset=None: print(f"{error}", file=sys.stderr)
        )
