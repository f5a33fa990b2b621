"""Where things lie on disk."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATED = ROOT / "docs" / "data"  # dated records that no section of the report shows


def build_root() -> Path:
    """Where everything generated goes: `build/`, or the folder that EXPERIMENT10_BUILD names."""
    return Path(os.environ.get("EXPERIMENT10_BUILD") or ROOT / "build").resolve()


def used_keys(folder: Path, section: str) -> Path:
    """Which entries of the store a section of the profile in `folder` has used, a key a line."""
    return folder / "keys" / f"{section}.txt"
