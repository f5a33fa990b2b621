"""`make torture`: everything tried from one seed; `build/torture.json` says what held.

make torture                        about twenty minutes on two cores
make torture SHORT=1                two minutes
make torture SEED=7 ONLY=kills      one kind, or one trial of it as kind/name; several with commas
"""

import argparse
import os
import secrets
import signal
import sys
import time
from dataclasses import asdict
from typing import NoReturn

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


def command(seed: int, short: bool, only: str) -> str:
    return " ".join(filter(None, ("make torture", f"SEED={seed}", short and "SHORT=1", only and f"ONLY={only}")))


def stop(number: int, _: object) -> NoReturn:
    """Ends the torture, once: what it has started and its folder go meanwhile."""
    for each in STOPS:
        signal.signal(each, signal.SIG_IGN)
    print("stopped; nothing of it is left", file=sys.stderr)
    sys.exit(128 + number)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make torture", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32))
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--only", default="", metavar="KIND[/NAME],…")
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1, metavar="TASKS")
    args = parser.parse_args()
    from lib.layout import build_root
    from lib.results import dated, io

    for part in args.only.split(","):
        if not chosen(args.short, part):
            sys.exit(f"error: ONLY: given {part!r}, allowed: {', '.join(KINDS)}, each with /NAME or without")
    for number in STOPS:
        signal.signal(number, stop)
    about = dated.new("torture", command(args.seed, args.short, args.only), f"{args.at_once} tasks side by side")
    about |= {"seed": args.seed, "short": args.short, "only": args.only, "load_before": os.getloadavg()[0]}
    out, began, trials = build_root() / "torture.json", time.time(), []
    for trial in run(args.seed, args.short, args.only, args.at_once):
        trials.append(trial)
        said = f": {trial.said}" if trial.said and not trial.held else ""
        print(f"{'held' if trial.held else 'FAILED':7} {trial.kind}/{trial.name}{said}", flush=True)
    trials.sort(key=lambda trial: (list(KINDS).index(trial.kind), trial.name))
    print(table(trials))
    counts = {
        kind: {"tried": sum(t.kind == kind for t in trials), "held": sum(t.kind == kind and t.held for t in trials)}
        for kind in KINDS
    }
    about |= {"seconds": round(time.time() - began, 1), "load_after": os.getloadavg()[0]}
    io.write_json(out, about | {"counts": counts, "trials": [asdict(trial) for trial in trials]})
    print(f"seed {args.seed}; {out}")
    return int(not trials or not all(trial.held for trial in trials))


if __name__ == "__main__":
    sys.exit(main())
