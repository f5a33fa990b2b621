"""`make torture`: everything tried from one seed; `build/torture.json` says what held.

make torture                        half an hour to an hour on two cores
make torture SHORT=1                some minutes
make torture SEED=7 ONLY=kills      one kind, or one trial of it as kind/name; several with commas
make torture SEED=7 GO_ON=1         what an earlier run of this seed and commit has not come to
"""

import argparse
import json
import os
import secrets
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from torture.bench import Trial
from torture.running import KINDS, chosen, run

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def table(trials: list[Trial]) -> str:
    """Tried, held and failed of each kind, then the command for each failure."""
    lines = [f"{'':10} {'tried':>6} {'held':>6} {'failed':>7} {'minutes':>8}"]
    for kind in (kind for kind in KINDS if any(trial.kind == kind for trial in trials)):
        own = [trial for trial in trials if trial.kind == kind]
        held = sum(trial.held for trial in own)
        minutes = sum(trial.seconds for trial in own) / 60
        lines.append(f"{kind:10} {len(own):6} {held:6} {len(own) - held:7} {minutes:8.1f}")
    failed = [trial for trial in trials if not trial.held]
    return "\n".join([*lines, *(f"{trial.command}\n    {trial.said}" for trial in failed)])


def stop(number: int, _: object) -> NoReturn:
    """Ends the torture, once: what it has started and its folder go meanwhile."""
    for each in STOPS:
        signal.signal(each, signal.SIG_IGN)
    print("stopped; what has been tried is kept, GO_ON=1 goes on", file=sys.stderr)
    sys.exit(128 + number)


def begun(seed: int, short: bool, path: Path | None = None) -> dict[str, Any]:
    """A record before its first trial, or that of `path`, to go on with. Raises `InputError` where it is of another."""
    from lib.errors import InputError
    from lib.results import dated

    words = f"make torture SEED={seed}{' SHORT=1' if short else ''}"
    record = dated.new("torture", words, "trials drawn from a seed, each in a folder of its own")
    record |= {"seed": seed, "short": short, "rounds": [], "missing": tasks(short), "trials": []}
    if path is None or not path.is_file():
        return record
    kept = json.loads(path.read_text(encoding="utf-8"))
    of = {"seed": kept["seed"], "SHORT": kept["short"], "commit": kept["provenance"]["commit"]}
    given = {"seed": seed, "SHORT": short, "commit": record["provenance"]["commit"]}
    unlike = [f"{key} {given[key]}, there {of[key]}" for key in of if given[key] != of[key]]
    if unlike or record["provenance"]["dirty"] or kept["provenance"]["dirty"]:
        why = "; ".join(unlike) or "a commit with changes beside it"
        raise InputError(f"GO_ON: given {why}, allowed: to go on with the same; leave GO_ON out to begin anew")
    return kept


def tasks(short: bool) -> list[str]:
    return [f"{kind}/{task}" for kind, task, _ in chosen(short, "")]


def noted(record: dict[str, Any], task: str, whole: bool, trials: list[Trial]) -> None:
    """Puts a task's trials into a record, in place of those of the same names."""
    names = {(trial.kind, trial.name) for trial in trials}
    found = [Trial(**old) for old in record["trials"] if (old["kind"], old["name"]) not in names] + trials
    found.sort(key=lambda trial: (list(KINDS).index(trial.kind), trial.name))
    record["trials"] = [asdict(trial) for trial in found]
    record["missing"] = [name for name in record["missing"] if not (whole and name == task)]
    record["counts"] = {
        kind: {"tried": sum(t.kind == kind for t in found), "held": sum(t.kind == kind and t.held for t in found)}
        for kind in KINDS
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="make torture", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32))
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--go-on", action="store_true")
    parser.add_argument("--only", default="", metavar="KIND[/NAME],…")
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1, metavar="TASKS")
    args = parser.parse_args()
    from lib.errors import InputError
    from lib.layout import build_root
    from lib.results import io

    for part in args.only.split(","):
        if not chosen(args.short, part):
            sys.exit(f"error: ONLY: given {part!r}, allowed: {', '.join(KINDS)}, each with /NAME or without")
    out = build_root() / "torture.json"
    try:
        record = begun(args.seed, args.short, out if args.go_on else None)
    except InputError as error:
        sys.exit(f"error: {error}")
    for number in STOPS:
        signal.signal(number, stop)
    began = time.time()
    now = {"only": args.only, "tasks_at_once": args.at_once, "load_before": round(os.getloadavg()[0], 2)}
    record["rounds"].append(now)
    todo = [each for each in chosen(args.short, args.only) if each[2] or "/".join(each[:2]) in record["missing"]]
    tried = []
    for (kind, task, only), trials in run(args.seed, args.short, todo, args.at_once):
        tried += trials
        for trial in trials:
            said = f": {trial.said}" if trial.said and not trial.held else ""
            print(f"{'held' if trial.held else 'FAILED':7} {trial.kind}/{trial.name}{said}", flush=True)
        noted(record, f"{kind}/{task}", not only, trials)
        now |= {"seconds": round(time.time() - began, 1), "load_after": round(os.getloadavg()[0], 2)}
        io.write_json(out, record)
    print(table(tried))
    print(
        f"seed {args.seed}; {out}" + (f"; not tried yet: {len(record['missing'])} tasks" if record["missing"] else "")
    )
    return int(not all(trial.held for trial in tried))


if __name__ == "__main__":
    sys.exit(main())
