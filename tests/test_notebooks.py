"""What every committed notebook keeps to: no outputs, one parameters cell that says the default, pairs of languages."""

import ast
import re
import subprocess

import nbformat
import pytest
import yaml

from lib.layout import ROOT
from lib.params import OF_THE_RUN, PROFILES, RULES
from lib.pipeline.notebooks import NOTEBOOKS, discover
from report.words import PARTS

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
MOST_CELLS = 40
DEFAULTS = yaml.safe_load((PROFILES / "embedded.yaml").read_text(encoding="utf-8"))

each = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def cells(path):
    return nbformat.read(path, as_version=4).cells


def tags(cell):
    return cell.metadata.get("tags", [])


@each
def test_is_committed_without_outputs(path):
    for cell in cells(path):
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None), cell.id
        assert set(cell.metadata) <= {"tags"}, cell.id


@each
def test_is_a_valid_page(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert len(notebook.cells) <= MOST_CELLS
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)


@each
def test_has_one_parameters_cell_of_plain_assignments(path):
    (cell,) = [cell for cell in cells(path) if "parameters" in tags(cell)]
    assert cell.cell_type == "code"
    for node in ast.parse(cell.source).body:
        assert isinstance(node, ast.Assign), ast.unparse(node)
        ast.literal_eval(node.value)


@pytest.mark.parametrize("name", discover())
def test_the_defaults_are_those_of_the_base_profile(name):
    (cell,) = [cell for cell in cells(NOTEBOOKS / f"{name}.ipynb") if "parameters" in tags(cell)]
    given = {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(cell.source).body}
    assert given.pop("profile") == "embedded"
    assert given == {key: DEFAULTS[key] for key in given}


def test_every_parameter_has_a_rule_a_default_and_a_notebook():
    used = {name for notebook in discover().values() for name in notebook.parameters} - {"profile"}
    assert used | set(OF_THE_RUN) == set(RULES) == set(DEFAULTS)
    assert not used & set(OF_THE_RUN)


@each
def test_markdown_comes_in_pairs_japanese_first(path):
    found = cells(path)
    spoken = [(i, [tag for tag in tags(cell) if tag in ("ja", "en")]) for i, cell in enumerate(found)]
    for i, languages in spoken:
        assert len(languages) == (found[i].cell_type == "markdown"), found[i].id
    texts = [(i, languages[0]) for i, languages in spoken if languages]
    assert [lang for _, lang in texts] == ["ja", "en"] * (len(texts) // 2)
    for (first, _), (second, _) in zip(texts[::2], texts[1::2], strict=True):
        assert second == first + 1
        ja, en = (cell.source.splitlines() for cell in (found[first], found[second]))
        assert [x.split(" ")[0] for x in ja if x.startswith("#")] == [x.split(" ")[0] for x in en if x.startswith("#")]
        assert any("\u3040" <= letter <= "\u9fff" for letter in "".join(ja))
        assert not any("\u3040" <= letter <= "\u9fff" for letter in "".join(en))


@each
def test_no_mark_stands_in_code_where_nothing_fills_it(path):
    assert [mark for cell in cells(path) for mark in re.findall(r"`\{[\w.]+\}`", cell.source)] == []


def test_the_report_has_every_section():
    listed = [name for part in PARTS for name in part.notebooks]
    assert len(set(listed)) == len(listed)
    assert set(discover()) <= set(listed)


def test_no_notebook_lies_elsewhere():
    listed = subprocess.run(["git", "ls-files", "*.ipynb"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert {ROOT / line for line in listed.stdout.splitlines()} <= set(PATHS)
