"""Whole profiles, from the command to the files: what a reader gets, and whether its numbers are right."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from conftest import DATA, EMBEDDED, N_VOCAB, ROOT, pipeline
from plain_gpt2 import Scorer

from lib.params import load_profile
from lib.pipeline import notebooks
from lib.results import io
from lib.travel import pack
from report import prose
from report.charts import render
from report.words import word

AGREES = 2e-3  # relative, between the results and the independent scorer
needs_embedded = pytest.mark.skipif(not EMBEDDED.is_dir(), reason="models/embedded is not there")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def finish(words, build, **more):
    environment = os.environ | {"EXPERIMENT10_BUILD": str(build), "OMP_NUM_THREADS": ""} | more
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The folder of profile `smoke`, made by the command; the tests of this module read it and leave it alone."""
    if not EMBEDDED.is_dir():
        pytest.skip("models/embedded is not there")
    build = tmp_path_factory.mktemp("smoke")
    finish(pipeline("report", "--profile", "smoke"), build)
    return build / "smoke"


@pytest.fixture(scope="module")
def scorer(smoke):
    return Scorer(EMBEDDED, np.load(smoke / "results/data/tokens.npy"))


def assembled(folder, kind):
    return json.loads(next((folder / "results" / "data").glob(f"{kind}_*.json")).read_text(encoding="utf-8"))


class TestFiles:
    def test_every_notebook_ran(self, smoke):
        names = {path.stem for path in (smoke / "notebooks").iterdir()}
        assert names == set(notebooks.discover()) == set(io.load(smoke / "results" / "data"))
        assert not list((smoke / "failed").iterdir())

    def test_the_files_that_the_report_promises(self, smoke):
        found = {str(path.relative_to(smoke)) for path in smoke.rglob("*") if path.is_file()}
        wanted = {"report/report.html", "report/report.ja.pdf", "report/report.en.pdf", "results/data/tokens.npy"}
        wanted |= {f"results/data/{name}_embedded.json" for name in ("exp10v_validation", "exp10p_phase3")}
        assert wanted <= found
        figures = [path.removeprefix("results/figures/") for path in found if path.startswith("results/figures/")]
        for family in ("v", "p1", "p2", "p3", "p4"):
            assert any(re.fullmatch(rf"exp10{family}_\w+_embedded\.png", name) for name in figures), family
        for name in figures:
            assert (smoke / "results/figures" / name).read_bytes().startswith(b"\x89PNG\r\n"), name
        assert not any("/." in path for path in found)

    def test_the_tokens_that_were_scored(self, smoke):
        tokens = np.load(smoke / "results/data/tokens.npy")
        assert tokens.dtype == np.int32
        assert tokens.shape == (4, 128)

    def test_keys_of_the_assembled_files(self, smoke):
        part_v, part_p = assembled(smoke, "exp10v_validation"), assembled(smoke, "exp10p_phase3")
        assert {
            "model", "ppl_2k", "ppl_full", "n_chunks", "total_tokens", "v2_top10", "v3_focus_head", "ranking",
            "v4_cumulative", "v4_cumulative_2k", "v5_comparison", "provenance",
        } <= set(part_v)  # fmt: skip
        assert {"p1_speed", "p2_self_refinement", "p3_best_of_n", "p4_context_length", "provenance"} <= set(part_p)
        provenance = part_v["provenance"]
        assert provenance["parameters"]["full_chunks"] == 4
        assert provenance["profile"] == "smoke"
        assert re.fullmatch("[0-9a-f]{64}", provenance["model"]["fingerprint"])
        assert (part_v["n_chunks"], part_v["total_tokens"]) == (4, 512)

    @pytest.mark.parametrize(
        ("kind", "sections"), [("exp10v_validation", "V1 V2 V3 V4"), ("exp10p_phase3", "P1 P2 P3 P4")]
    )
    def test_provenance_of_the_assembled_files(self, smoke, kind, sections):
        folder = smoke / "results" / "data"
        parts = [io.read_json(io.section_path(folder, name))["provenance"] for name in sections.split()]
        whole = assembled(smoke, kind)["provenance"]
        assert whole["backend"] == data(smoke, "setup")["backend"] != "none"
        assert whole["times"]["seconds"] >= sum(part["times"]["seconds"] for part in parts)
        assert whole["times"]["started"] <= min(part["times"]["started"] for part in parts)
        assert all(part["parameters"].items() <= whole["parameters"].items() for part in parts)

    def test_the_page_loads_nothing_from_elsewhere(self, smoke):
        page = (smoke / "report" / "report.html").read_text(encoding="utf-8")
        assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page.replace('href="https://', "href=(link)"))
        assert 'src="http' not in page
        assert not re.search(r"<link[^>]+href=.?https?:", page)
        assert not re.search(r"@import|url\(\s*['\"]?https?:", page)

    def test_both_books_can_be_read(self, smoke):
        reader = shutil.which("pdftotext")
        if not reader:
            pytest.skip("pdftotext is not installed")
        text = {
            lang: subprocess.run(
                [reader, smoke / "report" / f"report.{lang}.pdf", "-"], capture_output=True, text=True, check=True
            ).stdout
            for lang in ("ja", "en")
        }
        ppl = f"{assembled(smoke, 'exp10v_validation')['ppl_full']:.2f}"
        assert ppl in text["ja"]
        assert ppl in text["en"]
        assert len(re.findall("[\u3041-\u3096]", text["ja"])) > 1000
        assert len(re.findall("[\u3041-\u3096]", text["en"])) < 20
        assert "self-refinement" in text["en"].lower()

    def test_a_second_run_does_nothing(self, smoke):
        before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in smoke.rglob("*")}
        said = finish(pipeline("report", "--profile", "smoke"), smoke.parent)
        assert len(re.findall("nothing to do", said)) == 2
        assert len(said.splitlines()) == 2
        assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in smoke.rglob("*")} == before


