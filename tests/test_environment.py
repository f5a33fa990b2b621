"""One list of pins, read by pip, pyproject and conda alike; the files around the code agree with it and each other."""

import contextlib
import importlib.metadata
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib

import nbformat
import psutil
import pytest
import yaml
from cluster_processes import until
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from lib.layout import ROOT
from report import citation as metadata

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
HOOKS = {
    hook["id"]: hook
    for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    for hook in repo["hooks"]
}


def requirements(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


def pins(name):
    return {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in requirements(name)}


LEFT_OUT_BY_FREEZE = {"setuptools": pins("requirements.txt")["setuptools"]}


def test_every_requirement_is_pinned_once():
    found = requirements("requirements.txt")
    assert len({canonicalize_name(r.name) for r in found}) == len(found)
    assert not [str(r) for r in found if not re.fullmatch(r"==[\w.]+", str(r.specifier))]


def test_the_constraints_hold_the_same_versions():
    constraints, wanted = pins("constraints.txt"), pins("requirements.txt")
    assert {name: constraints[name] for name in wanted if name in constraints} | LEFT_OUT_BY_FREEZE == wanted


def test_pyproject_reads_the_one_list():
    assert "dependencies" not in PROJECT["project"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["dependencies"] == {"file": ["requirements.txt"]}


def test_conda_reads_the_one_list():
    *plain, pip = CONDA["dependencies"]
    assert [re.split("[=<>]", word)[0] for word in plain] == ["python", "pip"]
    assert pip == {"pip": ["-r requirements.txt -c constraints.txt", "--no-deps -e ."]}
    python = next(word.split("=", 1)[1] for word in plain if word.startswith("python="))
    assert Version(python) in Requirement(f"python{PROJECT['project']['requires-python']}").specifier


def test_make_reads_the_one_list():
    assert "pip install --quiet --progress-bar off -r requirements.txt -c constraints.txt" in MAKEFILE


def test_the_pinned_versions_are_those_that_run():
    for requirement in requirements("requirements.txt"):
        if requirement.marker is None or requirement.marker.evaluate():
            installed = Version(importlib.metadata.version(requirement.name))
            assert installed.public in requirement.specifier, requirement


def test_versions_and_names_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    version = PROJECT["project"]["version"]
    assert str(citation["version"]) == version
    assert f"\n## {version} - {citation['date-released']}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert PROJECT["project"]["license"] == citation["license"] == "MIT"
    holder = re.search(r"Copyright \(c\) \d{4} (.+)", (ROOT / "LICENSE").read_text(encoding="utf-8"))[1]
    assert citation["authors"] == [{"name": holder}]
    assert CONDA["name"] == PROJECT["project"]["name"]


def test_ci_runs_the_two_commands_and_nothing_else_of_its_own():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    (job,) = yaml.safe_load(text)["jobs"].values()
    ours = [step["run"] for step in job["steps"] if "run" in step and "safe.directory" not in step["run"]]
    assert ours == ["make report", ".ci/run"]
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").rstrip().endswith("\nmake test")


def test_ci_installs_all_that_tests_would_be_skipped_without():
    """Every extra that there is, and the crate's validator; both before the tests."""
    words = (ROOT / ".ci" / "run").read_text(encoding="utf-8").partition("\nmake test")[0].splitlines()
    extras = [path.stem.removeprefix("requirements-") for path in ROOT.glob("requirements-*.txt")]
    assert extras and {"make crate-validator", *(f"make env EXTRAS={name}" for name in extras)} <= {*words}


def test_the_dev_container_makes_the_environment():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert container["postCreateCommand"] == "make env"
    assert Version(container["image"].split(":")[1].split("-")[0]) >= Version("3.11")


def test_hooks_use_pinned_tools_only():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    scripts = {script.name: script.dist.name for script in importlib.metadata.entry_points(group="console_scripts")}
    for hook in HOOKS.values():
        tool = shlex.split(hook["entry"])[0]
        package = scripts.get(tool.removeprefix(".venv/bin/"), tool.removeprefix(".venv/bin/"))
        assert tool == "bash" or canonicalize_name(package) in pins("requirements.txt"), tool


def run_hook(name, *files):
    words = shlex.split(HOOKS[name]["entry"])
    if words[0].startswith(".venv/bin/"):
        words = [sys.executable, "-m", words[0].removeprefix(".venv/bin/"), *words[1:]]
    elif shutil.which(words[0]) is None:
        pytest.skip(f"no {words[0]} on this machine")
    return subprocess.run([*words, *files], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_hook_strips_outputs_and_keeps_ids(tmp_path):
    path = tmp_path / "some.ipynb"
    cell = nbformat.v4.new_code_cell("1 + 1", id="kept", metadata={"tags": ["parameters"]}, execution_count=3)
    cell.outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "2"}, execution_count=3)]
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    assert run_hook("nbstripout", path).returncode == 0
    (stripped,) = nbformat.read(path, as_version=4).cells
    assert (stripped.id, stripped.outputs, stripped.execution_count) == ("kept", [], None)
    assert stripped.metadata.tags == ["parameters"]


