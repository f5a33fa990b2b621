"""One figure of the report, from the results that stand; where they do not, what it needs is measured first.

`python -m lib.pipeline.figure NAME` writes its PNG in both languages where a run would have.
"""

import argparse
import ast
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat

from lib.errors import InputError, first_line
from lib.files import replacing
from lib.params import BASE_PROFILE, near
from lib.pipeline import children, commands, notebooks
from lib.pipeline.freshness import Profile
from lib.pipeline.locking import locked
from lib.pipeline.notebooks import Notebook, parsed


def drawn_by(sections: Mapping[str, Notebook]) -> dict[str, Notebook]:
    """`{figure: the notebook that draws it}`, by the names that drawing cells hand to `figure`."""
    found = {}
    for nb in sections.values():
        for cell in drawing_cells(nb):
            for node in ast.walk(parsed(cell.source, nb.path)):
                if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "figure" and node.args:
                    found[ast.literal_eval(node.args[0])] = nb
    return found


def drawing_cells(nb: Notebook) -> list[nbformat.NotebookNode]:
    cells = nbformat.read(nb.path, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code" and not notebooks.measures(cell)]


def make(profile_name: str, name: str, overrides: dict[str, Any] | None = None) -> list[Path]:
    """Draws the named figure in both languages; returns its files. Raises `InputError` for one that no notebook draws.

    `overrides` of None keeps the parameters of the profile's last run.
    """
    known = drawn_by(notebooks.discover())
    if name not in known:
        given = repr(name) if name else "none"
        raise InputError(f"figure: given {given}{near(name, known)}, allowed: {', '.join(sorted(known))}")
    nb, profile = known[name], Profile(profile_name)
    anew = overrides is not None and overrides != profile.overrides
    if anew or any(profile.unfit(section) for section in (nb.name, *nb.needs)):
        profile = commands.run_notebooks(profile_name, [nb.name], overrides)
    with locked(profile_name), tempfile.TemporaryDirectory() as folder:
        draw(profile, nb, name, Path(folder))
        drawn = sorted(Path(folder).iterdir())
        if not drawn:
            raise InputError(f"figure: {nb.name} does not draw {name!r} from these results")
        for path in drawn:
            with replacing(profile.figures / path.name) as partial:
                partial.write_bytes(path.read_bytes())
    return [profile.figures / path.name for path in drawn]


def draw(profile: Profile, nb: Notebook, name: str, folder: Path) -> None:
    """Runs a notebook's drawing cells up to the one that draws the figure; `report.prose` leaves out all else."""
    os.environ |= {"EXPERIMENT10_PIPELINE": "1", "EXPERIMENT10_FIGURES": str(folder), "EXPERIMENT10_FIGURE": name}
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for cell in drawing_cells(nb):
        tree = parsed(cell.source, nb.path)
        try:
            exec(compile(tree, nb.path.name, "exec"), namespace)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{nb.name}: {type(error).__name__}: {first_line(error)}") from None
        if "parameters" in cell.metadata.get("tags", []):
            namespace |= profile.parameters(nb)
        if any(folder.iterdir()):
            return


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.pipeline.figure", description=__doc__.splitlines()[0])
    parser.add_argument("name", help="the figure, as in `make figure NAME=ladder`")
    parser.add_argument("--profile", default=BASE_PROFILE)
    parser.add_argument("-p", dest="given", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"))
    args = parser.parse_args(words)
    try:
        for path in make(args.profile, args.name, dict(args.given) or None):
            print(os.path.relpath(path))
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    children.stop_on_signals()
    main()
