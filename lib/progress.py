"""One progress bar for a long step: what is being done, how fast, and how long it still takes."""

import os
import sys

from tqdm import tqdm


def progress(label: str, total: int, unit: str) -> tqdm:
    """A `tqdm` bar over `total` of `unit`; rarely redrawn where every redraw would be a new line, as in a log file."""
    by_hand = "ipykernel" in sys.modules and "EXPERIMENT10_PIPELINE" not in os.environ
    live = sys.stderr.isatty() or by_hand or os.environ.get("EXPERIMENT10_TERMINAL") == "1"
    return tqdm(
        total=total,
        desc=label,
        unit=unit,
        unit_scale=True,
        dynamic_ncols=True,
        mininterval=0.5 if live else 20,
        miniters=1,
        maxinterval=60,
        disable=total == 0,
        file=sys.stderr,
    )