def test_the_hook_refuses_large_files(tmp_path):
    small, large = tmp_path / "small file", tmp_path / "large file"
    small.write_bytes(bytes(1_000_000))
    large.write_bytes(bytes(1_000_001))
    assert run_hook("large-files", small).returncode == 0
    refused = run_hook("large-files", small, large)
    assert refused.returncode == 1 and "large file is over 1 MB" in refused.stdout


def test_the_hook_refuses_what_ruff_refuses(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("import os\n", encoding="utf-8")
    assert run_hook("ruff", path).returncode == 1


def test_help_lists_every_target():
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.M)[1].split()
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = {line.split()[0] for line in shown.splitlines() if line.startswith("  ") and ":" not in line.split()[0]}
    assert listed >= {name for name in phony if name != "FORCE"} | {"notebooks/%"}
    assert subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout == shown
    profiles = sorted(path.stem for path in (ROOT / "params").glob("*.yaml"))
    assert sorted(shown.split("profiles:")[1].split()) == profiles


@pytest.mark.parametrize("target", ["report", "notebooks/V1", "playground", "embedded-model", "torture", "gpu-session"])
def test_what_ends_make_ends_what_it_runs(target, tmp_path):
    """A termination reaches the program itself: no shell is left between the two."""
    program, started = tmp_path / "program", tmp_path / "started"
    program.write_text(f"#!/bin/sh\necho $$ > {started}.part && mv {started}.part {started}\nexec sleep 60\n")
    program.chmod(0o755)
    words = ["make", "-o", ".venv/.ready", target, f"PY={program}", f"PYTHON={program}"]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL) as make:
        until(started.exists, within=30)
        ran = psutil.Process(int(started.read_text()))
        make.terminate()
        assert make.wait(10) != 0
    with contextlib.suppress(psutil.NoSuchProcess):
        ran.wait(10)
    assert not ran.is_running()


def test_archives_are_told_what_the_citation_says():
    for path, text in metadata.files().items():
        assert path.read_text(encoding="utf-8") == text, "run: make metadata"
    codemeta, zenodo = metadata.codemeta(), metadata.zenodo()
    assert codemeta["version"] == zenodo["version"] == PROJECT["project"]["version"]
    assert {need["name"] for need in codemeta["softwareRequirements"]} >= {"torch", "transformers", "numpy"}
    page = metadata.schema_org("About", "2026-01-02")
    assert page["datePublished"] == "2026-01-02"
    assert page["isBasedOn"] == {key: codemeta[key] for key in page["isBasedOn"]}
    assert {key: page[key] for key in ("author", "keywords", "license", "version")} == {
        key: codemeta[key] for key in ("author", "keywords", "license", "version")
    }
