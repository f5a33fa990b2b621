"""What the READMEs say is so: commands, options, error lines, links and numbers; and the twins say the same."""

import importlib
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import measured
import nbformat
import numpy as np
import pytest
import yaml

from lib import params
from lib.claims import rules, scorecard
from lib.errors import InputError
from lib.layout import ROOT
from lib.model import corpus, loading
from lib.pipeline import commands as pipeline
from lib.pipeline import notebooks, scaffold
from lib.results import diff, io, provenance, published
from report import readme_numbers

READMES = readme_numbers.READMES
TEXTS = {lang: path.read_text(encoding="utf-8") for lang, path in READMES.items()}
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)
LINK = re.compile(r"\]\(([^)#]+)\)")
OTHER_TOOLS = {"conda env create -f environment.yml", "conda activate experiment10"}
PAGES = [*READMES.values(), ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md"]
PRE_COMMIT = {".venv/bin/pip install pre-commit", ".venv/bin/pre-commit install"}
FOR_EXAMPLE = {"smok", "mine", "gpt3"}
MADE_BY_THE_READER = {"params/mine.yaml", "params/smok.yaml"}
HTTP = re.compile(r"https?://([\w.-]+)")


def blocks(text, kind):
    return [body for found, body in FENCE.findall(text) if found == kind]


def commands(text):
    """Every shell command of a text: the lines of its `sh` blocks, and `make …` in its sentences."""
    lines = [line for body in blocks(text, "sh") for line in body.splitlines() if line]
    prose = FENCE.sub("", text)
    return lines + [code for code in re.findall(r"`([^`\n]+)`", prose) if code.startswith("make ") and "…" not in code]


def words_of(command):
    """`(target, {variable: value}, [(key, value)])` of a make command."""
    words = shlex.split(command)
    assert words[0] == "make", command
    variables = dict(word.split("=", 1) for word in words[1:] if "=" in word)
    targets = [word for word in words[1:] if "=" not in word]
    given = shlex.split(variables.get("PARAMS", ""))
    assert given[::3] == ["-p"] * (len(given) // 3), command
    return targets, variables, list(zip(given[1::3], given[2::3], strict=True))


ALL = sorted({*commands(TEXTS["en"]), *commands(TEXTS["ja"]), *commands(CONTRIBUTING)})
MAKES = [command for command in ALL if command.startswith("make")]


def errors(lang):
    """`[(command, line)]` of the table of error lines."""
    rows = re.findall(r"^\| (.*?) \| `((?:error|Python).*?)` \| .* \|$", TEXTS[lang], re.M)
    return [(re.search(r"`([^`]+)`", said)[1], line) for said, line in rows]


FAILING = [command for command, _ in errors("en")]


@pytest.mark.parametrize("command", [c for c in ALL if not c.startswith("make")])
def test_other_commands_name_what_is_there(command, capsys):
    if command in OTHER_TOOLS | PRE_COMMIT:
        return
    python, *words = shlex.split(command)
    if python.endswith("nbstripout"):
        return
    assert python in ("python", ".venv/bin/python")
    if words[0] != "-m":
        assert (ROOT / words[0]).is_file()
        return
    module = "lib.pipeline.commands" if words[1] == "lib.pipeline" else words[1]
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(module).main(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in words[2:] if word.startswith("--") or word == "report")


@pytest.mark.parametrize("command", MAKES)
def test_make_commands_are_understood(command):
    targets, variables, _ = words_of(command)
    assert targets
    words = ["make", "-n", "-o", ".venv/.ready", *shlex.split(command)[1:]]
    shown = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    for name in variables:
        assert re.search(rf"\$\({name}\)|\$\${name}\b", MAKEFILE), name
    for module in re.findall(r"-m ((?:lib|report|kernels)(?:\.\w+)+)", shown.stdout):
        assert importlib.util.find_spec(module) is not None, module


@pytest.mark.parametrize("command", [c for c in MAKES if c not in FAILING])
def test_options_are_those_of_the_project(command):
    targets, variables, given = words_of(command)
    for key, value in given:
        params.check(key, value)
    for profile in {variables.get(name) for name in ("PROFILE", "A", "B")} - {None} - FOR_EXAMPLE:
        assert profile in params.profile_names()
    for target in targets:
        if target.startswith("notebooks/"):
            assert Path(target).name in {*notebooks.discover(), "V6"}


def test_a_dry_run_says_what_would_run_and_leaves_nothing(build, capsys):
    _, variables, given = words_of('make dry-run PROFILE=smoke PARAMS="-p full_chunks 8 -p seed 11"')
    options = [word for pair in given for word in ("-p", *pair)]
    pipeline.main(["dry-run", "--profile", variables["PROFILE"], *options])
    *sections, total, report = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in sections] == list(notebooks.discover())
    assert re.match(r"about \d+ (s|min) in all", total) and report == "would assemble the report"
    assert not build.exists() or not list(build.rglob("*.json"))


def test_the_new_section_of_the_readme(tmp_path, monkeypatch):
    shutil.copytree(notebooks.NOTEBOOKS, tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path / "notebooks")
    (command,) = [c for c in MAKES if "new-notebook" in c]
    _, variables, _ = words_of(command)
    path = scaffold.create(variables["NAME"], variables["NEEDS"].split())
    assert path.name == "V6.ipynb"
    assert nbformat.read(path, as_version=4).cells


def pattern(line):
    return "".join(".*" if part == "…" else re.escape(part) for part in re.split("(…)", line))


def said_by(command, monkeypatch):
    """The line that a command of the table ends with, without running a notebook."""
    targets, variables, given = words_of(command)
    if "PYTHON" in variables:
        check = re.search(r"\$\(PYTHON\) -c '(.*)'", MAKEFILE)[1]
        monkeypatch.setattr(sys, "version_info", (3, 9, 6))
        monkeypatch.setattr(sys, "version", "3.9.6 (main)")
        with pytest.raises(SystemExit) as stopped:
            exec(check)
        return stopped.value.code
    if targets == ["diff"]:
        with pytest.raises(SystemExit) as stopped:
            diff.main([variables["B"], variables["A"]])
        return stopped.value.code
    if dict(given).get("full_chunks") == "9999":
        with pytest.raises(InputError) as refused:
            corpus.chunk(np.zeros(400_000, np.int32), 1024, 9999)
        return f"error: setup: {refused.value}"
    if variables.get("PROFILE") == "gpt2":
        with pytest.raises(InputError) as refused:
            loading.model_folder(params.load_profile("gpt2")["model"])
        return f"error: setup: {refused.value}"
    options = [word for pair in given for word in ("-p", *pair)]
    with pytest.raises(SystemExit) as stopped:
        pipeline.main(["dry-run", "--profile", variables.get("PROFILE", "embedded"), *options])
    return stopped.value.code


@pytest.mark.parametrize(("command", "line"), errors("en"), ids=[re.sub(r"\W+", "-", c) for c in FAILING])
def test_error_lines_are_the_real_ones(command, line, build, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    said = said_by(command, monkeypatch)
    assert "\n" not in said
    assert re.fullmatch(pattern(line), said), said


def test_the_profile_of_the_readme_is_a_good_one(tmp_path, monkeypatch):
    (body,) = blocks(TEXTS["en"], "yaml")
    for name in params.profile_names():
        shutil.copy(params.PROFILES / f"{name}.yaml", tmp_path)
    (tmp_path / "mine.yaml").write_text(body, encoding="utf-8")
    monkeypatch.setattr(params, "PROFILES", tmp_path)
    assert params.load_profile("mine")["full_chunks"] == yaml.safe_load(body)["full_chunks"]


@pytest.mark.parametrize("lang", READMES)
def test_tables_list_every_profile_and_notebook(lang):
    for name in params.profile_names():
        assert len(re.findall(rf"^\| `{name}` \|", TEXTS[lang], re.M)) == 1, name
    listed = re.findall(r"^\| .* \| \[(\w+)\]\(notebooks/(\w+)\.ipynb\) \|", TEXTS[lang], re.M)
    assert sorted(listed) == sorted((path.stem, path.stem) for path in notebooks.NOTEBOOKS.glob("*.ipynb"))


def test_the_claim_is_the_published_one():
    rise = f"{published.value('V4.cumulative[n_linearized=20].ratio') - 1:.0%}".replace("%", " %")
    for lang, number in (("en", "Twenty"), ("ja", "20個")):
        (claim,) = re.findall(r"^\*\*(.*)\*\*$", TEXTS[lang], re.M)
        assert number in claim and "144" in claim and rise in claim


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in LINK.findall(path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_files_that_are_named_are_there(path):
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"`((?:lib|kernels|report|params|tests|docs)/[\w./]*)`", text)
    for name in {*named} - MADE_BY_THE_READER:
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("lang", READMES)
def test_the_picture_is_small(lang):
    (name,) = re.findall(r"!\[[^\]]+\]\((.*?\.png)\)", TEXTS[lang])
    content = (ROOT / name).read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) < 300_000


@pytest.mark.parametrize("lang", READMES)
def test_expected_numbers_are_filled_in(lang):
    body = readme_numbers.BLOCK.search(TEXTS[lang])[0]
    rows = re.findall(r"^\| (\w+) \| (.+?) \| (.+?) \| (.+?) \|$", body, re.M)
    place = {"en": 1, "ja": 2}[lang]
    wanted = [words[place] for words in readme_numbers.FIGURES.values()]
    assert [row[1] for row in rows[1:]] == wanted, (
        "fill them in with `python -m report.readme_numbers embedded --write`"
    )
    assert all(re.search(r"\d", row[2]) for row in rows[1:])


def shape(text):
    """What the twins have in common: headings, code, tables, links."""
    bare = readme_numbers.BLOCK.sub("", text)
    prose = FENCE.sub("", bare)
    return {
        "headings": re.findall(r"^(#+) ", prose, re.M),
        "code": [body for _, body in FENCE.findall(bare)],
        "rows": [line.count(" | ") for line in prose.splitlines() if line.startswith("|")],
        "items": len(re.findall(r"^(?:- |\d\. )", prose, re.M)),
        "links": sorted(target.replace(".ja.", ".") for target in LINK.findall(prose)),
        "spoken": sorted(commands(prose)),
    }


def test_the_twins_say_the_same():
    assert shape(TEXTS["en"]) == shape(TEXTS["ja"])
    assert errors("en") == [(c, line) for c, line in errors("ja")]


@pytest.fixture
def run(build, tmp_path):
    """A run of the profile `drawn`, and copies of the READMEs to write to."""
    data = io.plain(measured.build())
    counts = {"holds": 3, "fails": 2, "open": 1, "not measured": 0}
    rest = {"hypothesis": rules.hypothesis(data), "sensitivity": [], "scorecard": scorecard.score(data)}
    data["conclusions"] = {"claims": [], "counts": counts, **rest}
    data["P3"]["against_baseline"][0] |= {"difference": -1.25, "difference_ci": [-2.0, 0.5]}
    names = [{"name": "drawn", "fingerprint": "0" * 64}] * 2
    origin = provenance.provenance("drawn", {}, 1, *names, "cpu", "naive", provenance.Start(0.0, None, None), 60.0)
    for name, section in data.items():
        record = {"section": name, "parameters": {}, "data": section, "provenance": origin}
        io.write_json(io.section_path(build / "drawn" / "results" / "data", name), record, "section")
    copies = {lang: tmp_path / path.name for lang, path in READMES.items()}
    for lang, path in copies.items():
        path.write_text(TEXTS[lang], encoding="utf-8")
    return data, copies


def test_expected_numbers_come_from_the_results(run):
    data, copies = run
    readme_numbers.write("drawn", copies)
    first = {lang: path.read_text(encoding="utf-8") for lang, path in copies.items()}
    low, high = data["V1"]["ppl_full_ci"]
    row = f"| {data['V1']['ppl_full']:.2f} | [{low:.2f}, {high:.2f}] |"
    last = f"{data['V4']['cumulative'][-1]['ratio']:.2f}"
    for lang, text in first.items():
        assert row in text and f"| {last} |" in text and "| 3 / 2 / 1 | — |" in text
        assert "| −1.25 | [−2.00, +0.50] |" in text
        assert readme_numbers.BLOCK.sub("", text) == readme_numbers.BLOCK.sub("", TEXTS[lang])
    readme_numbers.write("drawn", copies)
    assert {lang: path.read_text(encoding="utf-8") for lang, path in copies.items()} == first


@pytest.mark.parametrize("words", [["elsewhere"], ["drawn", "--write"]])
def test_expected_refuses_in_one_line_and_changes_nothing(run, words, monkeypatch):
    _, copies = run
    copies["ja"].write_text("no marks", encoding="utf-8")
    before = copies["en"].read_text(encoding="utf-8")
    monkeypatch.setattr(readme_numbers.write, "__defaults__", (copies,))
    with pytest.raises(SystemExit, match="^error: "):
        readme_numbers.main(words)
    assert copies["en"].read_text(encoding="utf-8") == before


def test_no_host_is_linked():
    for path in PAGES:
        assert not HTTP.findall(path.read_text(encoding="utf-8")), path.name
