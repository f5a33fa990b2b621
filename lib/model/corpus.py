"""Texts and the token ids that are scored.

Every corpus is a `datasets.Dataset` with one column `text`; its rows are joined by a blank
line, encoded once, and cut into chunks that do not overlap. Nothing here draws at random.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import platform
import re
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset

from lib.errors import InputError, first_line
from lib.model import texts
from lib.model.loading import split_revision
from lib.model.texts import STDLIB

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEPARATOR = "\n\n"
HEADING = re.compile(r" = [^=].* = \s*")  # an article's title in WikiText; deeper headings have more signs
HELDOUT_SHARE = 1 / 8
SKIPPED_PACKAGES = {"test", "tests", "site-packages", "dist-packages", "__pycache__", "__phello__", "config"}
# What distributions drop or ship apart, and tables: never scored, so that every Python holds out the same modules.
TRAINING_ONLY = {"idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "distutils", "encodings", "pydoc_data"}


def split_of(module_name: str) -> str:
    """`train` or `heldout`, by a hash of the module's dotted name: stable across machines and versions."""
    if module_name.split(".")[0] in TRAINING_ONLY:
        return "train"
    digest = hashlib.sha256(module_name.encode()).digest()
    return "heldout" if int.from_bytes(digest[:4], "big") < HELDOUT_SHARE * 2**32 else "train"


def stdlib_sources(split: str) -> list[tuple[str, str]]:
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


def stdlib_dataset(split: str) -> Dataset:
    """The library's modules of one split as a `datasets.Dataset` (`name`, `text`)."""
    names, texts = zip(*stdlib_sources(split), strict=True)
    return Dataset.from_dict({"name": list(names), "text": list(texts)})


def docstrings(package: str, most: int | None = None) -> Dataset:
    """The documentation strings of an installed package's modules, functions and classes, read, never imported.

    One text a module that has any, in the order of the modules' names, until `most` characters are there: prose about
    code, another domain than code.
    """
    texts: list[str] = []
    length = 0
    for path in package_files(package):
        if most is not None and length >= most:
            break
        try:
            tree = ast.parse(path.read_text(encoding="utf-8", errors="replace"))
        except SyntaxError:
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
        if any(found):
            texts.append("\n\n".join(filter(None, found)))
            length += len(texts[-1])
    return Dataset.from_dict({"text": texts})


