"""Bad inputs kept as data, `data/*.json`: each has to be refused in one line that holds the part given with it.

They are given to the commands' own entry points within one process, so that hundreds take a minute or two; every
`SAMPLED`-th goes through a process of its own as well, as a user's would.
"""

import base64
import contextlib
import io
import json
import os
import shutil
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from torture.bench import DATA, ROOT, SMALL, Bench, Outcome, Task, in_place, last_line, one_line

SAMPLED = 25
SHORT = 5  # of each kind
SECONDS = 30  # of one input, after which it hangs
SUDDEN = 5.0  # seconds of the processor; what a folder tells at once may take no more, whatever else is running


def cases() -> list[dict[str, Any]]:
    """`{id, kind, says, …}` of all files, in the order of their names."""
    found = []
    for path in sorted(DATA.glob("bad_*.json")):
        kind = path.stem.removeprefix("bad_")
        for i, case in enumerate(json.loads(path.read_text(encoding="utf-8"))):
            found.append(case | {"kind": kind, "id": f"{kind}-{i:03}"})
    return found


def tasks(short: bool) -> dict[str, Task]:
    return {kind: partial(of_kind, kind) for kind in MAKERS}


def of_kind(kind: str, bench: Bench) -> Outcome:
    """All inputs of a kind, or the one that is asked for; of the short form some that are drawn."""
    listed = [case for case in cases() if case["kind"] == kind]
    if bench.only:
        listed = [case for case in listed if bench.asked_for(case["id"])]
    elif bench.short:
        listed = bench.draw.sample(listed, SHORT)
    build, outcomes = bench.fresh("build"), {}
    with in_place(build):
        refused(dry("-p", "n_ctx", "0"), "n_ctx")  # has the libraries loaded
        for i, case in enumerate(listed):
            outcomes[case["id"].removeprefix(kind)] = tried(bench, case, build, i % SAMPLED == SAMPLED - 1)
    return outcomes


def tried(bench: Bench, case: dict[str, Any], build: Path, as_process: bool) -> str | None:
    try:
        words = MAKERS[case["kind"]](bench, case)
    except OSError as error:
        return f"such a name or file can't be made on this system: {error}"
    before, started = files(build), time.process_time()
    wrong = refused(words, case["says"])
    took = time.process_time() - started
    if not wrong and took > SUDDEN:
        wrong = f"took {took:.1f} s to say so"
    if not wrong and files(build) != before:
        wrong = f"left {sorted(files(build) - before)[0]}"
    if not wrong and as_process and case["kind"] != "profiles" and not bench.short:
        wrong = one_line(bench.run([sys.executable, "-m", *words], build), case["says"])
    return wrong


def files(build: Path) -> set[Path]:
    """What lies in the places that a refused command has no business in."""
    places = (build, ROOT / "notebooks", ROOT / "params")
    return {path for place in places for path in place.rglob("*") if path.is_file() and ".locks" not in path.parts}


