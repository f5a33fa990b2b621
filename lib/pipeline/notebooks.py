"""What the pipeline reads off the notebooks without running them: parameters, needs, order."""

import ast
import hashlib
import json
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import nbformat

from lib.errors import InputError, first_line
from lib.layout import ROOT
from lib.params import RULES, near

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
