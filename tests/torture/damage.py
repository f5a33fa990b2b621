"""One byte flipped in each kind of file: noticed, and what follows is what an undamaged run gives."""

import shutil
from functools import partial
from pathlib import Path

from torture.bench import Bench, left, unlike

# The files of a finished run; a flip in any of them has to be noticed by the next run, or to leave its results alone.
KINDS = {
    "section": "smoke/results/data/sections/V1.json",
    "setup": "smoke/results/data/sections/setup.json",
    "tokens": "smoke/results/data/tokens.npy",
    "documents": "smoke/results/data/documents.npy",
    "executed": "smoke/notebooks/V1.ipynb",
    "manifest": "smoke/*.json",
    "store": "store/*/*.entry",
    "figure": "smoke/results/figures/*.png",
}


def trials(bench: Bench, chosen: str) -> None:
    wanted, _ = bench.whole
    cases = {name: partial(flipped, bench, wanted, pattern, name) for name, pattern in KINDS.items()}
    cases |= {name: partial(model_file, bench, name) for name in ("model.safetensors", "config.json", "tokenizer.json")}
    bench.attempt("damage", cases, chosen, "section")


def flip(path: Path, draw) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def flipped(bench: Bench, wanted: dict[str, bytes], pattern: str, name: str) -> str | None:
    build = bench.fresh("damaged") / "build"
    shutil.copytree(bench.build, build)
    files = sorted(build.glob(pattern))
    if not files:
        return None if name == "figure" else f"no file {pattern}"
    path = bench.draw.choice(files)
    flip(path, bench.draw)
    if name == "store":  # it is read when a section is measured again
        (build / "smoke/results/data/sections/V1.json").unlink()
    done = bench.run(bench.words(), build)
    if done.returncode:
        line = done.stderr.strip().splitlines()[-1:]
        if "Traceback" in done.stderr or not line or not line[0].startswith("error: "):
            return f"ended in {line}"
        return None
    if name not in ("store", "manifest", "figure") and "nothing to do" in done.stdout:
        return f"a flipped byte in {path.name} was not noticed"
    return unlike(left(build), wanted)


def model_file(bench: Bench, name: str) -> str | None:
    """Weights that differ have another fingerprint, so nothing of the earlier run may stand as theirs."""
    build, model = bench.fresh("damaged") / "build", bench.fresh("model") / "model"
    shutil.copytree(bench.build, build)
    shutil.copytree(bench.model, model)
    flip(model / name, bench.draw)
    first = bench.run(bench.words(model=model), build)
    if first.returncode:
        return None if "Traceback" not in first.stderr and "error: " in first.stderr else first.stderr[-300:]
    return "the run went on with a stale set-up" if "nothing to do" in first.stdout else None
