"""Timings from other machines, kept as dated files: one JSON of `lib.timing.kernel_bench` each, with its provenance.

A file is what `make gpu-session` wrote as `<device>-<date>.json`, its other steps under `session`, or the bench alone
with `--provenance WORDS --out FILE`; the words say who ran it, and from which commit. Nothing here is typed by hand or
estimated. Notebook K shows what it finds.
"""

import json
from pathlib import Path

from lib.errors import InputError

FOLDER = Path(__file__).parent
REQUIRED = ("date", "device", "device_name", "versions", "provenance", "rates", "rows")


def load(folder=FOLDER):
    """The measurements kept in `folder`, oldest first; an empty list where there are none."""
    found = []
    for path in sorted(Path(folder).glob("*.json")):
        try:
            measurement = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path.name} is no JSON ({error}): write it with `python -m lib.timing.kernel_bench`"
            ) from None
        missing = [key for key in REQUIRED if not measurement.get(key)]
        if missing:
            raise InputError(f"{path.name} lacks {', '.join(missing)}: a measurement needs {', '.join(REQUIRED)}")
        found.append(measurement | {"file": path.name})
    return sorted(found, key=lambda measurement: measurement["date"])
