import json
import re
import shutil
import subprocess
import time
from types import SimpleNamespace

import measured
import nbformat
import pytest
import yaml
from conftest import EMBEDDED, ROOT, pipeline, wikitext
from safetensors.torch import load_file, save_file

from lib import files
from lib.errors import InputError
from lib.params import OF_THE_RUN, RULES
from lib.pipeline import commands, estimate, execution, freshness, kernels, run, setup
from lib.pipeline import notebooks as reader
from lib.pipeline.freshness import SEAL
from lib.results import io

# What the synthetic notebooks import: a Run that needs no model, and writes a section's file as the real one does.
FAKE_RUN = f"""
import json, os, pathlib

class Run:
    def __init__(self, section, namespace, needs=()):
        self.section = section
        self.folder = pathlib.Path(os.environ["EXPERIMENT10_BUILD"]) / namespace["profile"] / "results"
        self.path = self.folder / "data" / "sections" / f"{{section}}.json"

    def finish(self, **data):
        record = {{"section": self.section, "parameters": {{}}, "data": data, "provenance": {measured.PROVENANCE!r}}}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(record))

    @property
    def data(self):
        return json.loads(self.path.read_text())["data"]

    def draw(self, name):
        path = pathlib.Path(os.environ.get("EXPERIMENT10_FIGURES", self.folder / "figures")) / f"{{name}}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"a figure of {{self.data}}")
"""


