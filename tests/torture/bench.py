"""What all trials share: a seed, folders, a tiny model, a run of a few sections and what it left."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
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
KEPT = ("results", "notebooks")  # what of a profile's folder is the same run after run
APART = ("times", "commit", "dirty")  # of a section's provenance: what may differ between runs of the same code
LONGEST = 300  # seconds of a run of `SECTIONS`, after which it counts as hanging
WHOLE_REPORT = 1200  # seconds of a run of all sections
WITHIN = 2  # seconds in which a stopped run has to be gone
# What was wrong, None where nothing was; of several outputs at once, each with the end of its trial's name.
Outcome = str | None | Mapping[str, str | None]
Task = Callable[["Bench"], Outcome]


@dataclass
class Trial:
    """One thing that was tried; `said` is what was wrong, or of one that held what it rests on."""

    kind: str
    name: str
    held: bool
    said: str
    command: str
    seconds: float = 0.0


@dataclass
class Bench:
    """Where the trials of one task run: draws and a folder of their own, beside what all tasks read.

    `only` names trials of the task where not all are asked for, `about` collects what a trial that holds rests on.
    """

    seed: int
    shared: Path
    folder: Path
    short: bool = False
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        self.number = 0
        self.about: dict[str, str] = {}

    def tried(self, kind: str, name: str, task: Task) -> list[Trial]:
        """Runs one task, which draws the same whatever ran before; its trials, as far as they were asked for."""
        self.draw = random.Random(f"{self.seed} {kind}/{name}")
        self.about = {}
        began = time.time()
        try:
            outcome = task(self)
        except Exception as error:
            outcome = broken_off(error)
        outcomes = outcome if isinstance(outcome, Mapping) else {"": outcome}
        found, seconds = [], round((time.time() - began) / max(1, len(outcomes)), 2)
        for end, wrong in outcomes.items():
            own = f"{name}{end}"
            if self.asked_for(own):
                command = f"make torture SEED={self.seed} ONLY={kind}/{own}"
                said = self.without_places(wrong or self.about.get(end, ""))
                found.append(Trial(kind, own, wrong is None, said, command, seconds))
        return found

    def without_places(self, text: str) -> str:
        """A text in which nothing tells where on this machine it was said."""
        for place, name in ((self.folder, "…"), (self.shared, "…"), (ROOT, ".")):
            text = text.replace(str(place), name)
        return text

    def asked_for(self, trial: str) -> bool:
        return not self.only or any(trial.startswith(name) or name.startswith(trial) for name in self.only)

    def again(self, build: Path) -> str | None:
        """What is wrong with a folder after one more run to its end; None where it is like an undisturbed one's."""
        done = self.run(self.words(), build)
        if done.returncode:
            return f"the next run failed: {done.stderr[-300:]}"
        return unlike(left(build), self.whole) or litter(build)

    def fresh(self, name: str) -> Path:
        """An empty folder."""
        self.number += 1
        folder = self.folder / f"{name}-{self.number}"
        folder.mkdir(parents=True)
        return folder

    @cached_property
    def model(self) -> Path:
        """A saved GPT-2 of two layers with two heads, with the embedded model's tokenizer."""
        folder = self.shared / "model"
        if not folder.is_dir():
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
            words, cwd=cwd, env=environment_for(build, **environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace", start_new_session=True,
        )  # fmt: skip

    def run(
        self, words: list[str], build: Path, cwd: Path = ROOT, within: float = LONGEST, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        process = self.start(words, build, cwd, **environment)
        try:
            out, error = process.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            end(process)
            return subprocess.CompletedProcess(words, 124, "", f"still running after {within:.0f} s")
        return subprocess.CompletedProcess(words, process.returncode, out, error)

    @property
    def build(self) -> Path:
        """The folder that an undisturbed run has left, to copy."""
        folder = self.shared / "whole"
        if not folder.is_dir():
            began = time.monotonic()
            process = self.start(self.words(), folder)
            locked = seconds_until(lambda: holder(folder) == process.pid)
            said = process.communicate(timeout=LONGEST)[1]
            if process.returncode:
                raise SystemExit(f"the undisturbed run failed: {said[-500:]}")
            (self.shared / "seconds").write_text(str(time.monotonic() - began - locked))
        return folder

    @property
    def packed(self) -> tuple[Path, Path]:
        """`(a build folder with a report on the undisturbed run, its pack)`."""
        build = self.shared / "packed"
        if not build.is_dir():
            shutil.copytree(self.build, build)
            smoke = build / "smoke"
            words = ["--notebooks", smoke / "notebooks", "--results", smoke / "results", "--out", smoke / "report"]
            for command in (["report.assemble", *words], ["lib.travel", "pack", "smoke"]):
                done = self.run([sys.executable, "-m", *map(str, command)], build)
                if done.returncode:
                    raise SystemExit(f"no report to pack: {done.stderr[-500:]}")
        (pack,) = (build / "packs").glob("*.zip")
        return build, pack

    @cached_property
    def whole(self) -> dict[str, bytes]:
        """What an undisturbed run leaves."""
        return left(self.build)

    @property
    def seconds(self) -> float:
        """How long an undisturbed run holds its folder."""
        return float((self.build.parent / "seconds").read_text())


def environment_for(build: Path, **given: str) -> dict[str, str]:
    """A run's environment: its build folder, no network, temporary files in its own folder, and what is `given`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("EXPERIMENT10_", "MAKE", "MFLAGS"))}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    if "TMPDIR" not in given:
        temporary(build).mkdir(parents=True, exist_ok=True)
        temporary(build).chmod(0o1777)
    places = {"EXPERIMENT10_BUILD": str(build), "TMPDIR": str(temporary(build)), "PYTHONPATH": path}
    return kept | places | {"HF_HUB_OFFLINE": "1"} | given


@contextmanager
def in_place(build: Path) -> Iterator[None]:
    """This process as the commands expect it: their build folder, no network, the project as the current folder."""
    from lib import params

    before, folder, profiles_folder = dict(os.environ), Path.cwd(), params.PROFILES
    os.environ.update({"EXPERIMENT10_BUILD": str(build), "HF_HUB_OFFLINE": "1"})
    os.chdir(ROOT)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        os.chdir(folder)
        params.PROFILES = profiles_folder


def unprivileged() -> list[str]:
    """What a command begins with for which the rights of files hold, as they do not for root; nothing for others."""
    if os.geteuid():
        return []
    if not shutil.which("setpriv"):
        raise RuntimeError("root needs setpriv to give its rights up")
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]


def temporary(build: Path) -> Path:
    return build.parent / f"{build.name}.tmp"


def holder(build: Path, profile: str = "smoke") -> int | None:
    """The process that is at work in a profile's folder."""
    with suppress(OSError, ValueError):
        return int((build / ".locks" / profile).read_text())
    return None


def seconds_until(happens: Callable[[], object], within: float = 120) -> float:
    """Waits until something is so; how long that took. Raises `TimeoutError` where it does not happen."""
    began = time.monotonic()
    while not happens():
        if time.monotonic() - began > within:
            raise TimeoutError(f"did not happen within {within} s")
        time.sleep(0.01)
    return time.monotonic() - began


def left(build: Path, profile: str = "smoke") -> dict[str, bytes]:
    """The bytes of a profile's results, figures and executed notebooks, but for `APART`.

    Raises `ValueError` for a file that is not whole.
    """
    found, top = {}, build / profile
    for path in sorted(p for folder in KEPT for p in (top / folder).rglob("[!.]*") if p.is_file()):
        content = path.read_bytes()
        if path.suffix == ".json":
            value = json.loads(content)
            for key in APART:
                value.get("provenance", {}).pop(key, None)
            content = json.dumps(value, sort_keys=True).encode()
        found[path.relative_to(top).as_posix()] = content
    return found


def half_written(build: Path) -> str | None:
    """Which file in a build folder stands under its name without being whole; None where there is none."""
    from lib.store import check_content

    readers: dict[str, Callable[[Path], object]] = {
        ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
        ".ipynb": lambda path: json.loads(path.read_text(encoding="utf-8"))["cells"],
        ".npy": np.load,
        ".png": lambda path: path.read_bytes().index(b"IEND"),
        ".pdf": lambda path: path.read_bytes().rindex(b"%%EOF"),
        ".html": lambda path: path.read_text(encoding="utf-8").index("</html>"),
        ".entry": lambda path: check_content(path.stem, path.read_bytes()),
    }
    for path in build.rglob("[!.]*"):
        if path.suffix in readers and not any(part.startswith(".") for part in path.relative_to(build).parts):
            try:
                readers[path.suffix](path)
            except (ValueError, KeyError, OSError, EOFError) as error:
                if path.exists():  # not one that was taken away while it was read
                    return f"{path.relative_to(build)} is half-written: {error}"
    return None


def litter(build: Path) -> str | None:
    """What a run to its end should have taken away, its own or that of earlier ones; None where there is nothing."""
    paths = [p for p in build.rglob("*") if p.name.startswith(".") or p.suffix == ".partial"]
    paths = [p for p in paths if p.name != ".locks"]
    paths += temporary(build).glob("experiment10-*") if temporary(build).is_dir() else ()
    return f"{paths[0].name} was left lying about" if paths else None


def unlike(found: dict[str, bytes], wanted: dict[str, bytes]) -> str | None:
    """The first file in which two results differ, None where there is none."""
    names = [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]
    return f"{names[0]} differs from an undisturbed run's" if names else None


def belonging(folder: Path) -> list[psutil.Process]:
    """All processes that work for a build folder, or for one in it, whoever is their parent by now."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            build = process.environ().get("EXPERIMENT10_BUILD", "")
            is_own = process.pid != os.getpid() and Path(build).is_relative_to(folder)
            if is_own and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def end(process: subprocess.Popen, build: Path | None = None) -> tuple[str, str]:
    """Ends what a trial started, whatever state it is in; what it had said."""
    with suppress(psutil.Error):
        for own in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error):
                own.kill()
    for own in belonging(build) if build else ():
        with suppress(psutil.Error):
            own.kill()
    process.kill()
    return process.communicate()


def broken_off(error: Exception) -> str:
    """That a trial did not come to its end, and where: which may be the project's fault or the trial's."""
    *_, at = traceback.extract_tb(error.__traceback__)
    return f"broke off at {Path(at.filename).name}:{at.lineno}: {type(error).__name__}: {str(error)[:300]}"


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


def named(names: Iterable[str], short: Iterable[str], is_short: bool) -> Iterator[str]:
    """The names of a kind's tasks: all, or those of the short form."""
    kept = set(short)
    return (name for name in names if not is_short or name in kept)