def package_files(package: str) -> list[Path]:
    """The modules of an installed package but its tests, in the order of their paths; nothing is imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"text: no package {package!r} is installed; pass the name of one that is")
    root = Path(spec.submodule_search_locations[0])
    return [p for p in sorted(root.rglob("*.py")) if not SKIPPED_PACKAGES.intersection(p.relative_to(root).parts)]


def package_dataset(package: str) -> Dataset:
    """The sources of an installed package as a `datasets.Dataset` (`text`), a row a module."""
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in package_files(package))
    return Dataset.from_dict({"text": [text for text in texts if text.strip()]})


OTHER_PACKAGE = "scipy"


def other_domain(place: str = "", most: int | None = None) -> tuple[Dataset, str]:
    """`(rows, name)` of a text unlike the one that is scored: a dataset's test split, or a package's documentation.

    Of the documentation about `most` characters.
    """
    if place:
        return load_rows(place, "", "test")
    return docstrings(OTHER_PACKAGE, most), f"{OTHER_PACKAGE} {importlib.metadata.version(OTHER_PACKAGE)}, docstrings"


def load_rows(dataset: str, config: str, split: str) -> tuple[Dataset, str]:
    """`(rows, name)`: a `datasets.Dataset` with a column `text`, and what it is called in the report.

    `dataset` is `cpython-stdlib`, a folder (with `wiki.<split>.raw` or the hub's parquet files), or a hub id.
    """
    return read_rows(dataset, config, split)[:2]


def read_rows(dataset: str, config: str, split: str) -> tuple[Dataset, str, dict[str, int]]:
    """`(rows, name, normalised)`: `load_rows`'s, and how many marks of each kind `texts.sound` took away."""
    if dataset == STDLIB:
        texts.check_split(split)
        return stdlib_dataset(split), f"{STDLIB} {platform.python_version()}", {"bom": 0, "crlf": 0}
    files, name = texts.find(dataset, config, split), split_revision(dataset)[0]
    if files[0].suffix == ".raw":
        found, normalised = texts.sound(texts.raw_rows(files[0]), str(files[0]))
        return Dataset.from_dict({"text": found}), name, normalised
    texts.check_parquet(files)
    try:
        rows = Dataset.from_parquet([str(path) for path in files])
        columns = {column: rows[column] for column in rows.column_names if column in ("name", "text")}
    except Exception as error:
        raise InputError(f"dataset: {files[0]} can't be read ({first_line(error)}); {texts.INSTEAD}") from None
    found, normalised = texts.sound(columns["text"], str(files[0]))
    return Dataset.from_dict(columns | {"text": found}), name, normalised


def encode(rows: Dataset, tokenizer: "PreTrainedTokenizerBase") -> np.ndarray:
    """Token ids of the joined rows, int32 [N], without any special token added."""
    return _tokenized(rows["text"], tokenizer)[0]


def encode_documents(rows: Dataset, tokenizer: "PreTrainedTokenizerBase") -> tuple[np.ndarray, np.ndarray, str]:
    """`(ids, documents, unit)`: `encode`'s ids, each token's document, int32 [N], counted from 0, and what one is.

    A document is a `module` of a library (rows that have a name), an `article` of WikiText (from one title to the next;
    what stands before the first belongs to it), or a `row` of any other dataset. A token that joins two documents
    belongs to the first. The tokenizer must be able to tell where in the text a token begins.
    """
    texts = rows["text"]
    starts = np.cumsum([0, *(len(text) + len(SEPARATOR) for text in texts[:-1])])
    titles = [i for i, text in enumerate(texts) if HEADING.fullmatch(text)]
    unit = "module" if "name" in rows.column_names else "article" if titles else "row"
    if unit == "article":
        starts = np.array([0, *starts[titles[1:]]])
    ids, places = _tokenized(texts, tokenizer, return_offsets_mapping=True)
    return ids, (np.searchsorted(starts, places, side="right") - 1).astype(np.int32), unit


def _tokenized(
    texts: list[str], tokenizer: "PreTrainedTokenizerBase", **options: bool
) -> tuple[np.ndarray, np.ndarray]:
    """`(ids, where each begins, nothing unless asked)` of the joined texts."""
    tokenizer.model_max_length = int(1e12)
    found = tokenizer(SEPARATOR.join(texts), add_special_tokens=False, **options)
    places = [start for start, _ in found["offset_mapping"]] if options else []
    return np.asarray(found["input_ids"], dtype=np.int32), np.array(places)


def chunk(ids: np.ndarray, n_ctx: int, n_chunks: int, what: str = "full_chunks") -> np.ndarray:
    """The first `n_chunks` chunks of `n_ctx` ids, [n_chunks, n_ctx]; no overlap, the remainder dropped.

    Raises `InputError` where the corpus is too short.
    """
    whole = len(ids) // n_ctx
    if whole < n_chunks:
        raise InputError(
            f"{what}: given {n_chunks}, allowed: at most {whole}, the whole chunks of {n_ctx} tokens in {len(ids):,}"
        )
    return np.ascontiguousarray(ids[: n_chunks * n_ctx].reshape(n_chunks, n_ctx))


def spread(ids: np.ndarray, n_ctx: int, n_chunks: int) -> np.ndarray:
    """`n_chunks` chunks of `n_ctx` ids at even distances over the whole text, so that they share few documents."""
    whole = chunk(ids, n_ctx, max(n_chunks, len(ids) // n_ctx), "chunks")
    return np.ascontiguousarray(whole[np.arange(n_chunks) * len(whole) // n_chunks])


def rechunk(chunks: np.ndarray, n_ctx: int, n_tokens: int) -> np.ndarray:
    """The first `n_tokens` of the stream that `chunks` holds, cut anew at `n_ctx`; the remainder dropped."""
    ids = chunks.reshape(-1)[:n_tokens]
    return chunk(ids, n_ctx, len(ids) // n_ctx)


def fingerprint(ids: np.ndarray) -> str:
    """sha256 of the token ids."""
    return hashlib.sha256(np.ascontiguousarray(ids, dtype="<i4").tobytes()).hexdigest()