def refused(call, *args, **kwargs):
    with pytest.raises(InputError) as error:
        call(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def notebooks(tmp_path, build, monkeypatch):
    """Writes synthetic notebooks, which the pipeline takes for the project's own."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / "fake.py").write_text(FAKE_RUN)
    monkeypatch.setattr(reader, "NOTEBOOKS", folder)
    monkeypatch.setattr(commands, "check_model", lambda *_: None)

    def write(
        name,
        body="run.finish(value=1)",
        needs=(),
        parameters=("seed = 10",),
        tags=1,
        section=None,
        drawing="data = run.data",
    ):
        cells = [nbformat.v4.new_markdown_cell(f"# {name}")]
        source = "\n".join(['profile = "embedded"', *parameters])
        cells += [nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]}) for _ in range(tags)]
        opening = f"from fake import Run\nrun = Run({section or name!r}, globals(), needs={list(needs)!r})"
        cells += [nbformat.v4.new_code_cell(opening), nbformat.v4.new_code_cell(body, metadata={"tags": ["measure"]})]
        cells += [nbformat.v4.new_code_cell(drawing)]
        notebook = nbformat.v4.new_notebook(cells=cells)
        for i, cell in enumerate(notebook.cells):
            cell.id = f"cell-{i}"
        nbformat.write(notebook, folder / f"{name}.ipynb")

    return write


class TestDiscovery:
    def test_needs_come_first(self, notebooks):
        notebooks("a", needs=["c", "b"])
        notebooks("b", needs=["c"])
        notebooks("c")
        found = reader.discover()
        assert list(found) == ["c", "b", "a"]
        assert found["a"].needs == ("c", "b")
        assert found["c"].parameters == ("profile", "seed")
        assert [nb.name for nb in reader.closure(found, ["b"])] == ["c", "b"]

    def test_a_notebook_that_opens_no_run_is_no_section(self, notebooks):
        notebooks("a")
        path = reader.NOTEBOOKS / "scratch.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print('Run(')")]), path)
        assert list(reader.discover()) == ["a"]

    def test_a_circle(self, notebooks):
        notebooks("a", needs=["b"])
        notebooks("b", needs=["a"])
        message = refused(reader.discover)
        assert "need each other in a circle" in message
        assert "a → b" in message or "b → a" in message

    def test_an_unknown_need(self, notebooks):
        notebooks("setup")
        notebooks("a", needs=["setpu"])
        assert refused(reader.discover) == "a: needs 'setpu' (did you mean setup?), allowed: a, setup"

    @pytest.mark.parametrize("tags", [0, 2])
    def test_one_parameters_cell(self, notebooks, tags):
        notebooks("a", tags=tags)
        assert refused(reader.discover) == f"a.ipynb: {tags} cells tagged parameters, allowed: exactly one"

    def test_a_parameter_that_no_profile_knows(self, notebooks):
        notebooks("a", parameters=["sead = 1"])
        assert refused(reader.discover) == "a.ipynb: parameter sead: unknown (did you mean seed?)"

    def test_a_parameters_cell_that_computes(self, notebooks):
        notebooks("a", parameters=["import os"])
        assert "plain assignments only" in refused(reader.discover)

    def test_a_section_under_another_name(self, notebooks):
        notebooks("a", section="b")
        assert "opens the section 'b', allowed: its own name, 'a'" in refused(reader.discover)

    def test_needs_that_are_computed(self, notebooks):
        notebooks("a", body="run = Run('a', globals(), needs=list('b'))")
        path = reader.NOTEBOOKS / "a.ipynb"
        path.write_text(path.read_text().replace("needs=[]", "needs=list('b')"))
        assert "needs as literals" in refused(reader.discover)

    def test_a_notebook_that_is_no_json(self, notebooks):
        notebooks("a")
        (reader.NOTEBOOKS / "b.ipynb").write_text('{"cells": [')
        assert refused(reader.discover).startswith("b.ipynb: ")

    def test_a_cell_that_does_not_parse(self, notebooks):
        notebooks("a")
        path = reader.NOTEBOOKS / "a.ipynb"
        path.write_text(path.read_text().replace("needs=[]", "needs=["))
        assert "a.ipynb: a cell does not parse" in refused(reader.discover)

    def test_a_notebook_that_measures_nowhere(self, notebooks):
        notebooks("a")
        path = reader.NOTEBOOKS / "a.ipynb"
        path.write_text(path.read_text().replace('"measure"', '"draw"'))
        assert refused(reader.discover).startswith("a.ipynb: no cell is tagged measure; ")

    def test_drawing_takes_nothing_from_a_measuring_cell(self, notebooks):
        notebooks("a", body="rows = [1]\nrun.finish(rows=rows)", drawing="print(rows)")
        assert refused(reader.discover).startswith("a.ipynb: cell 4 draws from 'rows', a measuring cell's name; pass")
        notebooks("a", body="rows = [1]\nrun.finish(rows=rows)", drawing="print([rows for rows in run.data['rows']])")
        reader.discover()

    def test_measuring_imports_nothing_that_draws(self, notebooks):
        notebooks("a", body="from report.charts import render\nrun.finish(value=1)")
        assert refused(reader.discover).startswith("a.ipynb: a measuring cell imports report, allowed: in a drawing")

    def test_magics_are_no_errors(self, notebooks):
        notebooks("a", body="%time run.finish(value=1)", drawing="!echo drawn")
        assert list(reader.discover()) == ["a"]


class TestOwnNotebooks:
    """The project's notebooks, as they are committed."""

    def test_sections_in_order(self):
        found = reader.discover()
        assert {"setup", "phases", "V1", "V2", "V3", "V4", "V5", "P1", "P2", "P3", "P4", "conclusions"} <= set(found)
        assert next(iter(found)) == "setup"

    def test_every_parameter_is_somebody_s(self):
        used = {name for nb in reader.discover().values() for name in nb.parameters}
        assert used - {"profile"} == set(RULES) - set(OF_THE_RUN)

    def test_by_hand_they_measure_what_the_base_profile_does(self):
        base = yaml.safe_load((ROOT / "params" / "embedded.yaml").read_text(encoding="utf-8"))
        for nb in reader.discover().values():
            cells = nbformat.read(nb.path, as_version=4).cells
            cell = next(cell for cell in cells if "parameters" in cell.metadata.get("tags", []))
            defaults = {}
            exec(cell.source, defaults)
            del defaults["__builtins__"]
            assert defaults.pop("profile") == "embedded"
            assert defaults == {name: base[name] for name in defaults}, nb.name

    def test_they_are_committed_without_outputs(self):
        for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
            for cell in nbformat.read(path, as_version=4).cells:
                assert not cell.get("outputs"), path.name
                assert cell.get("execution_count") is None, path.name


class TestFreshness:
    """What is measured and what is redrawn; what a notebook would do is written down here instead."""

    @pytest.fixture(autouse=True)
    def ran(self, notebooks, monkeypatch):
        """`(task, name)` of what has run; `values` says what each section measures, `modules` what its code is."""
        self.ran, self.values, self.modules = [], {"a": 1, "b": 1, "c": 1}, {}

        def measure(profile, nb, kernel):
            self.ran.append(("measure", nb.name))
            record = {"section": nb.name, "parameters": {}, "provenance": measured.PROVENANCE}
            section = profile.section(nb.name)
            io.write_json(section, record | {"data": {"value": self.values[nb.name]}}, "section")
            return execution.Measured([], [section])

        def draw(profile, nb, kernel, done=None):
            if done is None:
                self.ran.append(("redraw", nb.name))
            figure = profile.folder / "results" / "figures" / f"{nb.name}.png"
            for path in (figure, profile.executed(nb)):
                with files.replacing(path) as partial:
                    partial.write_text("drawn")
            return [*(done.written if done else []), figure]

        monkeypatch.setattr(execution, "measure", measure)
        monkeypatch.setattr(execution, "draw", draw)
        kernel = SimpleNamespace(stop=lambda: None, emptied=lambda: True, process=SimpleNamespace(pid=2**30))
        monkeypatch.setattr(kernels, "start", lambda task, **environment: kernel)
        monkeypatch.setattr(kernels, "answering", lambda kernel, task: kernel)
        monkeypatch.setattr(freshness, "digests", lambda names: {n: self.modules.get(n, "as it was") for n in names})
        self.write = notebooks
        draws = {"drawing": "from report import prose\ndata = run.data"}
        self.write("a", **draws)
        self.write("b", needs=["a"], parameters=["samples = 5"], **draws)
        self.write("c", **draws)
        assert sorted(self.run()) == ["measure a", "measure b", "measure c"]
        assert self.ran.index(("measure", "a")) < self.ran.index(("measure", "b"))

    def run(self, names=None, **overrides):
        self.ran.clear()
        commands.run_notebooks("smoke", names, overrides)
        return [" ".join(done) for done in self.ran]

    def test_nothing_changed(self, capsys):
        assert self.run() == []
        assert "nothing to do" in capsys.readouterr().out

    def test_a_changed_notebook_reruns_itself_and_what_depends_on_it(self):
        self.write("a", body="run.finish(value=2)")
        self.values["a"] = 2
        assert self.run() == ["measure a", "measure b"]
        assert self.run() == []

    def test_the_same_results_leave_what_depends_on_them_alone(self):
        self.write("a", body="run.finish(value=1)  # in other words")
        assert self.run() == ["measure a"]

    def test_a_changed_drawing_cell_measures_nothing(self, build, capsys):
        section = (build / "smoke" / "results" / "data" / "sections" / "a.json").stat().st_mtime_ns
        self.write("a", drawing="data = run.data  # another colour")
        assert self.run() == ["redraw a"]
        assert "redraw: its cells have changed" in capsys.readouterr().out
        assert (build / "smoke" / "results" / "data" / "sections" / "a.json").stat().st_mtime_ns == section
        assert self.run() == []

    def test_a_changed_leaf_reruns_alone(self):
        self.write("b", body="run.finish(value=3)", needs=["a"], parameters=["samples = 5"])
        assert self.run() == ["measure b"]

    def test_a_parameter_reruns_those_that_take_it(self, capsys):
        assert self.run(samples="7") == ["measure b"]
        assert "b            measure: parameter samples changed" in capsys.readouterr().out
        assert self.run(samples="7") == []
        assert self.run() == ["measure b"]

    def test_only_the_named_one_and_its_needs(self):
        self.write("c", body="run.finish(value=4)")
        self.write("a", body="run.finish(value=5)")
        assert self.run(["b"]) == ["measure a"]

    def test_a_module_that_measures(self, capsys):
        self.modules["lib.pipeline.measuring"] = "another"
        assert sorted(self.run()) == ["measure a", "measure b", "measure c"]
        assert "a            measure: lib.pipeline.measuring changed" in capsys.readouterr().out

    def test_a_module_that_draws(self, capsys):
        self.modules["report.prose"] = "another"
        assert sorted(self.run()) == ["redraw a", "redraw b", "redraw c"]
        assert "a            redraw: report.prose changed" in capsys.readouterr().out
        assert self.run() == []

    @pytest.mark.parametrize(
        ("lost", "task"),
        [
            ("notebooks/a.ipynb", "measure"),
            ("results/data/sections/a.json", "measure"),
            ("results/figures/a.png", "redraw"),
        ],
    )
    def test_what_is_lost_or_altered_is_made_again(self, build, lost, task):
        path = build / "smoke" / lost
        whole = path.read_bytes()
        path.unlink()
        assert self.run() == [f"{task} a"]
        assert path.read_bytes() == whole
        path.write_bytes(whole.replace(b"a", b"i"))
        assert self.run() == [f"{task} a"]
        assert path.read_bytes() == whole

    def test_a_figure_that_is_no_longer_drawn_goes(self, build):
        manifest = build / "smoke" / "manifest.json"
        record = json.loads(manifest.read_text())
        files_of_a = record["notebooks"]["a"]["files"]
        files_of_a["results/figures/old.png"] = files_of_a["results/figures/a.png"]
        del record[SEAL]
        manifest.write_text(json.dumps(record))
        shutil.copy(build / "smoke/results/figures/a.png", build / "smoke/results/figures/old.png")
        self.write("a", drawing="data = run.data  # draws another")
        assert self.run() == ["redraw a"]
        assert sorted(path.name for path in (build / "smoke/results/figures").iterdir()) == ["a.png", "b.png", "c.png"]

    def test_a_lost_or_damaged_record_reruns_everything(self, build, capsys):
        (build / "smoke" / "manifest.json").write_text('{"notebooks": ')
        assert sorted(self.run()) == ["measure a", "measure b", "measure c"]
        assert "manifest.json: damaged" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("old", "new"), [('"overrides"', '"overridez"'), (f'"{SEAL}"', '"sha257"'), ("results/", "resultz/")]
    )
    def test_an_altered_record_reruns_everything(self, build, capsys, old, new):
        """Also where it is JSON, of the right form or nearly so."""
        path = build / "smoke" / "manifest.json"
        whole = path.read_text()
        path.write_text(whole.replace(old, new, 1))
        assert path.read_text() != whole
        assert sorted(self.run()) == ["measure a", "measure b", "measure c"]
        assert "manifest.json: damaged" in capsys.readouterr().err

    def test_dry_run_runs_nothing(self, build, capsys):
        path = build / "smoke" / "manifest.json"
        manifest = json.loads(path.read_text())
        assert set(manifest["seconds"]["measure"]) == {"a", "b", "c"}
        manifest["seconds"] = {"measure": {"a": 90, "b": 240}}
        del manifest[SEAL]
        path.write_text(json.dumps(manifest))
        before = snapshot(build)
        self.write("a", body="run.finish(value=2)")
        self.write("c", drawing="data = run.data  # another colour")
        commands.run_notebooks("smoke", None, {}, dry=True)
        out = capsys.readouterr().out
        assert "would measure a            its measuring cells have changed" in out
        assert "would measure b            a is measured again" in out
        assert "would redraw  c            its cells have changed" in out
        assert "changed (about 90 s)" in out and "again (about 4 min)" in out
        assert "about 6 min in all, without 1 that no run has timed" in out
        assert snapshot(build) == before

    def test_another_profile_takes_as_much_longer_as_it_works_more(self, monkeypatch):
        monkeypatch.setattr(estimate, "last", lambda path: {"measure": {"V4": 60.0}, "redraw": {"V4": 3.0}})
        monkeypatch.setattr(estimate, "HUB", {"some/model": 2e6})
        monkeypatch.setattr(estimate, "load_profile", lambda name: {"model": "some/model", "full_chunks": 50})
        values = {"model": "some/model@1", "full_chunks": 200}
        assert estimate.rates("other", values, {}) == {"measure": {"V4": 240.0}, "redraw": {"V4": 3.0}}
        assert estimate.rates("other", values, {"measure": {"V4": 7.0}})["measure"] == {"V4": 7.0}
        assert estimate.rates("other", values | {"model": "un/known"}, {})["measure"] == {}
        assert estimate.words(3 * 3600) == "3 h"

    def test_the_model_is_looked_at_only_before_measuring(self, monkeypatch):
        monkeypatch.setattr(commands, "check_model", lambda *_: pytest.fail("looked at the model"))
        self.modules["report.prose"] = "another"
        assert len(self.run()) == 3

    def test_a_parameter_that_no_named_notebook_takes(self):
        message = refused(self.run, ["a"], samples="7")
        assert message == "-p samples: used by none of a; allowed there: seed"

    def test_an_unknown_notebook(self):
        assert refused(self.run, ["d"]).startswith("notebook: given 'd', allowed: a, ")


