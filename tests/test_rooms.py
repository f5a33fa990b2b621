"""The import contract of `pyproject.toml` holds, names every room, and can fail."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lib.layout import ROOT

CONTRACT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]


def lint(folder):
    words = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": str(folder)})


def test_the_contract_holds():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout
    assert "3 kept, 0 broken" in done.stdout


def test_every_room_stands_on_a_floor():
    named = {room for floor in CONTRACT["contracts"][0]["layers"] for room in floor.split(" | ")}
    here = {f"lib.{path.stem}" for path in (ROOT / "lib").iterdir() if path.name[0] not in "_."}
    assert named == here | {"report", "kernels"}


def test_where_dated_records_lie_is_said_once():
    sources = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in ROOT.glob("lib/**/*.py")}
    assert [name for name, text in sources.items() if '"docs" / "data"' in text] == ["lib/layout.py"]


@pytest.mark.parametrize(
    ("path", "line", "broken"),
    [
        ("lib/results/io.py", "import lib.claims.rules", "Floors"),
        ("lib/timing/clock.py", "def f():\n    import lib.claims.rules", "Floors"),
        ("report/prose.py", "import report.page", "No circle"),
        ("report/words.py", "import lib.model.adapters", "Words and charts"),
    ],
)
def test_it_notices(tmp_path, path, line, broken):
    for name in CONTRACT["root_packages"]:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / path).open("a") as file:
        file.write(f"\n{line}\n")
    done = lint(tmp_path)
    assert done.returncode == 1
    assert any(told.startswith(broken) and " BROKEN" in told for told in done.stdout.splitlines())
