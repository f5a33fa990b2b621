"""A profile's results in one file, and back.

The pack of one build folder has the same bytes wherever and whenever it is made. A second run of the same profile
differs in the recorded times, which are part of the record; `digest`, its identifier, leaves them out. A pack's name
ends in the digest of its list of contents.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from lib import ledger
from lib.archive import METADATA, Archive, sha256, write
from lib.errors import InputError
from lib.layout import ROOT, build_root, used_keys
from lib.params import check_profile_name
from lib.pipeline.locking import locked
from lib.results import io
from lib.store import Store, check_content, open_store
from lib.travel import crate

SCORES, MANIFEST = "scores.bin", "manifest.json"
FOLDERS = ("results/", "notebooks/", "report/", "keys/")
REPORT = ("report.html", "report.en.pdf", "report.ja.pdf")


def pack(profile: str, out: Path | None = None) -> Path:
    """Writes `experiment10-<profile>-<hash>.zip` into the folder `out`, by default `build/packs/`; returns its path.

    Raises `InputError` where the profile has no finished run.
    """
    check_profile_name(profile)
    folder = build_root() / profile
    if not (folder / MANIFEST).is_file() or not (folder / "report" / REPORT[0]).is_file():
        raise InputError(f"{profile}: no report to pack; make it with `make report PROFILE={profile}`")
    out = out or build_root() / "packs"
    with locked(profile):
        for partial in out.glob(f".experiment10-{profile}-*.zip"):  # of one that was killed
            partial.unlink()
        manifest = io.read_json(folder / MANIFEST)
        sections = {
            name: io.read_json(io.section_path(folder / "results" / "data", name), "section")
            for name in manifest["notebooks"]
        }
        contents = {name: (folder / name).read_bytes() for name in kept_files(folder)}
        contents[SCORES] = scores(open_store(), keys(folder, sections))
        files = {name: (sha256(content), len(content)) for name, content in sorted(contents.items())}
        citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
        described = crate.described(profile, sections, manifest, files, citation, results_digest(sections))
        metadata = (json.dumps(described, indent=1, ensure_ascii=False) + "\n").encode()
        path = out / f"experiment10-{profile}-{sha256(metadata)[:12]}.zip"
        write(path, {METADATA: metadata} | contents)
    return path


def kept_files(folder: Path) -> list[str]:
    """What of a profile's folder travels, as paths in it."""
    found = [MANIFEST, *(f"report/{name}" for name in REPORT if (folder / "report" / name).is_file())]
    for part in ("results", "notebooks", "keys"):
        paths = (p for p in (folder / part).rglob("*") if p.is_file() and not p.name.startswith("."))
        found += [path.relative_to(folder).as_posix() for path in paths]
    return sorted(found)


def keys(folder: Path, sections: Iterable[str]) -> list[str]:
    """The store's keys that the sections have used, sorted."""
    paths = [used_keys(folder, section) for section in sections]
    return sorted({key for path in paths for key in ledger.read(path)})


def scores(store: Store, wanted: Iterable[str]) -> bytes:
    """Entries of the store as one file: a line of JSON `[[key, bytes], …]`, then the entries one after the other."""
    found = [(key, content) for key in wanted if (content := store.content(key)) is not None]
    head = json.dumps([[key, len(content)] for key, content in found]).encode()
    return b"\n".join([head, b"".join(content for _, content in found)])


def entries(packed: bytes) -> dict[str, bytes]:
    """`{key: entry}` of what `scores` wrote. Raises `ValueError` where lengths and content do not agree."""
    head, _, body = packed.partition(b"\n")
    found, at = {}, 0
    for key, length in json.loads(head):
        if not isinstance(length, int) or length < 1:
            raise ValueError("an entry without a length")
        found[str(key)] = body[at : at + length]
        at += length
    if at != len(body):
        raise ValueError(f"{len(body):,} bytes of entries, listed: {at:,}")
    return found


def results_digest(sections: dict[str, Any]) -> str:
    """sha256 of all sections' parameters and data: what stays when the same run is made again."""
    kept = {name: [record["parameters"], record["data"]] for name, record in sorted(sections.items())}
    return sha256(json.dumps(kept, sort_keys=True, ensure_ascii=False).encode())