def snapshot(folder):
    """Bytes of everything under a build folder but what failed and what the store keeps."""
    kept = ("failed", "store", ".locks")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not set(kept) & set(path.relative_to(folder).parts)
    }


class TestExecution:
    """Through papermill, with a kernel for each notebook."""

    def test_a_chain_runs_and_then_rests(self, notebooks, build):
        notebooks("a", body="run.finish(value=seed)")
        notebooks("b", body="print('to be kept')\nrun.finish(value=2)", needs=["a"])
        commands.run_notebooks("smoke", None, {"seed": "11"})
        assert io.load(build / "smoke" / "results" / "data") == {"a": {"value": 11}, "b": {"value": 2}}
        executed = nbformat.read(build / "smoke" / "notebooks" / "b.ipynb", as_version=4)
        assert any(
            "to be kept" in output.get("text", "") for cell in executed.cells for output in cell.get("outputs", [])
        )
        assert "papermill" not in executed.metadata
        before = snapshot(build)
        commands.run_notebooks("smoke", None, {"seed": "11"})
        assert snapshot(build) == before
        assert not list((build / "smoke" / "failed").iterdir())

    def test_a_redraw_looks_like_a_full_run(self, notebooks, build):
        """Its measuring cells keep their outputs, its results their bytes; only the drawing cells have run."""
        body = "import os\nprint(os.getpid())\nrun.finish(value=seed)\nos.getpid()"
        folder = build / "smoke"

        def ran(drawing):
            notebooks("a", body=body, drawing=drawing)
            commands.run_notebooks("smoke", None, {"seed": "11"})
            return nbformat.read(folder / "notebooks" / "a.ipynb", as_version=4)

        first = ran("data = run.data\nrun.draw('one')\ndata")
        results = snapshot(folder / "results" / "data")
        again = ran("data = run.data\nrun.draw('two')\nprint('in other words')\ndata")
        assert snapshot(folder / "results" / "data") == results
        assert [path.name for path in (folder / "results" / "figures").iterdir()] == ["two.png"]
        assert [cell.id for cell in again.cells] == [cell.id for cell in first.cells]
        assert again.cells[:5] == first.cells[:5]
        assert [cell.execution_count for cell in again.cells if cell.cell_type == "code"] == [1, 2, 3, 4, 5]
        assert [output.output_type for output in again.cells[-1].outputs] == ["stream", "execute_result"]
        assert again.cells[-1].outputs[1].execution_count == 5
        (folder / "manifest.json").unlink()
        whole = ran("data = run.data\nrun.draw('two')\nprint('in other words')\ndata")
        for cells in (whole.cells, again.cells):
            cells[4].outputs.clear()
        assert whole == again

    def test_a_kernel_draws_one_notebook_after_another(self, notebooks, build, monkeypatch):
        """None of them finds a name or a figure of the one before; where one fails, the next has another kernel."""
        monkeypatch.setattr(commands, "DRAWN_AT_ONCE", 1)
        drawn = "import os\nprint(os.getpid(), 'left' in globals())\nleft = 1\nrun.draw('{}')"
        for name in "abcd":
            notebooks(name)
        commands.run_notebooks("smoke", None, {})
        for name in "abcd":
            notebooks(name, drawing=drawn.format(name) if name != "c" else "1 / 0")
        assert "c: cell" in refused(commands.run_notebooks, "smoke", None, {})
        folder = build / "smoke"
        said = {}
        for name in "abd":
            cells = nbformat.read(folder / "notebooks" / f"{name}.ipynb", as_version=4).cells
            said[name], found = cells[-1].outputs[0].text.split()
            assert found == "False"
        assert said["a"] == said["b"] != said["d"]
        files = json.loads((folder / "manifest.json").read_text())["notebooks"]
        assert [path for path in files["b"]["files"] if "figures" in path] == ["results/figures/b.png"]

    def test_a_redraw_goes_without_what_does_not_fit(self, notebooks, build, monkeypatch, capsys):
        """Another version's results, and a section that cannot be drawn without them, are named; the others drawn."""
        assembled = []
        monkeypatch.setattr(commands, "assemble", lambda profile: assembled.append(dict(profile.lost)))
        monkeypatch.setattr(commands, "stale_report", lambda profile: True)
        monkeypatch.setenv("EXPERIMENT10_WITHOUT", "")
        chain = {"a": [], "b": [], "c": ["b"], "d": ["b"]}
        for name, needs in chain.items():
            notebooks(name, needs=needs)
        commands.run_notebooks("smoke", None, {})
        lost = io.section_path(build / "smoke" / "results" / "data", "b")
        lost.write_text(json.dumps(json.loads(lost.read_text()) | {"data": None}))
        before = snapshot(build / "smoke" / "results")
        for name, needs in chain.items():
            drawing = "import os\nprint('anew, without', os.environ['EXPERIMENT10_WITHOUT'])"
            notebooks(name, needs=needs, drawing=drawing if name != "d" else "{}['b']")
        capsys.readouterr()
        commands.redraw_report("smoke")
        said = capsys.readouterr().out
        left = re.findall("^(.) +left as not measured: (.*)$", said, re.M)
        assert [name for name, _ in left] == ["b", "d"]
        assert "(schema lib/results/schema/section.json)" in left[0][1] and "KeyError: 'b'" in left[1][1]
        assert [set(found) for found in assembled] == [{"b", "d"}]
        for name in ("a", "c"):
            assert "anew, without b" in (build / "smoke" / "notebooks" / f"{name}.ipynb").read_text()
        assert snapshot(build / "smoke" / "results") == before
        _, _, todo = commands.plan("smoke", None, {})
        assert {name for name, (task, _) in todo.items() if task == "measure"} == {"b", "c", "d"}
        assert todo["b"][1].startswith("results/data/sections/b.json is missing or was altered")

    def test_a_redraw_of_nothing_that_fits_is_refused(self, notebooks, build, monkeypatch):
        monkeypatch.setenv("EXPERIMENT10_WITHOUT", "")
        notebooks("a")
        commands.run_notebooks("smoke", None, {})
        io.section_path(build / "smoke" / "results" / "data", "a").unlink()
        assert "no section can be drawn" in refused(commands.redraw_report, "smoke")

    def test_a_drawing_cell_that_measures(self, notebooks, build):
        notebooks("a")
        commands.run_notebooks("smoke", None, {})
        before = snapshot(build / "smoke" / "notebooks")
        notebooks("a", drawing="run.finish(value=2)")
        message = refused(commands.run_notebooks, "smoke", None, {})
        assert message.startswith("a: a drawing cell wrote ") and message.endswith("; tag it measure")
        assert snapshot(build / "smoke" / "notebooks") == before

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            ("raise RuntimeError('no\\nluck')", "a: cell 4: RuntimeError: no; see "),
            (
                "from lib.errors import InputError\nraise InputError('key: given 1, allowed: 2')",
                "a: key: given 1, allowed: 2",
            ),
            ("run.finish(value=2)\nimport sys; sys.exit(0)", "a: cell 4 did not run to its end; see "),
            (
                "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
                "a: its kernel was killed, most likely for want of memory (",
            ),
            ("pass", "a: ended without run.finish(…), so it has no results; see "),
        ],
        ids=["raises", "refuses", "exits", "dies", "measures nothing"],
    )
    def test_a_failure_leaves_the_good_notebook(self, notebooks, build, body, said):
        notebooks("a", body=body, drawing="1")
        good = build / "smoke" / "notebooks" / "a.ipynb"
        good.parent.mkdir(parents=True)
        good.write_text("the good one")
        message = refused(commands.run_notebooks, "smoke", None, {})
        assert message.startswith(said)
        assert good.read_text() == "the good one"
        assert (build / "smoke" / "failed" / "a.ipynb").is_file()
        assert [path.name for path in good.parent.iterdir()] == ["a.ipynb"]
        assert not (build / "smoke" / "manifest.json").exists()


