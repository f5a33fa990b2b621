"""`python -m lib.travel pack PROFILE`, `unpack FILE`, `why A B`: a result that is sent."""

import argparse
import os
import sys
from pathlib import Path

from lib.errors import InputError
from lib.travel import pack, why


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.travel", description=__doc__)
    parser.add_argument("task", choices=["pack", "unpack", "why"])
    parser.add_argument("given", nargs="*", help="a profile, a pack, or two of either")
    args = parser.parse_args(words)
    try:
        allowed = 2 if args.task == "why" else 1
        if len(args.given) != allowed or "" in args.given:
            usage = {
                "pack": "make pack PROFILE=smoke",
                "unpack": "make unpack FILE=build/packs/….zip",
                "why": "make why A=smoke B=build/packs/….zip",
            }
            raise InputError(
                f"{args.task}: given {len([*filter(None, args.given)])}, allowed: {allowed}, as in `{usage[args.task]}`"
            )
        if args.task == "pack":
            path = pack.pack(args.given[0])
            print(f"{os.path.relpath(path)}: {path.stat().st_size / 1e6:.1f} MB; `make unpack FILE=…` checks it")
        elif args.task == "unpack":
            folder, taken = pack.unpack(Path(args.given[0]))
            print(
                f"{os.path.relpath(folder)}: unpacked, every digest as listed; {taken:,} scores taken into the store\n"
                f"`make redraw PROFILE={folder.name}` draws its report without a model;"
                f" `make report PROFILE={folder.name}` measures what is missing or stale"
            )
        else:
            print(why.explained(*args.given))
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
