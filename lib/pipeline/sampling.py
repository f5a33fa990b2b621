"""Where a kernel's time goes: what its threads are at, looked at a hundred times a second while a notebook runs.

A kernel that is started with `EXPERIMENT10_SAMPLES` set to a folder begins with `begin()` and adds there, a few times a
second, a line to `<process>.jsonl`: a `Slice`. `python -m lib.pipeline.profiling` makes a table of them.
"""

import json
import os
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from lib.layout import ROOT

FOLDER = "EXPERIMENT10_SAMPLES"
EVERY, WRITTEN_EVERY = 0.01, 0.3  # seconds
STARTING = "starting"
# The innermost frame of the project says what a thread is at.
ROOMS = {
    "lib/store.py": "disk",
    "lib/files.py": "disk",
    "lib/timing": "timing",
    "lib/engine": "model",
    "lib/model": "model",
    "lib/training": "model",
    "kernels": "model",
    "lib/analysis": "statistics",
    "lib/claims": "statistics",
    "report": "drawing",
}
ABOUT = tuple(f"lib/pipeline/{name}" for name in ("sampling", "child", "forking"))  # an idle kernel's own frames
WAITING = ("threading.py", "concurrent/futures/_base.py", "concurrent/futures/thread.py", "queue.py")
section = STARTING


class Slice(NamedTuple):
    """What a process was at between two moments of `time.perf_counter`, which all processes share: seconds by room."""

    began: float
    ended: float
    section: str
    rooms: dict[str, float]


def enter(name: str) -> None:
    """The section that this process is at from now on."""
    global section
    section = name


def room_of(frame: FrameType | None) -> str | None:
    """The room of a stack's innermost frame that is the project's; None where it has none, as in an idle thread."""
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(str(ROOT)):
            place = path[len(str(ROOT)) + 1 :]
            if not place.startswith((".venv", *ABOUT)):
                return next((room for start, room in ROOMS.items() if place.startswith(start)), "other")
        elif "ipykernel_" in path or path.startswith("<ipython"):
            return "other"
        frame = frame.f_back
    return None


def at_work(frames: dict[int, FrameType], main: int) -> dict[str, float]:
    """The share of each room in this moment: the main thread's, or its workers' where it waits for them."""
    room = room_of(frames.get(main))
    if room is None:
        return {}
    if frames[main].f_code.co_filename.endswith(WAITING):
        workers = [room_of(frame) for thread, frame in frames.items() if thread not in (main, threading.get_ident())]
        busy = [found for found in workers if found not in (None, "other")]
        if busy:
            return {found: busy.count(found) / len(busy) for found in dict.fromkeys(busy) if found}
    return {room: 1.0}


def sample(path: Path) -> None:
    """Looks and writes for as long as the process lives."""
    main = threading.main_thread().ident or 0
    last = time.perf_counter()
    with path.open("a", encoding="utf-8") as file:
        while True:
            began, of, rooms = last, section, defaultdict[str, float](float)
            while of == section and last - began < WRITTEN_EVERY:
                time.sleep(EVERY)
                now = time.perf_counter()
                for room, share in at_work(sys._current_frames(), main).items():
                    rooms[room] += share * (now - last)
                last = now
            if rooms:
                file.write(json.dumps(Slice(began, last, of, rooms)) + "\n")
                file.flush()


def read(folder: Path) -> list[Slice]:
    """All slices that processes have left; a line that was cut off with its process is none."""
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_text(encoding="utf-8").splitlines(True)]
    return [Slice(*json.loads(line)) for line in lines if line.endswith("\n")]


def begin() -> None:
    """Where it is asked for, a thread looks at the others from now on."""
    if folder := os.environ.get(FOLDER):
        threading.Thread(target=sample, args=(Path(folder) / f"{os.getpid()}.jsonl",), daemon=True).start()