class TestOverlap:
    """A section measures while the one before it draws; one that measures times has the machine to itself."""

    def events(self, build, name):
        """`{event: time}` of a notebook's cells, from what they printed."""
        cells = nbformat.read(build / "smoke" / "notebooks" / f"{name}.ipynb", as_version=4).cells
        words = " ".join(output.get("text", "") for cell in cells for output in cell.get("outputs", [])).split()
        return dict(zip(words[::2], map(float, words[1::2]), strict=True))

    def write(self, notebooks, name, drawing="", **more):
        say = "print({!r}, time.time())"
        notebooks(
            name,
            body=f"import time\n{say.format('begins')}\nrun.finish(value=1)",
            drawing=f"import time\nbegan = time.time()\n{drawing}\nrun.draw({name!r})\n{say.format('drawn')}",
            **more,
        )

    def test_the_next_one_measures_meanwhile(self, notebooks, build):
        waits = "while not run.path.with_name('b.json').exists() and time.time() - began < 90:\n    time.sleep(0.1)"
        self.write(notebooks, "a", waits)
        self.write(notebooks, "b", needs=["a"])
        self.write(notebooks, "c", needs=["b"], parameters=["speed_runs = 5"])
        commands.run_notebooks("smoke", None, {})
        a, b, c = (self.events(build, name) for name in "abc")
        assert b["begins"] < a["drawn"]
        assert max(a["drawn"], b["drawn"]) < c["begins"]
        manifest = json.loads((build / "smoke" / "manifest.json").read_text())
        for name in "abc":
            assert set(manifest["notebooks"][name]["files"]) == {
                f"notebooks/{name}.ipynb",
                f"results/data/sections/{name}.json",
                f"results/figures/{name}.png",
            }

    def test_what_measures_times_comes_when_nothing_draws(self, notebooks):
        notebooks("a", parameters=["speed_runs = 5"])
        notebooks("b")
        notebooks("c", needs=["b"])
        a, b, c = (reader.discover()[name] for name in "abc")
        assert commands.next_of([a, b, c], drawing=False) == a
        assert commands.next_of([a, b, c], drawing=True) == b
        assert commands.next_of([a, c], drawing=True) == c
        assert commands.next_of([c, b], drawing=True) == b
        assert commands.next_of([a], drawing=True) == a

    def test_a_drawing_that_fails_stops_the_next_one(self, notebooks, build):
        notebooks("a", drawing="import time\ntime.sleep(3)\nraise RuntimeError('no luck')")
        notebooks("b", needs=["a"], body="import time\ntime.sleep(600)\nrun.finish(value=1)")
        started = time.monotonic()
        message = refused(commands.run_notebooks, "smoke", None, {})
        assert message.startswith("a: cell 5: RuntimeError: no luck")
        assert time.monotonic() - started < 300
        assert not list((build / "smoke" / "notebooks").glob("*"))


