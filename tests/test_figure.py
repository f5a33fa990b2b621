"""`make figure NAME=…`: the one figure, from results that stand; what is missing is measured first."""

import os
import re

import measured
import pytest

from lib.errors import InputError
from lib.pipeline import commands, figure, notebooks
from lib.pipeline.freshness import Profile
from lib.results import io
from report import prose


@pytest.fixture
def standing(build, monkeypatch):
    """Results of profile smoke, drawn from scores; nothing may be measured."""
    for name in ("EXPERIMENT10_FIGURES", "EXPERIMENT10_FIGURE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(commands, "run_notebooks", lambda *_: pytest.fail("measured"))
    profile, sections = Profile("smoke"), notebooks.discover()
    for name, data in io.plain(measured.build()).items():
        parameters = {k: v for k, v in profile.parameters(sections[name]).items() if k != "profile"}
        record = {"section": name, "parameters": parameters, "data": data, "provenance": measured.PROVENANCE}
        io.write_json(profile.section(name), record, "section")
    return profile


def test_one_figure_is_drawn_and_nothing_else(standing, capsys):
    paths = figure.make("smoke", "top10")
    assert {path.name for path in standing.figures.iterdir()} == {path.name for path in paths}
    assert [path.read_bytes()[:4] for path in paths] == [b"\x89PNG"] * 2
    assert re.search("_top10_ja_", paths[1].name) and capsys.readouterr().out == ""
    again = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in figure.make("smoke", "top10")] == again


def test_what_is_missing_is_measured_first(standing, monkeypatch):
    asked = []
    monkeypatch.setattr(commands, "run_notebooks", lambda *words: asked.append(words) or standing)
    monkeypatch.setattr(figure, "draw", lambda profile, nb, name, folder: (folder / "one.png").write_bytes(b"x"))
    figure.make("smoke", "top10")
    assert asked == []
    standing.section("V2").unlink()
    figure.make("smoke", "top10")
    figure.make("smoke", "top10", {"seed": 11})
    assert asked == [("smoke", ["V2"], None), ("smoke", ["V2"], {"seed": 11})]


@pytest.mark.parametrize(("name", "said"), [("lader", "given 'lader' (did you mean ladder?)"), ("", "given none")])
def test_an_unknown_name_lists_the_figures(name, said, build):
    with pytest.raises(InputError) as error:
        figure.make("smoke", name)
    line = str(error.value)
    assert line.startswith(f"figure: {said}") and "\n" not in line
    assert "baseline, best_of_n, " in line and "zero_map" in line


def test_every_figure_of_the_notebooks_is_known():
    source = "".join(path.read_text(encoding="utf-8") for path in notebooks.NOTEBOOKS.glob("*.ipynb"))
    written = set(re.findall(r'"figure\(\\n",\s+"    \\"(\w+)\\"', source))
    assert len(written) > 20 and written <= set(figure.drawn_by(notebooks.discover()))


def test_prose_is_silent_where_only_a_file_is_wanted(monkeypatch):
    shown = []
    monkeypatch.setattr(prose, "display", lambda *words, **more: shown.append(words))
    monkeypatch.setitem(os.environ, prose.ONLY, "ladder")
    prose.quote("some text")
    prose.figure("another", None, "", "", "", "")
    assert shown == []
    monkeypatch.delitem(os.environ, prose.ONLY)
    prose.quote("some text")
    assert len(shown) == 2
