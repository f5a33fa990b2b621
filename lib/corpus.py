"""Texts and the token ids that are scored.

Every corpus is a `datasets.Dataset` with one column `text`; its rows are joined by a blank
line, encoded once, and cut into chunks that do not overlap. Nothing here draws at random.
"""

import hashlib
import sysconfig
from pathlib import Path

from datasets import Dataset

SEPARATOR = "\n\n"
HELDOUT_SHARE = 1 / 8
SKIPPED_PACKAGES = {"test", "tests", "site-packages", "dist-packages", "__pycache__", "__phello__", "config"}
# What distributions drop or ship apart, and tables: never scored, so that every Python holds out the same modules.
TRAINING_ONLY = {"idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "distutils", "encodings", "pydoc_data"}


def split_of(module_name):
    """`train` or `heldout`, by a hash of the module's dotted name: stable across machines and versions."""
    if module_name.split(".")[0] in TRAINING_ONLY:
        return "train"
    digest = hashlib.sha256(module_name.encode()).digest()
    return "heldout" if int.from_bytes(digest[:4], "big") < HELDOUT_SHARE * 2**32 else "train"


def stdlib_sources(split):
    """`(dotted name, source)` of the running interpreter's own library, in the order of the names' hashes."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        if any(p in SKIPPED_PACKAGES or p.startswith(("config-", "_sysconfigdata")) for p in parts):
            continue
        name = ".".join(parts).removesuffix(".__init__")
        if split_of(name) == split:
            found.append((hashlib.sha256(name.encode()).hexdigest(), name, path))
    return [(name, path.read_text(encoding="utf-8", errors="replace")) for _, name, path in sorted(found)]


def stdlib_dataset(split):
    """The library's modules of one split as a `datasets.Dataset` (`name`, `text`)."""
    names, texts = zip(*stdlib_sources(split))
    return Dataset.from_dict({"name": list(names), "text": list(texts)})
