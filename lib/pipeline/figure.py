"""One figure of the report, from the results that stand; where they do not, what it needs is measured first."""

import ast
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat

from lib.errors import InputError, first_line
from lib.files import replacing
from lib.params import near
from lib.pipeline import commands, notebooks
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


def make(profile_name: str, names: Sequence[str], overrides: dict[str, Any] | None) -> None:
    """Draws the one named figure in both languages. Raises `InputError` for a name that no notebook draws."""
    known = drawn_by(notebooks.discover())
    name = names[0] if len(names) == 1 else ""
    if name not in known:
        given = ", ".join(map(repr, filter(None, names))) or "none"
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
            print(os.path.relpath(profile.figures / path.name))


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
