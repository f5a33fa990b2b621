"""What a reader needs to believe a number and to make it again."""

import datetime
import subprocess
import time
from typing import Any, NamedTuple

from lib import machine
from lib.layout import ROOT


class Start(NamedTuple):
    """What a run starts from: seconds since 1970, and `git_state`."""

    time: float
    commit: str | None
    dirty: bool | None


def begin() -> Start:
    """The start of a run, taken before its work: while that lasts, the working tree may move on."""
    return Start(time.time(), *git_state())


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
    start: Start,
    seconds: float,
) -> dict[str, Any]:
    """What a reader needs to believe a number and to make it again. All times stand under `times`."""
    return {
        "commit": start.commit,
        "dirty": start.dirty,
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
            "started": datetime.datetime.fromtimestamp(start.time, datetime.UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 2),
        },
    }
