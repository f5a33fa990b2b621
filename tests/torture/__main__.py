"""`make torture`: everything tried from one seed; `build/torture.json` says what held.

make torture                        about twenty minutes on two cores
make torture SHORT=1                two minutes
make torture SEED=7 ONLY=kills      one kind, or one trial of it as kind/name
"""

import argparse
import contextlib
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path

from torture import bench, damage, disks, hostile, inputs, kills, places, together

KINDS = {
    "inputs": inputs, "hostile": hostile, "disks": disks, "damage": damage, "together": together, "places": places,
    "kills": kills,
}  # fmt: skip


def run(seed: int, short: bool, only: str = "") -> list[bench.Trial]:
    """All trials of a seed in a folder of their own, which is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    try:
        own = bench.Bench(seed, folder, short)
        kind, _, name = only.partition("/")
        for each, module in KINDS.items():
            if kind in ("", each):
                own.draw.seed(f"{seed} {each}")
                module.trials(own, "" if each == "kills" else name)
        return own.trials
    finally:
        for path in folder.rglob("*"):
            with contextlib.suppress(OSError):
                if path.is_dir() and not path.is_symlink():
                    path.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)


def table(trials: list[bench.Trial]) -> str:
    """Tried, held and failed of each kind, then the command for each failure."""
    lines = [f"{'':10} {'tried':>6} {'held':>6} {'failed':>7} {'minutes':>8}"]
    for kind in dict.fromkeys(trial.kind for trial in trials):
        own = [trial for trial in trials if trial.kind == kind]
        held = sum(trial.held for trial in own)
        minutes = sum(trial.seconds for trial in own) / 60
        lines.append(f"{kind:10} {len(own):6} {held:6} {len(own) - held:7} {minutes:8.1f}")
    failed = [trial for trial in trials if not trial.held]
    return "\n".join([*lines, *(f"{trial.command}\n    {trial.said}" for trial in failed)])


def main() -> int:
    parser = argparse.ArgumentParser(prog="make torture", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32))
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--only", default="", metavar="KIND[/NAME]")
    args = parser.parse_args()
    from lib.layout import build_root
    from lib.results import io

    if args.only and args.only.partition("/")[0] not in KINDS:
        sys.exit(f"error: ONLY: given {args.only!r}, allowed: {', '.join(KINDS)}, each with /NAME or without")
    out, began = build_root() / "torture.json", time.time()
    trials = run(args.seed, args.short, args.only)
    print(table(trials))
    counts = {
        kind: {"tried": sum(t.kind == kind for t in trials), "held": sum(t.kind == kind and t.held for t in trials)}
        for kind in KINDS
    }
    about = {"seed": args.seed, "short": args.short, "only": args.only, "seconds": round(time.time() - began, 1)}
    io.write_json(out, about | {"counts": counts, "trials": [bench.as_dict(trial) for trial in trials]})
    print(f"seed {args.seed}; {out}")
    return int(not all(trial.held for trial in trials))


if __name__ == "__main__":
    sys.exit(main())
