"""What the entries of the store have cost: beside each key that a section has used, the seconds that it once took.

`build/<profile>/keys/<section>.txt` has a line `key seconds` for each; the seconds are missing where nobody has noted
them. An entry that is found again has saved them, in this profile or another.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from lib.files import replacing


def read(path: Path) -> dict[str, float | None]:
    """`{key: seconds}` of one section's file; nothing where there is none, and no seconds where a line is damaged."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return {words[0]: _seconds(words[1:]) for line in lines if (words := line.split())}


def known(build: Path) -> dict[str, float]:
    """`{key: seconds}` of all profiles under a build folder, as far as they have been noted."""
    found: dict[str, float] = {}
    for path in sorted(build.glob("*/keys/*.txt")):
        found |= {key: seconds for key, seconds in read(path).items() if seconds is not None}
    return found


def write(path: Path, used: Iterable[str], seconds: Mapping[str, float]) -> None:
    """Notes the keys that a section has `used`, with their `seconds` as far as they are known."""
    lines = [f"{key} {seconds[key]:.6g}" if key in seconds else key for key in sorted(used)]
    with replacing(path) as partial:
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _seconds(words: list[str]) -> float | None:
    """The seconds on a line of the file; None where there are none, or none that can be."""
    try:
        found = float(words[0])
    except (IndexError, ValueError):
        return None
    return found if math.isfinite(found) and found >= 0 else None
