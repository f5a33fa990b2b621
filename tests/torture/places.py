"""Machines that lack something: git, a home, a network, rights; with other locales, time zones and paths."""

import os
import shutil
import subprocess
from pathlib import Path

from torture.bench import ROOT, Bench, left, unlike

SPACES = "名前に 空白 と日本語"
ROOMS = ("lib", "kernels", "report", "notebooks", "params", "requirements.txt", "constraints.txt", "CITATION.cff")


def trials(bench: Bench, chosen: str) -> None:
    wanted, _ = bench.whole
    cases = {
        "no-git": lambda: compare(bench, wanted, PATH=path_without(bench, "git")),
        "no-home": lambda: compare(bench, wanted, HOME="/nowhere/at/all", XDG_CACHE_HOME="", HF_HOME=""),
        "no-network": lambda: no_network(bench, wanted),
        "locale-c": lambda: compare(bench, wanted, LC_ALL="C", LANG="C", PYTHONUTF8="0"),
        "locale-and-zone": lambda: compare(bench, wanted, LC_ALL="tr_TR.ISO-8859-9", TZ="Pacific/Chatham"),
        "japanese-path": lambda: japanese_path(bench, wanted),
        "no-rights": lambda: no_rights(bench),
    }
    bench.attempt("places", cases, chosen, "locale-and-zone")


def compare(bench: Bench, wanted: dict[str, bytes], prefix=(), cwd: Path = ROOT, build=None, **environment):
    build = build or bench.fresh("place")
    done = bench.run([*prefix, *bench.words()], build, cwd, **environment)
    if done.returncode:
        return f"failed: {done.stderr[-300:]}"
    return unlike(without_commit(left(build)), without_commit(wanted))


def without_commit(found: dict[str, bytes]) -> dict[str, bytes]:
    """Results apart from the commit, which a machine without git cannot tell."""
    import json

    kept = {}
    for name, content in found.items():
        if name.endswith(".json"):
            value = json.loads(content)
            for key in ("commit", "dirty"):
                value.get("provenance", {}).pop(key, None)
            content = json.dumps(value, sort_keys=True).encode()
        kept[name] = content
    return kept


def path_without(bench: Bench, program: str) -> str:
    """A PATH of links to all programs but one."""
    folder = bench.fresh("bin")
    for place in os.environ["PATH"].split(os.pathsep):
        for path in Path(place).glob("*") if Path(place).is_dir() else ():
            if path.name != program and not (folder / path.name).exists():
                (folder / path.name).symlink_to(path)
    return str(folder)


def no_network(bench: Bench, wanted: dict[str, bytes]) -> str | None:
    apart = ["unshare", "-n"]
    if not shutil.which("unshare") or subprocess.run([*apart, "true"], capture_output=True).returncode:
        proxy = "http://127.0.0.1:9"
        return compare(bench, wanted, http_proxy=proxy, https_proxy=proxy, HF_HUB_OFFLINE="")
    return compare(bench, wanted, apart, HF_HUB_OFFLINE="")


def japanese_path(bench: Bench, wanted: dict[str, bytes]) -> str | None:
    """A copy of the code, its build folder and its model under such a path."""
    root = bench.fresh("path") / SPACES
    for room in ROOMS:
        source = ROOT / room
        if source.is_dir():
            shutil.copytree(source, root / room, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, root / room)
    shutil.copytree(bench.model, root / "models" / bench.model.name)
    words = bench.words(model=root / "models" / bench.model.name)
    done = bench.run(words, root / "建て 物", root, PYTHONPATH=str(root))
    if done.returncode:
        return f"failed: {done.stderr[-300:]}"
    found = left(root / "建て 物")
    return None if found["tokens.npy"] == wanted["tokens.npy"] and "V1.json" in found else "other results"


def no_rights(bench: Bench) -> str | None:
    """A user who may write nothing is told so in one line; as root, by running as nobody."""
    from torture.bench import one_line

    build = bench.fresh("closed")
    build.chmod(0o555)
    prefix = []
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            return "not tried: root, and no setpriv here"
        prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        for path in (bench.folder, *bench.folder.parents):
            if not path.stat().st_mode & 0o001:
                path.chmod(path.stat().st_mode | 0o011)
    done = bench.run([*prefix, *bench.words()], build, HOME="/nowhere", PYTHONDONTWRITEBYTECODE="1")
    build.chmod(0o755)
    return one_line(done, "ermission denied")
