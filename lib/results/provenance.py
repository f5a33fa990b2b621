"""What a reader needs to believe a number and to make it again."""

import contextlib
import datetime
import importlib.metadata
import os
import platform
import subprocess
from functools import cache

from lib.layout import ROOT

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "numpy",
    "scipy",
    "altair",
    "papermill",
    "nbconvert",
    "triton",
)


@cache
def git_state():
    """`(commit, dirty)`; commit is None outside a git checkout."""

    def git(*words):
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def versions():
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def provenance(profile, parameters, seed, model, corpus, device, backend, started, seconds):
    """What a reader needs to believe a number and to make it again. All times stand under `times`."""
    commit, dirty = git_state()
    return {
        "commit": commit,
        "dirty": dirty,
        "profile": profile,
        "parameters": parameters,
        "seed": seed,
        "model": model,
        "corpus": corpus,
        "versions": versions(),
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
        "device": device,
        "backend": backend,
        "times": {
            "started": datetime.datetime.fromtimestamp(started, datetime.UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 2),
        },
    }
