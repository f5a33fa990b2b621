"""A copy of the code to change and run, apart from this one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import ROOT

TESTS = Path(__file__).parent


def copied(folder):
    """`folder` with its own lib, kernels and report in it."""
    for room in ("lib", "kernels", "report"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def edited(folder, changes):
    """Replaces text in files, `{path: [(old, new), …]}`; each old text has to be there once."""
    for path, pairs in changes.items():
        text = (folder / path).read_text(encoding="utf-8")
        for old, new in pairs:
            assert text.count(old) == 1, f"{path}: {old}"
            text = text.replace(old, new)
        (folder / path).write_text(text, encoding="utf-8")


def ran(folder, code, *words):
    """What Python `code` prints as JSON when it runs on the copy, with the tests' own helpers beside it."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (folder, TESTS))),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
