"""Machines that lack something: git, a home, a network, rights; with other locales, time zones and paths."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torture.bench import ROOT, Bench, Task, left, named, one_line, unlike, unprivileged

SPACES = "名前に 空白 と日本語"
ROOMS = ("lib", "kernels", "report", "notebooks", "params", "requirements.txt", "constraints.txt", "CITATION.cff")
NO_HOME = "/dev/null/home"  # which nobody can make, root included
LOCALE = ("tr_TR", "ISO-8859-9")  # where a capital i is none


def tasks(short: bool) -> dict[str, Task]:
    found: dict[str, Task] = {
        "no-git": no_git,
        "no-home": partial(compare, HOME=NO_HOME, XDG_CACHE_HOME="", HF_HOME=""),
        "no-network": no_network,
        "locale-c": partial(compare, LC_ALL="C", LANG="C", PYTHONUTF8="0", PYTHONIOENCODING="ascii"),
        "locale-and-zone": other_locale,
        "japanese-path": japanese_path,
        "no-rights": no_rights,
    }
    return {name: found[name] for name in named(found, ["locale-and-zone"], short)}


def compare(bench: Bench, prefix: Sequence[str] = (), **environment: str) -> str | None:
    """What is wrong with a run in such a place; None where it leaves what one elsewhere does."""
    build = bench.fresh("place")
    done = bench.run([*prefix, *bench.words()], build, **environment)
    return f"failed: {done.stderr[-300:]}" if done.returncode else unlike(left(build), bench.whole)


def no_git(bench: Bench) -> str | None:
    """A PATH of links to all programs but git."""
    folder = bench.fresh("bin")
    for place in os.environ["PATH"].split(os.pathsep):
        for path in Path(place).glob("*") if Path(place).is_dir() else ():
            if path.name != "git" and not (folder / path.name).exists():
                (folder / path.name).symlink_to(path)
    return compare(bench, PATH=str(folder))


def no_network(bench: Bench) -> str | None:
    apart = ["unshare", "-n"]
    if shutil.which("unshare") and not subprocess.run([*apart, "true"], capture_output=True).returncode:
        return compare(bench, apart, HF_HUB_OFFLINE="")
    bench.about[""] = "no rights to part from the network: a proxy that nobody answers at"
    proxy = "http://127.0.0.1:9"
    return compare(bench, http_proxy=proxy, https_proxy=proxy, HF_HUB_OFFLINE="")


def other_locale(bench: Bench) -> str | None:
    """Where the system has the sources of locales, one that it has not been told of; else only its name."""
    folder = bench.fresh("locale")
    name = ".".join(LOCALE)
    words = ["localedef", "-i", LOCALE[0], "-f", LOCALE[1], str(folder / name)]
    if not shutil.which(words[0]) or subprocess.run(words, capture_output=True).returncode > 1:
        bench.about[""] = f"{name} can't be made on this system"
    return compare(bench, LC_ALL=name, LOCPATH=str(folder), PYTHONUTF8="0", TZ="Pacific/Chatham")


def japanese_path(bench: Bench) -> str | None:
    """A copy of the code, its build folder and its model under such a path: the same numbers and figures."""
    root = bench.fresh("path") / SPACES
    for room in ROOMS:
        source = ROOT / room
        if source.is_dir():
            shutil.copytree(source, root / room, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, root / room)
    model = root / "models" / bench.model.name
    shutil.copytree(bench.model, model)
    build = root / "建て 物"
    done = bench.run(bench.words(model=model), build, root, PYTHONPATH=str(root))
    if done.returncode:
        return f"failed: {done.stderr[-300:]}"
    return unlike(numbers(left(build)), numbers(bench.whole))


def numbers(found: dict[str, bytes]) -> dict[str, bytes]:
    """Data and figures, in which no path stands."""
    kept = {name: content for name, content in found.items() if name.endswith((".npy", ".png"))}
    records = {name: json.loads(content) for name, content in found.items() if "/sections/" in name}
    for name, record in records.items():
        data = record["data"]
        if record["section"] == "setup":
            data |= {"parameters": None, "model": data["model"] | {"name": None}}
        kept[name] = json.dumps(data, sort_keys=True).encode()
    return kept


def no_rights(bench: Bench) -> str | None:
    """A user who may not write into the build folder is told so in one line that names it; with rights it runs."""
    build = bench.fresh("closed")
    build.chmod(0o555)
    refused = one_line(bench.run([*unprivileged(), *bench.words()], build, HOME=NO_HOME), f"{build}/")
    if refused:
        return refused
    build.chmod(0o755)
    done = bench.run([*unprivileged(), *bench.words()], build, HOME=NO_HOME)
    return unlike(left(build), bench.whole) if not done.returncode else f"failed: {done.stderr[-300:]}"