def unpack(path: Path) -> tuple[Path, int]:
    """Checks a pack as a whole and only then puts it where a run would have; `(its folder, scores taken over)`.

    Raises `InputError` in one line for a damaged or hostile one, or where the profile has results already.
    """
    with Archive(path) as archive:
        profile = checked_profile(archive)
        target = build_root() / profile
        build_root().mkdir(parents=True, exist_ok=True)
        with locked(profile), unpacking(profile) as folder:
            if target.exists():
                raise InputError(
                    f"{target}: there already; move it away, or unpack elsewhere:"
                    " EXPERIMENT10_BUILD=DIR make unpack FILE=…"
                )
            archive.extract(folder)
            unfit = checked_records(archive, folder, profile)
            kept = checked_contents(archive, folder)
            leave_out(unfit)
            store = open_store()
            taken = sum(store.put_content(key, content) for key, content in kept.items() if store.get(key) is None)
            folder.replace(target)
    return target, taken


@contextmanager
def unpacking(profile: str) -> Iterator[Path]:
    """Where a profile is put together before it takes its place; what a killed one has left there goes first."""
    prefix = f".{profile}-unpacking-"
    for leftover in build_root().glob(f"{prefix}*"):
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=build_root()) as name:
        yield Path(name) / profile


def checked_profile(archive: Archive) -> str:
    """The profile of the pack, once nothing stands in it that no pack has."""
    foreign = [n for n in archive.names if n not in (MANIFEST, SCORES) and not n.startswith(FOLDERS)]
    foreign += [n for n in archive.names if any(part.startswith(".") for part in n.split("/"))]
    if foreign:
        raise InputError(f"{archive.path.name}: entry {foreign[0]!r} is no part of a pack; nothing was written")
    missing = [n for n in (MANIFEST, SCORES) if n not in archive.names]
    if missing:
        raise InputError(f"{archive.path.name}: no {missing[0]} in it; nothing was written")
    names = section_entries(archive)
    if not names:
        raise InputError(f"{archive.path.name}: no results in it; nothing was written")
    profile = parsed_record(archive, names[0], archive.read(names[0]))["provenance"]["profile"]
    check_profile_name(profile)
    return profile


def section_entries(archive: Archive) -> list[str]:
    """The entries that are sections' records."""
    return [name for name in archive.names if name.startswith("results/data/sections/")]


def parsed_record(archive: Archive, name: str, content: bytes) -> Any:
    """A section's record in a pack, checked against its schema; `InputError` where it is none."""
    try:
        return io.parsed(content, f"{archive.path.name}: {name}", "section")
    except InputError:
        raise
    except ValueError:
        raise InputError(f"{archive.path.name}: entry {name!r} is no JSON; nothing was written") from None


def checked_records(archive: Archive, folder: Path, profile: str) -> dict[Path, str]:
    """`{path: why}` of the records in `folder` whose data are not of their section's type, as another version's may be.

    Each is read once. `InputError` where one is no section's record, or of another profile.
    """
    unfit = {}
    for name in section_entries(archive):
        path = folder / name
        found = parsed_record(archive, name, path.read_bytes())
        if found["provenance"]["profile"] != profile:
            raise InputError(f"{archive.path.name}: {name} is of another profile than {profile}; nothing was written")
        try:
            io.validate_section(found["section"], found["data"], path.name)
        except InputError as error:
            unfit[path] = str(error)
    return unfit


def checked_contents(archive: Archive, folder: Path) -> dict[str, bytes]:
    """The pack's scores, once they and the record of the run are of their form."""
    where = archive.path.name
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        foreign = {path for noted in manifest["notebooks"].values() for path in noted["files"]} - {*archive.names}
        if foreign or not isinstance(manifest["overrides"], dict):
            raise ValueError(f"names {min(foreign, default='no parameters')!r}")
        kept = entries((folder / SCORES).read_bytes())
        for key, content in kept.items():
            check_content(key, content)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{where}: {MANIFEST} or {SCORES} is damaged ({error}); nothing was written") from None
    (folder / SCORES).unlink()
    return kept


def leave_out(unfit: dict[Path, str]) -> None:
    """Takes away the records of `checked_records`, which count as not measured, and names them, a line each."""
    for path, why in unfit.items():
        path.unlink()
        print(f"{path.stem}: left out, as not measured: {why}", file=sys.stderr)
