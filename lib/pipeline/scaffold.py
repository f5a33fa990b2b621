"""A new section's notebook, from a template that runs as it stands.

`python -m lib.pipeline.scaffold V6 setup V4` writes `notebooks/V6.ipynb`, which needs the set-up and V4.
"""

import argparse
import os
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import nbformat

from lib.errors import InputError
from lib.files import replacing
from lib.params import near
from lib.pipeline import notebooks

NAME = re.compile(r"[A-Za-z]\w{0,31}", re.ASCII)
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def check(name: str, needs: Iterable[str], sections: Collection[str]) -> None:
    """Raises `InputError` for a name that is taken or is none, and for needs that are no sections."""
    if not NAME.fullmatch(name):
        raise InputError(f"NAME: given {name!r}, allowed: a letter, then up to 31 letters, digits or _; for example V6")
    taken = {path.stem.lower(): path for path in notebooks.NOTEBOOKS.glob("*.ipynb")}
    if name.lower() in taken:
        there = os.path.relpath(taken[name.lower()])
        raise InputError(f"NAME: given {name!r}, but {there} is there; choose another name")
    for need in needs:
        if need not in sections:
            raise InputError(f"NEEDS: given {need!r}{near(need, sections)}, allowed: {', '.join(sections)}")


def cells(name: str, needs: Iterable[str]) -> list[tuple[str, str]]:
    """`(tag, source)` of the template's cells, in their order."""
    heads = f"{{{name}.n_heads}}"
    listed = ", ".join(f'"{need}"' for need in needs)
    return [
        ("ja", f"## {name} 節の題\n\n何を、なぜ測るのか。"),
        ("en", f"## {name} Title of the section\n\nWhat is measured, and why."),
        ("parameters", 'profile = "embedded"'),
        (
            "",
            "from lib.pipeline.run import Run\nfrom report import prose\nfrom report.prose import say, table\n\n"
            f'run = Run("{name}", globals(), needs=[{listed}])\nprose.bind(run)',
        ),
        ("measure", 'run.finish({"n_heads": len(run.heads), "layers": run.setup["model"]["n_layer"]})'),
        (
            "",
            f'data = run.data\ntable(\n    "{name.lower()}_shape", "モデルの形。", "The model\'s shape.",\n'
            '    columns=[("n_heads", "ヘッド", "Heads", "d"), ("layers", "層", "Layers", "d")],\n    rows=[data],\n)\n'
            f'say(\n    ja="この節が見るヘッドは{heads}個である。",\n    en="This section looks at {heads} heads.",\n)',
        ),
    ]


def notebook(name: str, needs: Iterable[str]) -> nbformat.NotebookNode:
    """The template as a notebook; `setup`, which every section needs, comes first."""
    found = nbformat.v4.new_notebook(metadata={"kernelspec": KERNEL, "language_info": {"name": "python"}})
    needs = list(dict.fromkeys(["setup", *needs]))
    for i, (tag, source) in enumerate(cells(name, needs)):
        make = nbformat.v4.new_markdown_cell if tag in ("ja", "en") else nbformat.v4.new_code_cell
        found.cells.append(make(source, id=f"{name.lower()}-{i:02}", metadata={"tags": [tag]} if tag else {}))
    return found


def create(name: str, needs: Sequence[str]) -> Path:
    """Writes `notebooks/<name>.ipynb`; returns its path. Raises `InputError` and writes nothing for bad input."""
    check(name, needs, notebooks.discover())
    path = notebooks.NOTEBOOKS / f"{name}.ipynb"
    with replacing(path) as partial:
        nbformat.write(notebook(name, needs), partial)
    return path


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.pipeline.scaffold", description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", default="", metavar="NAME", help="the section, for example V6")
    parser.add_argument("needs", nargs="*", metavar="NEED", help="sections whose results it uses")
    args = parser.parse_args(words)
    try:
        path = create(args.name, args.needs)
    except InputError as error:
        sys.exit(f"error: {error}")
    print(f"{os.path.relpath(path)} is there; run it with `make notebooks/{args.name}`")
    print(f'to have it in the report, add "{args.name}" to one of PARTS in report/words.py')


if __name__ == "__main__":
    main()
