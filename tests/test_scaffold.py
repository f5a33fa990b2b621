"""A section from the template is one that the pipeline, the report and the linter accept, and runs as it stands."""

import shutil
import subprocess
import sys

import measured
import nbformat
import pytest

from lib.layout import ROOT
from lib.pipeline import notebooks, scaffold
from lib.results import io, provenance
from report import prose


@pytest.fixture
def folder(tmp_path, monkeypatch):
    copy = tmp_path / "notebooks"
    shutil.copytree(notebooks.NOTEBOOKS, copy, ignore=shutil.ignore_patterns(".*"))
    monkeypatch.setattr(notebooks, "NOTEBOOKS", copy)
    return copy


def test_the_pipeline_finds_the_new_section(folder, capsys):
    scaffold.main(["V6", "V4"])
    assert "make notebooks/V6" in capsys.readouterr().out
    found = notebooks.discover()
    assert found["V6"].needs == ("setup", "V4")
    assert found["V6"].parameters == ("profile",)
    assert list(found).index("V6") > list(found).index("V4")


def test_the_template_is_a_clean_notebook(folder):
    path = scaffold.create("Extra_1", ["V4"])
    found = nbformat.read(path, as_version=4)
    nbformat.validate(found)
    assert found == scaffold.notebook("Extra_1", ["V4"])
    lint = [sys.executable, "-m", "ruff", "check", "--config", ROOT / "pyproject.toml", path]
    checked = subprocess.run(lint, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_the_template_runs(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("EXPERIMENT10_BUILD", str(tmp_path / "build"))
    spoken = []
    monkeypatch.setattr(prose, "show", lambda data, metadata: spoken.append((metadata["lang"], data["text/plain"])))
    setup = io.plain(measured.build())["setup"]
    setup |= {"device": "cpu", "parameters": {"seed": 1}}
    setup["model"]["fingerprint"] = setup["corpus"]["fingerprint"] = "0" * 64
    data_folder = tmp_path / "build" / "smoke" / "results" / "data"
    origin = provenance.provenance(
        "smoke", {}, 1, setup["model"], setup["corpus"], "cpu", "none", provenance.Start(0.0, None, None), 1.0
    )
    record = {"section": "setup", "parameters": {}, "data": setup, "provenance": origin}
    io.write_json(io.section_path(data_folder, "setup"), record, "section")
    namespace = {}
    for cell in nbformat.read(scaffold.create("V6", []), as_version=4).cells:
        if cell.cell_type == "code":
            source = 'profile = "smoke"' if "parameters" in cell.metadata.get("tags", []) else cell.source
            exec(compile(source, "V6", "exec"), namespace)
    assert io.load(data_folder)["V6"] == {"n_heads": 12, "layers": 3}
    assert ("en", "This section looks at 12 heads.") in spoken
    assert ("ja", "この節が見るヘッドは12個である。") in spoken


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "NAME: given ''"),
        (["6V"], "NAME: given '6V'"),
        (["a/b"], "NAME: given 'a/b'"),
        (["V 6"], "NAME: given 'V 6'"),
        (["V4"], "V4.ipynb is there"),
        (["v4"], "V4.ipynb is there"),
        (["V6", "V44"], "NEEDS: given 'V44' (did you mean V4?)"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(folder, words, said):
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(SystemExit) as stopped:
        scaffold.main(words)
    assert stopped.value.code.startswith("error: ") and said in stopped.value.code and "\n" not in stopped.value.code
    assert sorted(path.name for path in folder.iterdir()) == before
