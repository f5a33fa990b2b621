"""What a reader needs to believe a number and to make it again."""

import datetime
import subprocess
from functools import cache
from typing import Any

from lib import machine
from lib.layout import ROOT


@cache
def git_state() -> tuple[str | None, bool | None]:
    """`(commit, dirty)`; commit is None outside a git checkout."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def provenance(
    profile: str,
    parameters: dict[str, Any],
    seed: int,
    model: dict[str, Any],
    corpus: dict[str, Any],
    device: str,
    backend: str,
    started: float,
    seconds: float,
) -> dict[str, Any]:
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
        "cpu": machine.cpu(),
        "device": device,
        "backend": backend,
        "times": {
            "started": datetime.datetime.fromtimestamp(started, datetime.UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 2),
        },
    }
