"""Every command of `docs/cluster.md` is run here, as far as a machine without Slurm and other hosts can run it."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_processes import kill, until
from conftest import ROOT

distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed: make env EXTRAS=cluster")
pytestmark = pytest.mark.timeout(300)
TEXT = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
TESTS = Path(__file__).parent
BLOCKS = dict(re.findall(r"<!-- ([\w ]+) -->\n```sh\n(.*?)```", TEXT, re.S))


def here(block):
    """A block's commands for a free port of this host."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return re.sub(r"\bhead\b", "127.0.0.1", block.replace("8786", str(port)))


@pytest.fixture
def place(tmp_path):
    """A folder in which the page's commands are this interpreter's, with the tests' client in the pipeline's place."""
    return tmp_path / "experiment10"


@pytest.fixture
def shell(place, tmp_path):
    """Starts scripts in `place`, with stand-ins for what clusters have; what they leave is ended."""
    stand_ins = {
        place / ".venv" / "bin" / "dask": f'exec {sys.executable} -m dask "$@"',
        place / ".venv" / "bin" / "python": f'exec {sys.executable} {TESTS / "cluster_client.py"} {tmp_path} "$@"',
        tmp_path / "bin" / "hostname": "echo 127.0.0.1",
        tmp_path / "bin" / "ssh": f'cd {tmp_path}; exec bash -c "$2"',
        tmp_path / "bin" / "srun": 'while [[ $1 == --* ]]; do shift; done\n"$@" & "$@" & wait',
    }
    for path, text in stand_ins.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
        path.chmod(0o755)
    path = os.pathsep.join(filter(None, (str(ROOT), str(TESTS), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": path}
    environment |= {"SLURM_SUBMIT_DIR": str(place), "CUDA_VISIBLE_DEVICES": ""}
    started = []

    def run(script):
        process = subprocess.Popen(
            ["bash", "-c", script],
            cwd=place,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=(tmp_path / "log").open("ab"),
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        kill(process)


def said(process):
    return until(lambda: process.stdout.readline().strip(), within=200)


def test_every_block_is_run():
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.S)
    assert set(BLOCKS) == {"by hand", "slurm", "tls"} and len(blocks) == len(BLOCKS) + 2
    makes = re.findall(r"^make (\S+)(.*)$", TEXT, re.M)
    assert [name for name, _ in makes] == ["env", "report", "report", "bench-workers"]
    for words in (["make", "-n", "env", "EXTRAS=cluster"], ["make", "-n", "bench-workers"]):
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert ("requirements-cluster.txt" if "env" in words else "lib.timing.workers_bench") in done.stdout


def test_by_hand(shell, tmp_path):
    scheduler, worker, away, run = here(BLOCKS["by hand"]).splitlines()
    for line in (scheduler, worker, away):
        shell(line)
    until(lambda: (tmp_path / "log").read_text().count("Registered to:") == 3, within=120)
    assert said(shell(run)) == "3"


def test_slurm(shell):
    script = BLOCKS["slurm"]
    hours, minutes, seconds = re.search(r"--time=(\d+):(\d+):(\d+)", script).groups()
    lifetime, stagger = re.search(r"--lifetime (\d+)m --lifetime-stagger (\d+)m", script).groups()
    assert int(lifetime) + int(stagger) < int(hours) * 60 + int(minutes)
    assert said(shell(here(script))) in ("1", "2")


def test_tls(shell, place):
    security = distributed.Security.temporary()
    (place / "ca.pem").write_text(security.tls_ca_file)
    (place / "key.pem").write_text(security.tls_client_key)
    assert said(shell(here(BLOCKS["tls"]))) == "1"