class TestBadInput:
    """What the command line refuses before any kernel starts."""

    @pytest.fixture(autouse=True)
    def no_kernel(self, monkeypatch):
        monkeypatch.setattr(execution, "measure", lambda *args: pytest.fail("a notebook was started"))

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["-p", "n_ctxx", "64"], "-p n_ctxx: unknown (did you mean n_ctx?); allowed: model, tokenizer"),
            (["-p", "full_chunks", "many"], "-p full_chunks: given 'many', allowed: a whole number from 1"),
            (["-p", "draws", "1"], "-p draws: given '1', allowed: a whole number between 100 and 100000"),
            (["-p", "temperature", "-1"], "-p temperature: given '-1', allowed: a number above 0"),
            (["--profile", "gtp2"], "profile: given 'gtp2' (did you mean gpt2?), allowed: embedded, gpt2"),
            (["-p", "model", "no/such/folder"], "model: given 'no/such/folder', which is no folder here; pass a local"),
        ],
    )
    def test_words(self, build, words, said):
        with pytest.raises(SystemExit) as stopped:
            commands.main(["report", "--profile", "smoke", *words])
        assert stopped.value.code.startswith(f"error: {said}")
        assert "\n" not in stopped.value.code
        assert not build.exists()

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"ladder": "0 9"}, "ladder: given 9, allowed: at most 8, the heads outside layer 0"),
            ({"relu_counts": "4 99"}, "relu_counts: given 99, allowed: at most 8"),
            ({"n_ctx": "129", "full_chunks": "2"}, "n_ctx: given 129, allowed: at most 128"),
            ({"focus_head": "L3H0"}, "focus_head: given L3H0, allowed: L0H0 to L2H3"),
            ({"top_heads": "13"}, "top_heads: given 13, allowed: at most 12, all heads"),
        ],
    )
    def test_what_does_not_fit_the_model(self, build, model_folders, given, said):
        words = [word for pair in given.items() for word in ("-p", *pair)]
        with pytest.raises(SystemExit) as stopped:
            commands.main(["report", "--profile", "smoke", "-p", "model", str(model_folders["gpt2"]), *words])
        assert stopped.value.code.startswith(f"error: {said}")
        assert not build.exists()

    def test_a_folder_that_is_no_model(self, build, tmp_path):
        with pytest.raises(SystemExit) as stopped:
            commands.main(["report", "--profile", "smoke", "-p", "model", str(tmp_path)])
        assert "has no config.json; allowed: a folder that" in stopped.value.code


