"""Which of the project's modules a module reaches, told from the source, and digests of what they say.

A module belongs with what it imports, at its top or inside a function, and with the data files that it names and that
lie beside it (`glossary.yaml`, a folder `schema`, `*.json`). Nothing is imported to find out.
"""

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lib.errors import InputError
from lib.layout import ROOT

PACKAGES = ("lib", "kernels", "report")
DATA_NAME = re.compile(r"[\w*][\w.*-]*", re.ASCII)


def reached(modules: Iterable[str]) -> list[str]:
    """The named modules (`lib.engine.scoring`), the packages that hold them, and all they import, sorted.

    Names outside the project are left out. Raises `InputError` for a module that does not parse.
    """
    found: set[str] = set()
    stack = [name for module in modules for name in _own(module)]
    while stack:
        name = stack.pop()
        if name not in found:
            found.add(name)
            stack += _read(name).imports
    return sorted(found)


def imports(nodes: Iterable[ast.AST], package: str = "") -> Iterator[str]:
    """The project's modules that a syntax tree's nodes import; `package` is where its relative imports start."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _own(alias.name)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield from _own(f"{base}.{alias.name}")


def digests(modules: Iterable[str]) -> dict[str, str]:
    """`{module: digest}` of all that the named modules reach; comments, docstrings and layout do not count, data do."""
    return {name: _digest(name) for name in reached(modules)}


def digest_of(modules: Iterable[str]) -> str:
    """One digest over everything that the named modules reach."""
    state = hashlib.sha256()
    for name, digest in digests(modules).items():
        state.update(f"{name} {digest}\n".encode())
    return state.hexdigest()


def _own(name: str) -> list[str]:
    """`lib.a.b` as the modules that importing it loads, `["lib", "lib.a", "lib.a.b"]`, as far as they are ours."""
    parts = name.split(".")
    if parts[0] not in PACKAGES:
        return []
    names = (".".join(parts[: i + 1]) for i in range(len(parts)))
    return [name for name in names if _path(name) is not None]


def _path(name: str) -> Path | None:
    base = ROOT.joinpath(*name.split("."))
    paths = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in paths if path.is_file()), None)


@dataclass(frozen=True)
class Source:
    """What a module's file says: its imports of ours, a digest, the names of data files in it, and its folder."""

    imports: tuple[str, ...]
    digest: str
    data: tuple[str, ...]
    folder: Path


def _read(name: str) -> Source:
    path = _path(name)
    assert path is not None, name
    stat = path.stat()
    return _parsed(name, path, stat.st_mtime_ns, stat.st_size)


@cache
def _parsed(name: str, path: Path, mtime: int, size: int) -> Source:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{path.relative_to(ROOT)}: does not parse ({error})") from None
    nodes = list(ast.walk(tree))
    if not any(isinstance(node, ast.Name) and node.id == "__doc__" for node in nodes):
        nodes = _without_docstrings(nodes)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    words = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    data = sorted(word for word in words if DATA_NAME.fullmatch(word) and word.strip("*."))
    digest = hashlib.sha256(ast.dump(tree).encode()).hexdigest()
    return Source(tuple(imports(nodes, package)), digest, tuple(data), path.parent)


def _without_docstrings(nodes: Iterable[ast.AST]) -> list[ast.AST]:
    """Takes away what only readers see from the tree that has these nodes; those that are left."""
    gone: set[ast.AST] = set()
    for node in nodes:
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            gone.update(ast.walk(node.body.pop(0)))
    return [node for node in nodes if node not in gone]


def _digest(name: str) -> str:
    source = _read(name)
    state = hashlib.sha256(source.digest.encode())
    for file in _data(source.data, source.folder):
        state.update(f"\n{file.relative_to(ROOT)} {hashlib.sha256(file.read_bytes()).hexdigest()}".encode())
    return state.hexdigest()


def _data(names: Iterable[str], folder: Path) -> list[Path]:
    """The named files in a folder, Python's own apart; of a folder in it, all files."""
    found: set[Path] = set()
    for name in names:
        for path in folder.glob(name) if "*" in name else [folder / name]:
            if path.is_file():
                found.add(path)
            elif path.is_dir() and not (path / "__init__.py").is_file():
                found |= {inner for inner in path.rglob("*") if inner.is_file()}
    return sorted(path for path in found if path.suffix not in (".py", ".pyc") and "__pycache__" not in path.parts)
