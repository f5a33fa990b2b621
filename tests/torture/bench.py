"""What all trials share: a seed, a folder, a tiny model, a run of a few sections and what it left."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import psutil
import tiny_models

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED = ROOT / "models" / "embedded"
DATA = Path(__file__).parent / "data"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
SECTIONS = ("setup", "V1")
SMALL = {
    "judge": "", "n_ctx": 48, "full_chunks": 3, "quick_chunks": 1, "context_tokens": 144, "draws": 100,
}  # fmt: skip
LONGEST = 300  # seconds of a run, after which it counts as hanging
WITHIN = 2  # seconds in which a stopped run has to be gone


@dataclass
class Trial:
    """One thing that was tried."""

    kind: str
    name: str
    held: bool
    said: str
    command: str
    seconds: float = 0.0


@dataclass
class Bench:
    """Where trials run: their seed, a folder of their own, and whether only a short form is asked for."""

    seed: int
    folder: Path
    short: bool
    trials: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        self.number = 0

    def note(self, kind: str, name: str, wrong: str | None, began: float) -> None:
        """Keeps how a trial went; `wrong` says what did not hold, None where all did."""
        command = f"make torture SEED={self.seed} ONLY={kind}/{name}"
        self.trials.append(Trial(kind, name, wrong is None, wrong or "", command, round(time.time() - began, 2)))
        print(f"{'held' if wrong is None else 'FAILED':7} {kind}/{name}{f': {wrong}' if wrong else ''}", flush=True)

    def attempt(self, kind: str, cases: Mapping[str, Callable[[], str | None]], chosen: str, brief: str) -> None:
        """Tries the cases of a kind, `chosen` alone where one is; of the short form only `brief`."""
        for name, trial in cases.items():
            if chosen in ("", name) and not (self.short and not chosen and name != brief):
                began = time.time()
                self.note(kind, name, trial(), began)

    def again(self, build: Path) -> str | None:
        """What is wrong with a folder after one more run to its end; None where it is like an undisturbed one's."""
        done = self.run(self.words(), build)
        return f"the next run failed: {done.stderr[-300:]}" if done.returncode else unlike(left(build), self.whole[0])

    def fresh(self, name: str) -> Path:
        """An empty folder."""
        self.number += 1
        folder = self.folder / f"{name}-{self.number}"
        folder.mkdir(parents=True)
        return folder

    @cached_property
    def model(self) -> Path:
        """A saved GPT-2 of two layers with two heads, with the embedded model's tokenizer."""
        folder = self.fresh("model")
        config = {"vocab_size": 4096, "n_positions": 512, "n_layer": 2, "n_head": 2, "n_embd": 32}
        tiny_models.gpt2(**config).save_pretrained(folder)
        for name in TOKENIZER:
            shutil.copy(EMBEDDED / name, folder / name)
        return folder

    def words(self, *sections: str, profile: str = "smoke", **parameters: object) -> list[str]:
        """The command that brings sections up to date with the tiny model."""
        chosen = {"model": self.model} | SMALL | parameters
        given = [word for key, value in chosen.items() for word in ("-p", key, str(value))]
        return [sys.executable, "-m", "lib.pipeline", "run", *(sections or SECTIONS), "--profile", profile, *given]

    def start(self, words: list[str], build: Path, cwd: Path = ROOT, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            words, cwd=cwd, env=environment_for(build) | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace", start_new_session=True,
        )  # fmt: skip

    def run(
        self, words: list[str], build: Path, cwd: Path = ROOT, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        process = self.start(words, build, cwd, **environment)
        try:
            out, error = process.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            end(process)
            return subprocess.CompletedProcess(words, 124, "", f"still running after {LONGEST} s")
        return subprocess.CompletedProcess(words, process.returncode, out, error)

    @cached_property
    def whole(self) -> tuple[dict[str, bytes], float]:
        """`(what an undisturbed run leaves, its seconds)`."""
        build, began = self.fresh("whole"), time.monotonic()
        done = self.run(self.words(), build)
        if done.returncode:
            raise SystemExit(f"the undisturbed run failed: {done.stderr[-500:]}")
        self.build = build
        return left(build), time.monotonic() - began


def environment_for(build: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("EXPERIMENT10_", "MAKE", "MFLAGS"))}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return kept | {"EXPERIMENT10_BUILD": str(build), "HF_HUB_OFFLINE": "1", "PYTHONPATH": path}


def left(build: Path, profile: str = "smoke") -> dict[str, bytes]:
    """The bytes of a profile's results, times apart; raises `ValueError` for a file that is not whole."""
    found = {}
    for path in sorted((build / profile / "results" / "data").rglob("[!.]*")):
        if path.suffix == ".json":
            value = json.loads(path.read_text(encoding="utf-8"))
            value.get("provenance", {}).pop("times", None)
            found[path.name] = json.dumps(value, sort_keys=True).encode()
        elif path.is_file():
            found[path.name] = path.read_bytes()
    return found


def unlike(found: dict[str, bytes], wanted: dict[str, bytes]) -> str | None:
    """The first file in which two results differ, None where there is none."""
    names = [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]
    return f"{names[0]} differs from an undisturbed run's" if names else None


def descendants(process: subprocess.Popen) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def alive(processes: list[psutil.Process]) -> Iterator[psutil.Process]:
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except psutil.NoSuchProcess:
            continue


def end(process: subprocess.Popen) -> None:
    """Ends what a trial started, whatever state it is in."""
    for own in [*descendants(process), process]:
        try:
            own.kill()
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
    process.communicate()


def last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def one_line(done: subprocess.CompletedProcess[str], *parts: str) -> str | None:
    """What is wrong with how a refused command ended: it has to fail with one line that has one of these parts."""
    if done.returncode == 0:
        return "was not refused"
    line = last_line(done.stderr)
    if "Traceback" in done.stderr:
        return f"ended in a traceback: {line[:200]}"
    if not line.startswith("error: ") or not any(part in line for part in parts):
        return f"said {line[:200]!r}"
    return None


def as_dict(trial: Trial) -> dict:
    return asdict(trial)
