"""The parameter `workers`: what it may be, and that without it nothing of dask is there."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from lib.cluster.opening import opened
from lib.errors import InputError
from lib.params import OF_THE_RUN, check, load_profile
from lib.pipeline import workers
from lib.pipeline.freshness import Profile


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("0", 0),
        (0, 0),
        ("4", 4),
        (8, 8),
        *[(a, a) for a in ("tcp://host:8786", "tls://10.0.0.3:1", "tcp://[::1]:65535", "tcp://node-1.cluster_a:80")],
    ],
)
def test_so_many_here_or_an_address(given, value):
    found = check("workers", given)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "given",
    [-1, "-1", 1025, "two", 1.5, True, None, "", "host:8786", "tcp://host", "tcp://host:0", "tcp://host:65536"]
    + ["http://host:80", "tcp://host:8786/", "tcp://ho st:1", "tcp://-x:1", "tcp://host:8786\n", "tcp://a@b:1"],
)
def test_anything_else_is_named_with_what_is_allowed(given):
    with pytest.raises(InputError) as error:
        check("workers", given, "-p")
    assert str(error.value) == (
        f"-p workers: given {given!r}, allowed: a whole number between 0 and 1024, or a scheduler's address such as"
        " tcp://host:8786"
    )


def test_the_next_run_is_asked_anew(build):
    profile = Profile("smoke", {"workers": "3", "seed": 4})
    assert profile.values["workers"] == 3 and load_profile("smoke")["workers"] == 0
    profile.save()
    assert profile.overrides == {"seed": 4} == Profile("smoke").overrides
    assert Profile("smoke").values["workers"] == 0
    assert set(OF_THE_RUN) == {"workers"}


def test_kernels_are_told_and_the_environment_is_left_as_it_was(monkeypatch):
    monkeypatch.delenv(workers.VARIABLE, raising=False)
    with workers.ready({"workers": 0, "device": "cpu"}):
        assert os.environ[workers.VARIABLE] == "0"
    assert workers.VARIABLE not in os.environ


def test_folders_in_the_project_are_named_from_its_root(tmp_path):
    assert workers.place("models/embedded") == "models/embedded"
    assert workers.place(str(ROOT / "models" / "judge")) == "models/judge"
    assert workers.place(str(tmp_path)) == str(tmp_path.resolve())
    assert workers.place("openai-community/gpt2@main") == "openai-community/gpt2@main"


def test_without_the_extra_it_is_said_in_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with (
        pytest.raises(InputError, match="dask.distributed is not installed; run: make env EXTRAS=cluster$"),
        opened(2, "cpu"),
    ):
        pass


def test_without_workers_nothing_of_dask_is_imported():
    script = (
        "import sys\nfrom lib.pipeline import commands, measuring, workers\nfrom lib.training import recovery\n"
        "from lib.engine import scoring\nassert workers.pool('embedded') is None\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('dask', 'distributed', 'cryptography')])\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.stdout == "[]\n", done.stderr


def test_the_extra_s_pins():
    lines = (ROOT / "requirements-cluster.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", line) for line in pins)
    base = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    shared = {line.split("==")[0] for line in pins} & {line.split("==")[0] for line in base}
    assert shared and all(line in base for line in pins if line.split("==")[0] in shared)
    assert not {"distributed", "dask"} & {line.split("==")[0] for line in base}
