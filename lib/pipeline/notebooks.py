"""What the pipeline reads off the notebooks without running them: parameters, needs, order, what measures, what draws.

A notebook's code is one cell tagged `parameters`, one that opens its `Run`, cells tagged `measure`, which end in
`run.finish(…)`, and drawing cells, which start from `run.data`.
"""

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

from lib.errors import InputError, first_line
from lib.layout import ROOT
from lib.params import RULES, near
from lib.sources import imports

NOTEBOOKS = ROOT / "notebooks"
MEASURING = "lib.pipeline.measuring"  # what `run` lends to measuring cells


@dataclass(frozen=True)
class Notebook:
    """What the pipeline reads off a notebook without running it."""

    name: str
    path: Path
    needs: tuple[str, ...]
    parameters: tuple[str, ...]
    measured: str  # digest of what the measuring cells say
    drawn: str  # digest of what all cells say
    measuring: tuple[str, ...]  # the project's modules that the measuring cells import
    drawing: tuple[str, ...]  # the same of the others

    @property
    def measures_times(self) -> bool:
        return "speed_runs" in self.parameters


def sha(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def read_notebook(path: Path) -> Notebook | None:
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
    given = tuple(target.id for node in parsed(tagged[0].source, path).body for target in targets(node, path))
    unknown = [name for name in given if name not in RULES and name != "profile"]
    if unknown:
        raise InputError(f"{path.name}: parameter {unknown[0]}: unknown{near(unknown[0], RULES)}")
    return Notebook(path.stem, path, tuple(needs), given, *measuring_and_drawing(cells, tagged[0], path))


def measures(cell: nbformat.NotebookNode) -> bool:
    return "measure" in cell.metadata.get("tags", [])


def measuring_and_drawing(
    cells: Sequence[nbformat.NotebookNode], parameters: nbformat.NotebookNode, path: Path
) -> tuple[str, str, tuple[str, ...], tuple[str, ...]]:
    """`Notebook`'s `measured`, `drawn`, `measuring` and `drawing`.

    Raises `InputError` where no cell measures, or where a drawing cell uses what only a measuring cell has defined.
    """
    code = [cell for cell in cells if cell.cell_type == "code"]
    trees = {cell.id: parsed(cell.source, path) for cell in code}
    opening = next(cell for cell in code if list(run_calls(cell.source, path)))
    measuring = [cell for cell in code if measures(cell)]
    drawing = [cell for cell in code if not measures(cell)]
    if not measuring:
        raise InputError(f"{path.name}: no cell is tagged measure; tag those that measure and end in run.finish(…)")
    lent = set().union(*(names(trees[cell.id])[0] for cell in measuring))
    for cell in drawing:
        defined, used = names(trees[cell.id])
        lent -= defined
        if lent & used:
            raise InputError(
                f"{path.name}: cell {cells.index(cell)} draws from {min(lent & used)!r}, a measuring cell's name;"
                " pass it through run.finish({…}) and read it from run.data"
            )
    imported = {cell.id: set(imports(ast.walk(trees[cell.id]))) for cell in code}
    drawn_only = sorted(n for cell in measuring for n in imported[cell.id] if n.split(".")[0] == "report")
    if drawn_only:
        raise InputError(f"{path.name}: a measuring cell imports {drawn_only[0]}, allowed: in a drawing cell")
    statements = [node for node in trees[opening.id].body if not isinstance(node, (ast.Import, ast.ImportFrom))]
    return (
        sha([parameters.source, *map(ast.unparse, statements)], [[cell.id, cell.source] for cell in measuring]),
        sha([[cell.cell_type, cell.id, cell.source, cell.metadata.get("tags", [])] for cell in cells]),
        tuple(sorted({MEASURING}.union(*(imported[cell.id] for cell in measuring)))),
        tuple(sorted(set().union(*(imported[cell.id] for cell in drawing)))),
    )


def parsed(source: str, path: Path) -> ast.Module:
    """The syntax tree of a cell, IPython's magics as the calls that they are."""
    try:
        return ast.parse(TransformerManager().transform_cell(source))
    except SyntaxError as error:
        raise InputError(f"{path.name}: a cell does not parse ({error})") from None


def names(tree: ast.AST) -> tuple[set[str], set[str]]:
    """`(defined, used)` names of a syntax tree, those inside functions included."""
    defined: set[str] = set()
    used: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else defined).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            defined.add(node.name)
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
        elif isinstance(node, ast.alias):
            defined.add((node.asname or node.name).split(".")[0])
    return defined, used


def targets(node: ast.stmt, path: Path) -> list[ast.Name]:
    found = node.targets if isinstance(node, ast.Assign) else []
    named = [target for target in found if isinstance(target, ast.Name)]
    if not found or len(named) < len(found):
        raise InputError(f"{path.name}: the parameters cell may hold plain assignments only")
    return named


def run_calls(source: str, path: Path) -> Iterator[tuple[Any, Any]]:
    """`(section, needs)` of each `Run(section, globals(), needs=[…])` in a cell."""
    if "Run(" not in source:
        return
    for node in ast.walk(parsed(source, path)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "Run":
            try:
                needs: Any = next((ast.literal_eval(k.value) for k in node.keywords if k.arg == "needs"), [])
                yield ast.literal_eval(node.args[0]), needs
            except (ValueError, IndexError):
                raise InputError(f"{path.name}: Run takes its section and its needs as literals") from None


def discover() -> dict[str, Notebook]:
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


def closure(notebooks: Mapping[str, Notebook], names: Iterable[str]) -> list[Notebook]:
    """The named notebooks and all that they need, in order."""
    wanted: set[str] = set()
    stack = list(names)
    while stack:
        name = stack.pop()
        if name not in notebooks:
            raise InputError(f"notebook: given {name!r}{near(name, notebooks)}, allowed: {', '.join(notebooks)}")
        if name not in wanted:
            wanted.add(name)
            stack += notebooks[name].needs
    return [nb for name, nb in notebooks.items() if name in wanted]
