"""Zip files that are sent: the same contents give the same bytes, and nothing of one is believed before it is checked.

The contents are listed with sizes and sha256 in `ro-crate-metadata.json`, the first entry.
"""

import hashlib
import json
import re
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from lib.errors import InputError, first_line
from lib.files import replacing

METADATA = "ro-crate-metadata.json"
TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that the format knows: when a pack was made decides no byte
MOST_ENTRIES = 5_000
MOST_BYTES = 8 * 2**30
MOST_GROWTH = 20  # times the archive's own size; beyond `FREE_BYTES`
FREE_BYTES = 32 * 2**20
MOST_METADATA = 64 * 2**20
BLOCK = 2**20
NAME = re.compile(r"experiment10-[\w.-]+-([0-9a-f]{12})\.zip")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write(path: Path, contents: Mapping[str, bytes]) -> None:
    """Writes the archive in one step; `contents` are its files by their names in it, `METADATA` among them.

    Raises `InputError` for names that `Archive` refuses to read.
    """
    names = [METADATA, *sorted(contents.keys() - {METADATA})]
    if wrong := misplaced(names):
        raise InputError(f"{wrong}; rename it or remove it, then pack again")
    with replacing(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name in names:
            entry = zipfile.ZipInfo(name, TIME)
            entry.create_system, entry.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, contents[name], compresslevel=6)


class Archive:
    """An archive whose list of entries is safe to unpack; contents are checked as they are read.

    Raises `InputError` in one line for what is damaged or hostile: entries beyond the limits, paths that lead outside,
    links, names that are one file on some disk, a list that does not match, a digest that differs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except FileNotFoundError:
            raise InputError(f"{path}: not there") from None
        except (OSError, zipfile.BadZipFile, ValueError) as error:
            raise InputError(f"{path}: no zip archive, or a damaged one ({first_line(error)})") from None
        try:
            self._entries = self._checked_entries()
            self.metadata = self._metadata()
            self._listed = self._checked_list()
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    @property
    def names(self) -> list[str]:
        """All contents, the metadata apart, sorted."""
        return sorted(self._listed)

    def read(self, name: str) -> bytes:
        """One entry's content, its digest checked."""
        return b"".join(self._blocks(name))

    def extract(self, folder: Path) -> None:
        """Writes all contents below `folder`, which is new; the caller takes it away where a digest differs."""
        for name in self.names:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                for block in self._blocks(name):
                    file.write(block)

    def check(self) -> None:
        """Reads everything once, so that every digest has been held against the list."""
        for name in self.names:
            for _ in self._blocks(name):
                pass

    def _refuse(self, what: str) -> InputError:
        return InputError(f"{self.path.name}: {what}; nothing was written")

    def _checked_entries(self) -> dict[str, zipfile.ZipInfo]:
        entries = self._zip.infolist()
        if len(entries) > MOST_ENTRIES:
            raise self._refuse(f"{len(entries):,} entries, allowed: {MOST_ENTRIES:,}")
        total, packed = sum(e.file_size for e in entries), self.path.stat().st_size
        if total > min(MOST_BYTES, max(FREE_BYTES, MOST_GROWTH * packed)):
            raise self._refuse(f"{packed:,} bytes would grow to {total:,}, which is more than a pack ever does")
        if sum(e.compress_size for e in entries) > packed:
            raise self._refuse("its entries overlap")
        for entry in entries:
            if reason := unusual(entry):
                raise self._refuse(f"entry {entry.orig_filename[:80]!r} {reason}")
        if wrong := misplaced(entry.orig_filename for entry in entries):
            raise self._refuse(wrong)
        return {entry.orig_filename: entry for entry in entries}

    def _metadata(self) -> dict[str, Any]:
        entry = self._entries.get(METADATA)
        if entry is None:
            raise self._refuse(f"no {METADATA} in it")
        if entry.file_size > MOST_METADATA:
            raise self._refuse(f"{METADATA} has {entry.file_size:,} bytes, allowed: {MOST_METADATA:,}")
        content = b"".join(self._raw_blocks(METADATA))
        named = NAME.fullmatch(self.path.name)
        if named and named[1] != sha256(content)[:12]:
            raise self._refuse(f"{METADATA} is not the one that the file's name was made from")
        try:
            metadata = json.loads(content)
            metadata["@graph"][0]["@id"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            raise self._refuse(f"{METADATA} is no RO-Crate's") from None
        return metadata

    def _checked_list(self) -> dict[str, str]:
        try:
            files = [e for e in self.metadata["@graph"] if e.get("@type") == "File"]
            listed = {str(e["@id"]): (str(e["sha256"]), int(e["contentSize"])) for e in files}
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
            raise self._refuse(f"{METADATA} lists a file without sha256 and contentSize") from None
        there = self._entries.keys() - {METADATA}
        for name in sorted(there ^ listed.keys()):
            side = "is not listed in" if name in there else "is missing, though listed in"
            raise self._refuse(f"entry {name[:80]!r} {side} {METADATA}")
        for name, (_, size) in listed.items():
            if self._entries[name].file_size != size:
                raise self._refuse(f"entry {name!r} has {self._entries[name].file_size:,} bytes, listed: {size:,}")
        return {name: digest for name, (digest, _) in listed.items()}

    def _blocks(self, name: str) -> Iterator[bytes]:
        state = hashlib.sha256()
        for block in self._raw_blocks(name):
            state.update(block)
            yield block
        if state.hexdigest() != self._listed[name]:
            raise self._refuse(f"entry {name!r} has another digest than listed")

    def _raw_blocks(self, name: str) -> Iterator[bytes]:
        try:
            with self._zip.open(self._entries[name]) as file:
                while block := file.read(BLOCK):
                    yield block
        except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise self._refuse(f"entry {name!r} is damaged ({first_line(error)})") from None


def misplaced(names: Iterable[str]) -> str | None:
    """Why files of these names can't lie below one folder on every system; None where they can."""
    on_disk: dict[str, str] = {}
    for name in names:
        if reason := unsafe(name):
            return f"entry {name[:80]!r} {reason}"
        alike = unicodedata.normalize("NFC", name).casefold()
        if alike in on_disk:
            return f"entries {on_disk[alike]!r} and {name!r} are one file on some disks"
        on_disk[alike] = name
    folders = {str(parent) for name in on_disk for parent in PurePosixPath(name).parents}
    both = next((name for alike, name in on_disk.items() if alike in folders), None)
    return f"entry {both!r} is a file and a folder at once" if both else None


def unsafe(name: str) -> str | None:
    """Why a path must not be written below a folder, on any system; None where it may."""
    if not name or not name.isprintable():
        return "has no name, or control characters in it"
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "has an absolute path"
    if "\\" in name or ":" in name:
        return "has a path of another system"
    parts = name.split("/")
    if ".." in parts:
        return "leads outside"
    if any(part in ("", ".") or part != part.rstrip(". ") for part in parts):
        return "is no plain path of a file"
    return None


def unusual(entry: zipfile.ZipInfo) -> str | None:
    """Why an entry is none that `write` makes, beside its name."""
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "is a link"
    if kind not in (0, stat.S_IFREG):
        return "is no plain file"
    if entry.flag_bits & 1:
        return "is encrypted"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is packed in a way that packs do not use"
    return None