@pytest.fixture
def elsewhere(smoke, tmp_path):
    """A copy of the project beside one of the finished profile, and an environment in which importing torch fails."""
    copy, poison = tmp_path / "project", tmp_path / "poison"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "build", "__pycache__", "*.egg-info"))
    shutil.copytree(smoke, tmp_path / "build" / "smoke", copy_function=shutil.copy2)
    poison.mkdir()
    (poison / "torch.py").write_text("raise ImportError('torch is asked for')")
    path = os.pathsep.join(map(str, (poison, copy)))
    return copy, os.environ | {"EXPERIMENT10_BUILD": str(tmp_path / "build"), "PYTHONPATH": path}


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def append(path, line):
    path.write_text(path.read_text(encoding="utf-8") + line, encoding="utf-8")


class TestRedraw:
    """After a change of words, colours and sentences nothing is measured, and torch is not even imported."""

    def run(self, elsewhere, *words):
        copy, environment = elsewhere
        done = subprocess.run(words, cwd=copy, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def test_words_charts_and_sentences(self, smoke, elsewhere):
        copy, environment = elsewhere
        poisoned = subprocess.run(
            [sys.executable, "-c", "import torch"], env=environment, capture_output=True, text=True
        )
        assert "torch is asked for" in poisoned.stderr
        assert "nothing to do" in self.run(elsewhere, *pipeline("report", "--profile", "smoke"))
        append(copy / "report" / "charts" / "style.py", "ANOTHER = 1\n")
        edit(copy / "notebooks" / "V1.ipynb", "From the 2K to the full tokens", "Going from the 2K to the full tokens")
        folder = Path(environment["EXPERIMENT10_BUILD"]) / "smoke"
        data = [path for path in (folder / "results" / "data").rglob("*") if path.is_file()]
        before = [(path.stat().st_mtime_ns, path.read_bytes()) for path in data]
        said = self.run(elsewhere, *pipeline("dry-run", "--profile", "smoke"))
        assert "would redraw  V4           report.charts.style changed" in said
        assert "would redraw  V1           its cells have changed" in said
        assert "would redraw  conclusions  report.charts.style changed" in said
        planned = said.count("would redraw")
        assert planned > 10 and "would measure" not in said
        said = self.run(elsewhere, *pipeline("report", "--profile", "smoke"))
        assert said.count("redraw: ") == planned and "measure: " not in said
        assert [(path.stat().st_mtime_ns, path.read_bytes()) for path in data] == before
        assert (folder / "notebooks" / "V4.ipynb").read_bytes() == (smoke / "notebooks" / "V4.ipynb").read_bytes()
        drawn, earlier = (
            nbformat.read(place / "notebooks" / "V1.ipynb", as_version=4).cells for place in (folder, smoke)
        )
        assert [cell.get("execution_count") for cell in drawn] == [cell.get("execution_count") for cell in earlier]
        page = (folder / "report" / "report.html").read_text(encoding="utf-8")
        assert "Going from the 2K to the full tokens" in page
        assert "nothing to do" in self.run(elsewhere, *pipeline("report", "--profile", "smoke"))

    def test_what_measures_is_measured_again(self, elsewhere):
        copy, environment = elsewhere
        environment["PYTHONPATH"] = str(copy)
        append(copy / "lib" / "analysis" / "flops.py", "ANOTHER = 1\n")
        said = self.run(elsewhere, *pipeline("dry-run", "--profile", "smoke"))
        told = dict(line.split(maxsplit=3)[2:] for line in said.splitlines() if "would measure" in line)
        assert told["phases"].startswith("lib.analysis.flops changed")
        assert told["V2"].startswith("phases is measured again")
        assert not {"setup", "V1"} & set(told)


class TestTravelled:
    """A pack on a machine without the weights: its report is drawn, and only what is missing is measured later."""

    @pytest.fixture
    def arrived(self, smoke, elsewhere, tmp_path, monkeypatch):
        """The pack's results in an empty build folder, beside a copy of the project that has no models."""
        copy, environment = elsewhere
        monkeypatch.setenv("EXPERIMENT10_BUILD", str(smoke.parent))
        file = pack.pack("smoke", tmp_path / "packs")
        shutil.move(copy / "models", tmp_path / "models")
        environment["EXPERIMENT10_BUILD"] = str(tmp_path / "empty")
        said = self.run(copy, environment, sys.executable, "-m", "lib.travel", "unpack", file)
        assert "unpacked, every digest as listed" in said
        return copy, environment, tmp_path / "empty" / "smoke"

    def run(self, copy, environment, *words):
        done = subprocess.run(words, cwd=copy, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def test_its_report_is_drawn_and_only_what_is_missing_is_measured(self, smoke, arrived, tmp_path):
        copy, environment, folder = arrived
        assert (folder / "report" / "report.html").read_bytes() == (smoke / "report" / "report.html").read_bytes()
        shutil.rmtree(folder / "report")
        io.section_path(folder / "results" / "data", "S2").unlink()
        edit(copy / "notebooks" / "V1.ipynb", "From the 2K to the full tokens", "Going from the 2K to the full tokens")
        said = self.run(copy, environment, *pipeline("redraw", "--profile", "smoke"))
        assert re.findall(r"^(\w+) +left as not measured: ", said, re.M) == ["S2"]
        assert "V1           redraw: its cells have changed" in said
        assert "conclusions  redraw: the results of S2 changed" in said and not re.search(
            r"^\w+ +measure: ", said, re.M
        )
        page = (folder / "report" / "report.html").read_text(encoding="utf-8")
        assert "Going from the 2K to the full tokens" in page
        for lang in ("ja", "en"):
            assert page.count(word("unmeasured", lang).split("`")[0]) == 1
            assert (folder / "report" / f"report.{lang}.pdf").read_bytes().startswith(b"%PDF-")
        shutil.move(tmp_path / "models", copy / "models")
        environment["PYTHONPATH"] = str(copy)
        said = self.run(copy, environment, *pipeline("dry-run", "--profile", "smoke"))
        assert re.findall(r"^would measure +(\w+) ", said, re.M) == ["S2", "conclusions"]

    def test_a_section_of_another_form_is_left_out_of_the_pack_alone(self, arrived, tmp_path):
        copy, environment, folder = arrived
        (file,) = (tmp_path / "packs").iterdir()
        edit(copy / "lib" / "results" / "schema" / "sections.json", '"first_broken"', '"first_broken_rung"')
        environment["EXPERIMENT10_BUILD"] = str(tmp_path / "third")
        words = [sys.executable, "-m", "lib.travel", "unpack", file]
        done = subprocess.run(words, cwd=copy, env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and done.stderr.startswith("S2: left out, as not measured: S2.json: data: ")
        assert done.stderr.count("\n") == 1
        kept = {path.stem for path in (tmp_path / "third" / "smoke" / "results" / "data" / "sections").iterdir()}
        assert {path.stem for path in (folder / "results" / "data" / "sections").iterdir()} - kept == {"S2"}


class TestNumbers:
    """Every figure of Part V's file against the independent scorer."""

    QUICK = 1

    def close(self, value):
        return pytest.approx(value, rel=AGREES, abs=2e-5)

    def ppl(self, scorer, *changes, quick=False, means=None):
        return scorer.ppl(changes, self.QUICK if quick else None, means)

    def delta(self, scorer, *changes, quick=False, means=None):
        return self.ppl(scorer, *changes, quick=quick, means=means) / self.ppl(scorer, quick=quick) - 1

    def test_baseline(self, smoke, scorer):
        found = assembled(smoke, "exp10v_validation")
        assert found["ppl_full"] == self.close(self.ppl(scorer))
        assert found["ppl_2k"] == self.close(self.ppl(scorer, quick=True))
        low, high = found["intervals"]["ppl_full"]
        assert low < found["ppl_full"] < high

    def test_top_heads(self, smoke, scorer):
        found = assembled(smoke, "exp10v_validation")["v2_top10"]
        scan = {
            (layer, head): self.delta(scorer, (layer, head, "zero"), quick=True)
            for layer in range(12)
            for head in range(12)
        }
        assert [(row["layer"], row["head"]) for row in found] == sorted(scan, key=scan.get, reverse=True)[:4]
        for row in found:
            change = (row["layer"], row["head"], "zero")
            assert row["ppl_2k"] == self.close(self.ppl(scorer, change, quick=True))
            assert row["ppl_full"] == self.close(self.ppl(scorer, change))
            assert row["delta_ppl_2k"] == self.close(scan[change[:2]])
            assert row["delta_ppl_full"] == self.close(self.delta(scorer, change))

    def test_focus_head(self, smoke, scorer):
        found = assembled(smoke, "exp10v_validation")
        row, place = found["v3_focus_head"], (found["v3_focus_head"]["layer"], found["v3_focus_head"]["head"])
        assert place == (found["v2_top10"][0]["layer"], found["v2_top10"][0]["head"])
        for column, quick in (("2k", True), ("full", False)):
            means = scorer.means(self.QUICK if quick else None)
            zero = self.delta(scorer, (*place, "zero"), quick=quick)
            mean = self.delta(scorer, (*place, "mean"), quick=quick, means=means)
            assert row[f"zero_delta_ppl_{column}"] == self.close(zero)
            assert row[f"mean_delta_ppl_{column}"] == self.close(mean)

    def test_ranking(self, smoke, scorer):
        found = assembled(smoke, "exp10v_validation")["ranking"]
        harm = {
            (layer, head): abs(self.delta(scorer, (layer, head, "relu"), quick=True))
            for layer in range(1, 12)
            for head in range(12)
        }
        assert sorted(map(tuple, found)) == sorted(harm)
        ordered = [harm[tuple(place)] for place in found]
        # two heads may change places only where float32 cannot tell their harms apart
        assert all(a <= b + 1e-5 for a, b in zip(ordered, ordered[1:], strict=False))

    def test_ladder(self, smoke, scorer):
        found = assembled(smoke, "exp10v_validation")
        for key, quick in (("v4_cumulative", False), ("v4_cumulative_2k", True)):
            assert [row["n_linearized"] for row in found[key]] == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 132]
            for row in found[key]:
                changes = [(*place, "relu") for place in found["ranking"][: row["n_linearized"]]]
                ppl = self.ppl(scorer, *changes, quick=quick)
                assert row["ppl"] == self.close(ppl)
                assert row["ratio"] == self.close(ppl / self.ppl(scorer, quick=quick))

    def test_context_lengths(self, smoke, scorer):
        found = assembled(smoke, "exp10p_phase3")["p4_context_length"]
        ranking = assembled(smoke, "exp10v_validation")["ranking"]
        stream = scorer.tokens.reshape(-1)
        for row in found["conditions"]:
            for length, ppl in zip(found["lengths"], row["ppl"], strict=True):
                cut = Scorer(EMBEDDED, stream.reshape(-1, length))
                changes = [(*place, "relu") for place in ranking[: row["n_linearized"]]]
                assert ppl == self.close(cut.ppl(changes))

    def test_thresholds_and_verdict_follow(self, smoke):
        found = assembled(smoke, "exp10v_validation")
        for key, column in (("v4_cumulative", "thresholds_full"), ("v4_cumulative_2k", "thresholds_2k")):
            for limit, n in found["v5_comparison"][column].items():
                within = [row["n_linearized"] for row in found[key] if row["ratio"] <= float(limit)]
                assert n == max(within)
        rows = found["v5_comparison"]["comparisons"]
        mean = 100 * np.mean([row["difference"] for row in rows if row["difference"] is not None])
        assert found["v5_comparison"]["mean_diff_pct"] == pytest.approx(mean)
        assert found["v5_comparison"]["bias"] == ("optimistic" if mean > 5 else "pessimistic" if mean < -5 else "agree")


def by_hand(build, monkeypatch, names, **given):
    """Runs notebooks' cells in this process, parameters changed as a reader would; `{name: what it shows}`."""
    monkeypatch.setenv("EXPERIMENT10_BUILD", str(build))
    monkeypatch.setenv("EXPERIMENT10_PIPELINE", "0")
    values = load_profile("smoke", given)
    shown = {}
    for name in names:
        found = shown[name] = []
        monkeypatch.setattr(prose, "show", lambda bundle, metadata, found=found: found.append(bundle))
        space = {"__name__": "notebook"}
        for cell in nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells:
            if cell.cell_type != "code":
                continue
            exec(compile(cell.source, name, "exec"), space)
            if "parameters" in cell.metadata.get("tags", []):
                space |= {"profile": "smoke"} | {k: v for k, v in values.items() if k in space}
    return shown


@pytest.fixture
def all_threads():
    """As many as the pipeline's kernels have here, whatever this process was started with: R4's bits hang on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def quick_figures(monkeypatch):
    """Charts are built but not drawn."""
    monkeypatch.setattr(render, "png", lambda spec: b"\x89PNG\r\n")


def data(folder, name):
    return io.read_json(io.section_path(folder / "results" / "data", name), "section")["data"]


def words(outputs, kind="text/markdown"):
    return [bundle[kind] for bundle in outputs if kind in bundle]


SPEEDS = ("P1", "K", "conclusions")  # what measures times, or repeats them


def untimed(value):
    """A section's data without the milliseconds that R2 measures beside its accuracies."""
    if isinstance(value, dict):
        return {key: untimed(inner) for key, inner in value.items() if key not in ("ms", "ms_ci")}
    return [untimed(inner) for inner in value] if isinstance(value, list) else value


def test_the_same_seed_gives_the_same_bytes(smoke, tmp_path, monkeypatch, quick_figures, all_threads):
    """By hand, in one process, with an empty store: the data of every section, times aside, byte by byte."""
    names = [name for name in notebooks.discover() if name not in SPEEDS]
    by_hand(tmp_path, monkeypatch, names)
    for name in names:
        first, second = (json.dumps(untimed(data(folder, name))) for folder in (smoke, tmp_path / "smoke"))
        assert first == second, name
    first, second = (folder / "results/data/tokens.npy" for folder in (smoke, tmp_path / "smoke"))
    assert first.read_bytes() == second.read_bytes()


def test_other_parameters_change_tables_and_sentences(smoke, tmp_path, monkeypatch, quick_figures):
    shutil.copytree(smoke.parent / "store", tmp_path / "store")
    given = {"full_chunks": 3, "relu_counts": "20 60", "top_heads": 3, "focus_head": "L5H7", "samples": 2, "n_ctx": 96}
    shown = by_hand(tmp_path, monkeypatch, [name for name in notebooks.discover() if name not in SPEEDS], **given)
    found = {name: data(tmp_path / "smoke", name) for name in shown}
    assert found["setup"]["full_tokens"] == 288
    assert len(found["V2"]["top10"]) == 3
    assert (found["V3"]["layer"], found["V3"]["head"]) == (5, 7)
    assert [row["condition"] for row in found["P2"]["conditions"]] == ["baseline", "relu_20", "relu_60"]
    assert found["P3"]["n"] == [1, 2]
    for name in ("setup", "V1", "V2", "V3", "V4", "V5", "P2", "P3", "P4"):
        executed = nbformat.read(smoke / "notebooks" / f"{name}.ipynb", as_version=4)
        before = [output.data for cell in executed.cells for output in cell.get("outputs", []) if "data" in output]
        assert words(before) != words(shown[name]), name
        assert words(before, "text/html") != words(shown[name], "text/html"), name
    sentences = "\n".join(words(shown["V3"]))
    assert "L5H7" in sentences
    assert f"{found['V3']['zero_delta_ppl_full']:+.1%}".replace("-", "−") in sentences
    assert "288" in "\n".join(words(shown["setup"]))


def test_a_llama_type_model_runs_every_notebook(tmp_path, monkeypatch, model_folders, dataset):
    """Two layers, four heads on two key heads, a vocabulary of its own: by hand, passing a reader's least."""
    given = {"model": str(model_folders["llama"]), "dataset": str(dataset), "split": "validation"}
    shown = by_hand(tmp_path, monkeypatch, notebooks.discover(), **given)
    folder = tmp_path / "smoke"
    setup = data(folder, "setup")
    shape = {"family": "llama", "n_layer": 2, "n_head": 4, "n_kv_head": 2, "vocab_size": N_VOCAB}
    assert shape.items() <= setup["model"].items()
    assert setup["ladder"] == [0, 4]
    part_v, part_p = (assembled(folder, kind) for kind in ("exp10v_validation", "exp10p_phase3"))
    assert sorted(part_v["ranking"]) == [[1, 0], [1, 1], [1, 2], [1, 3]]
    assert len(part_p["p4_context_length"]["conditions"]) == 1 + len(setup["relu_counts"])
    assert all(words(outputs) for outputs in shown.values())
    assert not data(folder, "setup")["model"]["is_gpt2_small"]


def test_a_model_of_other_size_agrees_with_the_independent_scorer(
    tmp_path, monkeypatch, model_folders, dataset, quick_figures
):
    given = {"model": str(model_folders["gpt2"]), "dataset": str(dataset), "split": "validation", "ladder": "0 3 5 all"}
    by_hand(tmp_path, monkeypatch, ["setup", "phases", "V1", "V4"], **given)
    folder = tmp_path / "smoke"
    scorer = Scorer(model_folders["gpt2"], np.load(folder / "results/data/tokens.npy"))
    assert data(folder, "V1")["ppl_full"] == pytest.approx(scorer.ppl(), rel=AGREES)
    phases = data(folder, "phases")
    means, base = scorer.means(1), scorer.ppl((), 1)
    for mode in ("zero", "mean", "relu"):
        for row in phases[mode]["heads"]:
            change = (row["layer"], row["head"], mode)
            assert row["delta"] == pytest.approx(scorer.ppl([change], 1, means) / base - 1, rel=AGREES, abs=2e-5), (
                change
            )
    for row in data(folder, "V4")["cumulative"]:
        changes = [(*place, "relu") for place in phases["ranking"][: row["n_linearized"]]]
        assert row["ppl"] == pytest.approx(scorer.ppl(changes), rel=AGREES)


MEASURED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


@pytest.mark.skipif(not DATA.is_dir(), reason="the WikiText-2 split and GPT-2's tokenizer are not beside the project")
def test_v1_at_gpt2_small_s_true_size(tmp_path):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).eval()
    assert sum(p.numel() for p in model.parameters()) == 124_439_808
    model.save_pretrained(tmp_path / "random-gpt2")
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(DATA / "gpt2-tokenizer" / name, tmp_path / "random-gpt2")
    given = {"model": tmp_path / "random-gpt2", "dataset": DATA / "wikitext-2-raw-v1", "full_chunks": 2}
    command = pipeline("run", "V1", "--profile", "gpt2", *(word for pair in given.items() for word in ("-p", *pair)))
    said = finish([sys.executable, "-c", MEASURED, *command], tmp_path / "build")
    folder = tmp_path / "build" / "gpt2"
    setup, v1 = data(folder, "setup"), data(folder, "V1")
    assert (setup["corpus"]["n_tokens"], setup["corpus"]["n_chunks"]) == (251_048, 245)
    assert (setup["model"]["n_params"], setup["n_rankable"]) == (124_439_808, 132)
    assert not setup["model"]["is_gpt2_small"]
    tokens = torch.as_tensor(np.load(folder / "results/data/tokens.npy"), dtype=torch.long)
    assert tokens.shape == (2, 1024)
    with torch.no_grad():
        logits = [model(chunk[None]).logits[0, :-1] for chunk in tokens]
    nll = torch.stack([torch.nn.functional.cross_entropy(a, b[1:]) for a, b in zip(logits, tokens, strict=True)])
    assert v1["ppl_full"] == pytest.approx(float(nll.double().mean().exp()), rel=AGREES)
    peak = int(re.search(r"peak (\d+)", said).group(1)) / 2**20
    assert peak < 3, f"{peak:.1f} GiB for a model of half a GiB"