class TestSetupRefuses:
    """What only the set-up can see, over a good set-up that has to stay as it is."""

    @pytest.fixture
    def attempt(self, build, model_folders, dataset):
        """Calls the set-up as its notebook does, with other parameters; what stands in the build must not change."""
        good = {"model": str(model_folders["gpt2"]), "dataset": str(dataset), "split": "validation"}

        def call(**given):
            cells = nbformat.read(ROOT / "notebooks" / "setup.ipynb", as_version=4).cells
            names = {}
            exec(next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])), names)
            small = {"profile": "smoke", "n_ctx": 64, "quick_chunks": 1, "full_chunks": 4, "context_tokens": 256}
            section = run.Run("setup", names | small | good | given)
            section.describe(setup.prepare(section))

        def refuse(**given):
            call()
            before = snapshot(build)
            names = {path.rsplit("/", 1)[1] for path in before}
            assert names == {
                "setup.json",
                "tokens.npy",
                "documents.npy",
                "setup.txt",
            }  # the last: scores used
            message = refused(call, **given)
            assert snapshot(build) == before
            return message

        return refuse

    def test_a_corpus_too_short(self, attempt, tmp_path):
        message = attempt(dataset=str(wikitext(tmp_path / "short", "def f(x):\n    return x\n" * 9)))
        assert message.startswith("full_chunks: given 4, allowed: at most ")
        assert "the whole chunks of 64 tokens in " in message

    @pytest.mark.skipif(not EMBEDDED.is_dir(), reason="models/embedded, whose tokenizer this needs, is not there")
    def test_a_tokenizer_of_another_vocabulary(self, attempt):
        message = attempt(tokenizer="models/embedded")
        assert message.startswith("tokenizer: makes the id ")
        assert "allowed: below 320, the model's vocabulary; pass -p tokenizer DIR" in message

    def test_weights_that_are_not_numbers(self, attempt, spoiled):
        path = spoiled / "model.safetensors"
        weights = {name: value.clone() for name, value in load_file(path).items()}
        next(iter(weights.values()))[0] = float("nan")
        save_file(weights, path, metadata={"format": "pt"})
        assert "holds NaN or infinity in " in attempt(model=str(spoiled))

    def test_truncated_weights(self, attempt, spoiled):
        path = spoiled / "model.safetensors"
        path.write_bytes(path.read_bytes()[:5000])
        assert attempt(model=str(spoiled)).startswith(f"model: {spoiled} can't be loaded (")

    def test_a_device_or_backend_that_is_not_here(self, attempt):
        assert "device: given 'mps', allowed on this machine: auto, " in attempt(device="mps")
        assert "'metal'" in attempt(backend="metal", device="cpu")


