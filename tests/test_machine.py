"""What a figure was measured on, and the one package that must not be there."""

import os
import subprocess
import sys

import torch

from lib import machine
from lib.layout import ROOT


def test_a_timing_names_its_machine():
    found = machine.described("cpu")
    assert found["versions"]["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["device_name"].startswith(machine.processor())
    assert torch.backends.cpu.get_cpu_capability() in found["device_name"]


def test_versions_need_no_torch():
    code = "import sys; from lib import machine; machine.versions(), machine.system(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "False\n"


def test_the_index_s_package_called_kernels_is_one_line(tmp_path):
    folder = tmp_path / "kernels-0.18.3.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: kernels\nVersion: 0.18.3\n")
    run = subprocess.run(
        [sys.executable, "-m", "lib.pipeline", "dry-run"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert run.stderr.startswith("error: the package kernels 0.18.3 is installed")
    assert run.stderr.endswith("pip uninstall kernels\n") and run.stderr.count("\n") == 1
