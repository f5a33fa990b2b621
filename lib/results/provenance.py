"""What a reader needs to believe a number and to make it again."""

import datetime
import subprocess
from functools import cache

from lib import machine
from lib.layout import ROOT


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
        "versions": machine.versions(),
        "machine": machine.system(),
        "device": device,
        "backend": backend,
        "times": {
            "started": datetime.datetime.fromtimestamp(started, datetime.UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 2),
        },
    }