class TestCommand:
    """The command itself: exit code, one line, and the good results under it."""

    def run(self, *words):
        done = subprocess.run(pipeline(*words), cwd=ROOT, capture_output=True, text=True)
        return done.returncode, done.stderr.strip()

    def test_bad_words(self, build):
        code, said = self.run("report", "--profile", "smoke", "-p", "sede", "3")
        assert code == 1
        assert said.startswith("error: -p sede: unknown (did you mean seed?)")
        assert "\n" not in said
        assert not build.exists()

    def test_bad_logits_over_good_results(self, build, model_folders, dataset, spoiled):
        given = ("-p", "dataset", dataset, "-p", "split", "validation", "-p", "model")
        words = ("run", "V1", "--profile", "smoke", *given)
        code, said = self.run(*words, spoiled)
        assert code == 0
        assert "error" not in said
        good = json.loads((build / "smoke/results/data/sections/V1.json").read_text())
        before = snapshot(build)
        weights = load_file(spoiled / "model.safetensors")
        save_file({k: v * 1e30 for k, v in weights.items()}, spoiled / "model.safetensors", metadata={"format": "pt"})
        code, said = self.run(*words, spoiled)
        assert code == 1
        assert said.splitlines()[-1].startswith("error: V1: the logits of plan ")
        assert "Traceback" not in said
        after = snapshot(build)
        assert good["data"]["n_chunks"] == 4
        for path in ("notebooks/V1.ipynb", "results/data/sections/V1.json"):
            assert after[f"smoke/{path}"] == before[f"smoke/{path}"]


@pytest.fixture
def spoiled(tmp_path, model_folders):
    """A copy of the GPT-2 type folder, to be damaged."""
    return shutil.copytree(model_folders["gpt2"], tmp_path / "spoiled")
