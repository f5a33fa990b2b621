"""Where things lie on disk."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def build_root() -> Path:
    """Where everything generated goes: `build/`, or the folder that EXPERIMENT10_BUILD names."""
    return Path(os.environ.get("EXPERIMENT10_BUILD") or ROOT / "build").resolve()
