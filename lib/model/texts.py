"""A dataset's folder: its files found and looked over without loading anything, and its texts made sound."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from lib.errors import InputError, first_line
from lib.model.loading import fetch, local_folder, looks_like_hub_id

STDLIB = "cpython-stdlib"
STDLIB_SPLITS = ("train", "heldout")
RAW_NAMES = {"validation": "valid"}
INSTEAD = "pass -p dataset DIR"


def find(dataset: str, config: str, split: str) -> list[Path]:
    """The files of a split in a folder or on the hub: one `wiki.<split>.raw`, or the hub's parquet files.

    Raises `InputError` where there is neither.
    """
    folder = fetch("dataset", "dataset", dataset, [f"{config}/*"] if config else ["*.parquet", "*.raw"])
    raw_name = f"wiki.{RAW_NAMES.get(split, split)}.raw"
    for path in (folder / raw_name, folder / config / raw_name):
        if path.is_file():
            return [path]
    parquet = sorted((folder / config).glob(f"{split}-*.parquet")) or sorted(folder.glob(f"{split}-*.parquet"))
    if not parquet:
        raise InputError(
            f"dataset: {dataset!r} holds neither {raw_name} nor {split}-*.parquet"
            f"{f' (in {config}/)' if config else ''}; pass a folder that does: -p dataset DIR"
        )
    return parquet


def check_split(split: str) -> None:
    if split not in STDLIB_SPLITS:
        raise InputError(f"split: given {split!r}, allowed for {STDLIB}: {', '.join(STDLIB_SPLITS)}")


def check(dataset: str, config: str, split: str) -> None:
    """Finds within a second what is wrong with a folder's files; what lies on the hub is left to the set-up.

    Raises `InputError` for files that are not there, can't be read, or hold no texts.
    """
    if dataset == STDLIB:
        check_split(split)
    elif local_folder(dataset) or not looks_like_hub_id(dataset):
        files = find(dataset, config, split)
        if files[0].suffix == ".raw":
            sound(raw_rows(files[0]), str(files[0]))
        else:
            check_parquet(files)


def check_parquet(files: Sequence[Path]) -> None:
    """Columns, number of rows and null texts, by the files' footers."""
    import pyarrow
    from pyarrow import parquet

    n_rows = 0
    for path in files:
        try:
            with parquet.ParquetFile(path) as file:
                about, columns = file.metadata, file.schema_arrow
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"dataset: {path} can't be read ({first_line(error)}); {INSTEAD}") from None
        check_columns(columns.names, str(path))
        kind = columns.field("text").type
        if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
            raise InputError(f"dataset: {path} has a column text of type {kind}, allowed: string; {INSTEAD}")
        for i in range(about.num_row_groups):
            for j in range(about.num_columns):
                column = about.row_group(i).column(j)
                if column.path_in_schema == "text" and column.statistics and column.statistics.null_count:
                    raise InputError(f"dataset: {path} has null for a text, allowed: texts in every row; {INSTEAD}")
        n_rows += about.num_rows
    if not n_rows:
        raise InputError(f"dataset: {files[0]} has no rows, allowed: one or more; {INSTEAD}")


def check_columns(names: Sequence[str], where: str) -> None:
    if "text" not in names:
        raise InputError(f"dataset: {where!r} has the columns {list(names)}, allowed: one called text")


def raw_rows(path: Path) -> list[str]:
    """The hub dataset's rows, rebuilt from a raw file: a blank line is the row `""`, any other keeps its line end."""
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            return ["" if not line.strip() else line for line in file]
    except UnicodeDecodeError as error:
        raise InputError(f"dataset: {path} is no UTF-8 text ({error}); {INSTEAD}") from None
    except OSError as error:
        raise InputError(f"dataset: {path} can't be read ({error.strerror}); {INSTEAD}") from None


def sound(rows: Iterable[str | None], where: str) -> tuple[list[str], dict[str, int]]:
    """`(texts, {bom, crlf})`: byte-order marks at a text's start gone and CRLF made LF, with how many there were.

    Raises `InputError` for no rows, for a row that is no text, for NUL bytes, and where all texts are blank.
    """
    texts: list[str] = []
    counts = {"bom": 0, "crlf": 0}
    for number, text in enumerate(rows):
        if not isinstance(text, str):
            given = "null" if text is None else f"a {type(text).__name__}"
            raise InputError(f"dataset: {where}: row {number} is {given}, allowed: texts in every row; {INSTEAD}")
        if "\0" in text:
            raise InputError(f"dataset: {where}: row {number} holds a NUL byte, allowed: text; {INSTEAD}")
        counts["bom"] += text.startswith("\ufeff")
        counts["crlf"] += text.count("\r\n")
        texts.append(text.removeprefix("\ufeff").replace("\r\n", "\n"))
    if not texts:
        raise InputError(f"dataset: {where} has no rows, allowed: one or more; {INSTEAD}")
    if not any(text.strip() for text in texts):
        raise InputError(f"dataset: {where} holds nothing but blanks, allowed: text; {INSTEAD}")
    return texts, counts