def refused(words: list[str], says: str) -> str | None:
    """What is wrong with how a command refused, None where nothing is."""
    from lib.claims import scorecard
    from lib.pipeline import commands, scaffold
    from lib.results import diff

    entries = {"lib.pipeline": commands.main, "lib.pipeline.scaffold": scaffold.main, "lib.results.diff": diff.main,
               "lib.claims.scorecard": scorecard.main}  # fmt: skip
    said, out = io.StringIO(), io.StringIO()

    def hang(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    status: Any = None
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(out):
            status = entries[words[0]](words[1:])
    except SystemExit as error:
        status = error.code
    except TimeoutError:
        return f"hung for {SECONDS} s"
    except BaseException as error:
        return f"ended in {type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    text = status if isinstance(status, str) else said.getvalue()
    if status in (None, 0):
        return f"was not refused: {last_line(out.getvalue())[:150]}"
    line = last_line(text)
    if "\n" in text.strip() and text.strip().count("\n") > 8:
        return f"said {text.count(chr(10))} lines"
    if "error: " not in line or says not in line:
        return f"said {line[:200]!r}, expected {says!r}"
    return None


def dry(*words: object) -> list[str]:
    return ["lib.pipeline", "dry-run", "--profile", "smoke", *map(str, words)]


def content_of(case: dict[str, Any]) -> bytes:
    if "base64" in case:
        return base64.b64decode(case["base64"])
    return (case["text"] * case.get("times", 1)).encode(case.get("encoding", "utf-8"))


def profiles(bench: Bench, case: dict[str, Any]) -> list[str]:
    """A profile's file, in a folder of profiles of its own."""
    from lib import params

    folder = bench.fresh("params")
    for path in (ROOT / "params").glob("*.yaml"):
        shutil.copy(path, folder)
    target = folder / "mine.yaml"
    if case.get("as") == "folder":
        target.mkdir()
    elif case.get("as") == "link":
        target.symlink_to(folder / "nowhere")
    elif case.get("as") == "closed" and os.geteuid():
        target.write_bytes(b"n_ctx: 64")
        target.chmod(0)
    else:
        target.write_bytes(content_of(case))
    params.PROFILES = folder
    return ["lib.pipeline", "dry-run", "--profile", "mine"]


def names(bench: Bench, case: dict[str, Any]) -> list[str]:
    return ["lib.pipeline", "dry-run", f"--profile={case['name']}"]


def parameters(bench: Bench, case: dict[str, Any]) -> list[str]:
    return dry(*[word for pair in case["given"] for word in ("-p", *pair)])


def commands(bench: Bench, case: dict[str, Any]) -> list[str]:
    return case["words"]


def copied(bench: Bench, case: dict[str, Any]) -> Path:
    """The tiny model's folder with one thing wrong."""
    folder = bench.fresh("bad") / "model"
    shutil.copytree(bench.model, folder)
    path = folder / case.get("file", "config.json")
    if case.get("remove"):
        path.unlink()
    elif "config" in case:
        path.write_text(json.dumps(json.loads(path.read_text()) | case["config"]))
    elif "without" in case:
        kept = {key: value for key, value in json.loads(path.read_text()).items() if key not in case["without"]}
        path.write_text(json.dumps(kept))
    elif "keep" in case:
        path.write_bytes(path.read_bytes()[: case["keep"]])
    elif "instead" in case:
        path.unlink()
        (folder / case["instead"]).write_bytes(b"\x80\x04}q\x00.")
    elif "text" in case or "base64" in case:
        path.write_bytes(content_of(case))
    return folder


def models(bench: Bench, case: dict[str, Any]) -> list[str]:
    chosen = SMALL | {"model": copied(bench, case)} | case.get("more", {})
    return dry(*[word for key, value in chosen.items() for word in ("-p", key, value)])


def tokenizers(bench: Bench, case: dict[str, Any]) -> list[str]:
    return dry("-p", "tokenizer", copied(bench, case))


def datasets(bench: Bench, case: dict[str, Any]) -> list[str]:
    folder = bench.fresh("data") / "dataset"
    folder.mkdir()
    path = folder / case.get("file", "wiki.valid.raw")
    path.parent.mkdir(parents=True, exist_ok=True)
    if "columns" in case:
        import pyarrow
        from pyarrow import parquet

        kinds = {"string": pyarrow.string(), "int64": pyarrow.int64(), "binary": pyarrow.binary(),
                 "list": pyarrow.list_(pyarrow.string())}  # fmt: skip
        kind = kinds[case.get("type", "string")]
        columns = {name: pyarrow.array(rows, kind) for name, rows in case["columns"].items()}
        parquet.write_table(pyarrow.table(columns), path, write_statistics=case.get("statistics", True))
    elif case.get("as") == "folder":
        path.mkdir()
    elif case.get("as") == "link":
        path.symlink_to(folder / "nowhere")
    elif case.get("as") != "nothing":
        path.write_bytes(content_of(case))
    return dry("-p", "dataset", folder, "-p", "split", case.get("split", "validation"),
               "-p", "dataset_config", case.get("dataset_config", ""))  # fmt: skip


def results(bench: Bench, case: dict[str, Any]) -> list[str]:
    """A results folder that somebody else has sent, given to a command that reads one."""
    folder = bench.fresh("results")
    path = folder / "sections" / case.get("file", "V1.json")
    path.parent.mkdir(parents=True)
    path.write_bytes(content_of(case))
    return [case["module"], *(["--"] if case["module"].endswith("diff") else []), *[str(folder)] * case.get("count", 1)]


MAKERS = {
    "profiles": profiles, "names": names, "parameters": parameters, "commands": commands, "models": models,
    "tokenizers": tokenizers, "datasets": datasets, "results": results,
}  # fmt: skip
