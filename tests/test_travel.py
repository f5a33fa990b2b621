"""A result that is sent: the same bytes from the same results, a valid crate, and nothing of a hostile pack on disk."""

import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import measured
import numpy as np
import pytest

from lib import archive
from lib.archive import METADATA, Archive, sha256
from lib.errors import InputError
from lib.layout import ROOT, used_keys
from lib.results import diff, io
from lib.store import digest, open_store
from lib.travel import pack, why

KEYS = [digest("score", i) for i in range(3)]


def refused(call, *args):
    with pytest.raises(InputError) as error:
        call(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def run(build):
    """A finished run of profile smoke, as the pipeline leaves it, and three scores that it used."""
    folder = build / "smoke"
    data = io.plain(measured.build())
    noted = {}
    for name, section in data.items():
        record = {"section": name, "parameters": {"seed": 10}, "data": section}
        record["provenance"] = measured.PROVENANCE | {"profile": "smoke"}
        io.write_json(io.section_path(folder / "results" / "data", name), record, "section")
        (folder / "notebooks").mkdir(exist_ok=True)
        (folder / "notebooks" / f"{name}.ipynb").write_text("{}")
        files = (f"notebooks/{name}.ipynb", f"results/data/sections/{name}.json")
        noted[name] = {
            "files": {path: sha256((folder / path).read_bytes()) for path in files},
            "measuring": {"modules": {"lib.store": "5" * 64}, "needs": {"setup": "7" * 64} if name != "setup" else {}},
        }
    noted["setup"]["files"]["results/data/tokens.npy"] = "1" * 64
    np.save(folder / "results" / "data" / "tokens.npy", np.arange(6, dtype=np.int32).reshape(2, 3))
    io.write_json(folder / "manifest.json", {"overrides": {}, "notebooks": noted, "report": "x"})
    (folder / "report").mkdir()
    (folder / "report" / "report.html").write_text("<p>A report</p>")
    (folder / "results" / "figures").mkdir()
    (folder / "results" / "figures" / "ladder.png").write_bytes(b"\x89PNG")
    store = open_store()
    for i, key in enumerate(KEYS):
        store.put(key, np.full(4, i, dtype=np.float32))
    store.put(digest("another profile's"), np.zeros(1))
    path = used_keys(folder, "V1")
    path.parent.mkdir()
    path.write_text("".join(f"{key}\n" for key in KEYS))
    return folder


@pytest.fixture
def packed(run, tmp_path):
    return pack.pack("smoke", tmp_path / "out")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("EXPERIMENT10_BUILD", str(tmp_path / "elsewhere"))
    return tmp_path / "elsewhere"


def everything(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_results_give_the_same_bytes_under_the_same_name(run, packed, tmp_path, monkeypatch):
    for path in run.rglob("*"):
        path.touch()
    moved = tmp_path / "moved"
    shutil.copytree(run.parent, moved)
    monkeypatch.setenv("EXPERIMENT10_BUILD", str(moved))
    again = pack.pack("smoke", tmp_path / "again")
    assert again.name == packed.name and again.read_bytes() == packed.read_bytes()
    assert {entry.date_time for entry in zipfile.ZipFile(packed).infolist()} == {archive.TIME}


def test_times_change_the_bytes_and_not_the_identifier(run, packed, tmp_path):
    def identifier(path):
        with Archive(path) as opened:
            return opened.metadata["@graph"][1]["identifier"]

    path = io.section_path(run / "results" / "data", "V1")
    record = io.read_json(path)
    record["provenance"] = record["provenance"] | {"times": {"started": "2027-01-01T00:00:00+00:00", "seconds": 3.0}}
    io.write_json(path, record, "section")
    later = pack.pack("smoke", tmp_path / "later")
    assert later.name != packed.name and identifier(later) == identifier(packed)
    record["data"]["ppl_full"] += 1
    io.write_json(path, record, "section")
    assert identifier(pack.pack("smoke", tmp_path / "other")) != identifier(packed)


def test_a_pack_holds_only_the_scores_that_the_run_used(packed):
    with Archive(packed) as opened:
        kept = pack.entries(opened.read(pack.SCORES))
    assert sorted(kept) == sorted(KEYS)


def test_unpacking_gives_the_run_back(run, packed, elsewhere):
    folder, taken = pack.unpack(packed)
    assert folder == elsewhere / "smoke" and taken == 3
    assert everything(folder) == everything(run)
    store = open_store()
    assert [store.get(key).tolist() for key in KEYS] == [[i] * 4 for i in range(3)]
    assert sorted(p.name for p in elsewhere.iterdir()) == [".locks", "smoke", "store"]


def test_unpacking_reads_each_record_once(run, packed, elsewhere, monkeypatch):
    """One apart: the first says whose results these are, before there is a place to put them."""
    read, parse = [], io.parsed
    monkeypatch.setattr(
        io, "parsed", lambda content, where, *schema: read.append(where) or parse(content, where, *schema)
    )
    pack.unpack(packed)
    first, *names = [f"{packed.name}: {name}" for name in sorted(everything(run)) if "/sections/" in name]
    assert sorted(read) == [first, first, *names]


def test_what_a_killed_one_has_left_goes(run, tmp_path, monkeypatch):
    partial = tmp_path / "out" / ".experiment10-smoke-0123456789ab.zip.x1y2.zip"
    partial.parent.mkdir()
    partial.write_bytes(b"PK")
    packed = pack.pack("smoke", partial.parent)
    assert [*partial.parent.iterdir()] == [packed]
    elsewhere = tmp_path / "elsewhere"
    monkeypatch.setenv("EXPERIMENT10_BUILD", str(elsewhere))
    (elsewhere / ".smoke-unpacking-x1y2" / "smoke").mkdir(parents=True)
    pack.unpack(packed)
    assert sorted(p.name for p in elsewhere.iterdir()) == [".locks", "smoke", "store"]


def test_what_is_there_already_stays(run, packed):
    before = everything(run)
    assert "there already; move it away" in refused(pack.unpack, packed)
    assert everything(run) == before


def test_a_packs_results_are_compared_as_a_profiles_are(run, packed, capsys):
    assert not [f for f in diff.compare(diff.results_of("smoke"), diff.results_of(str(packed))).figures if f.differs]
    diff.main(["smoke", str(packed)])
    assert "0 of" in capsys.readouterr().out


def rewritten(packed, tmp_path, change, name="hostile.zip"):
    """The pack once more by hand, after `change(entries, metadata)`; `entries` are `[(ZipInfo, content)]`."""
    with zipfile.ZipFile(packed) as opened:
        entries = [(entry, opened.read(entry)) for entry in opened.infolist()]
    metadata = json.loads(entries.pop(0)[1])
    change(entries, metadata)
    path = tmp_path / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        if metadata:
            out.writestr(METADATA, json.dumps(metadata))
        for entry, content in entries:
            out.writestr(entry, content)
    return path


def added(name, content=b"x", mode=0o100644, listed=True):
    def change(entries, metadata):
        entry = zipfile.ZipInfo(name)
        entry.external_attr, entry.compress_type = mode << 16, zipfile.ZIP_DEFLATED
        entries.append((entry, content))
        if listed:
            size = str(len(content))
            metadata["@graph"].append({"@id": name, "@type": "File", "sha256": sha256(content), "contentSize": size})

    return change


def altered(name, content):
    """Another content under a name, with its digest in the list made to fit."""

    def change(entries, metadata):
        for i, (entry, _) in enumerate(entries):
            if entry.filename == name:
                entries[i] = entry, content
        for entity in metadata["@graph"]:
            if entity["@id"] == name:
                entity |= {"sha256": sha256(content), "contentSize": str(len(content))}

    return change


def swapped(entries, metadata):
    for i, (entry, content) in enumerate(entries):
        if entry.filename == "results/figures/ladder.png":
            entries[i] = entry, content[::-1]


def without(name):
    def change(entries, metadata):
        entries[:] = [pair for pair in entries if pair[0].filename != name]

    return change


def manifest(**more):
    return altered("manifest.json", json.dumps({"overrides": {}, "report": None} | more).encode())


HOSTILE = {
    "outside": (added("results/../../../evil"), "leads outside"),
    "absolute": (added("/etc/evil"), "absolute path"),
    "drive": (added("C:evil"), "absolute path"),
    "backslash": (added("results\\..\\evil"), "path of another system"),
    "control": (added("results/a\nb"), "control characters"),
    "turned around": (added("results/\u202egnp.exe"), "control characters"),
    "steering": (added("results/\x9b31m"), "control characters"),
    "dot": (added("results/./evil"), "no plain path"),
    "folder": (added("results/empty/", b""), "no plain path"),
    "link": (added("results/link", b"/etc/passwd", stat.S_IFLNK | 0o777), "is a link"),
    "device": (added("results/device", b"", stat.S_IFCHR | 0o600), "no plain file"),
    "duplicate": (added("manifest.json", b"{}", listed=False), "one file on some disks"),
    "case": (added("Manifest.JSON", b"{}"), "one file on some disks"),
    "file and folder": (added("manifest.json/x"), "a file and a folder at once"),
    "not listed": (added("results/extra.json", listed=False), "is not listed"),
    "foreign": (added("setup.py"), "no part of a pack"),
    "hidden": (added("results/.profile"), "no part of a pack"),
    "missing": (without("results/figures/ladder.png"), "is missing"),
    "wrong digest": (swapped, "another digest than listed"),
    "bomb": (added("results/bomb", bytes(2 * archive.FREE_BYTES)), "would grow to"),
    "no metadata": (lambda entries, metadata: metadata.clear(), f"no {METADATA}"),
    "metadata of another kind": (lambda entries, metadata: metadata.update({"@graph": 3}), "no RO-Crate's"),
    "no digests": (lambda entries, metadata: metadata["@graph"][-1].pop("sha256"), "without sha256"),
    "too many": (
        lambda entries, metadata: entries.extend((zipfile.ZipInfo(f"results/{i}"), b"") for i in range(5_001)),
        "entries, allowed: 5,000",
    ),
    "manifest that names a file outside": (
        manifest(notebooks={"V1": {"files": {"results/figures/../../../../evil": "0"}}}),
        "is damaged",
    ),
    "manifest of another form": (altered("manifest.json", b"[]"), "is damaged"),
    "scores of another form": (altered("scores.bin", b'[["../../evil", 1]]\nx'), "is no key"),
    "scores too long": (altered("scores.bin", b"[]\nx"), "is damaged"),
    "another section's form": (altered("results/data/sections/V1.json", b"{}"), "schema"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pack_is_refused_in_one_line_and_leaves_nothing(name, packed, tmp_path, elsewhere):
    change, line = HOSTILE[name]
    path = rewritten(packed, tmp_path, change)
    before = {*tmp_path.rglob("*")} - {path}
    said = refused(pack.unpack, path)
    assert line in said and str(path.name) in said
    left = [p for p in {*tmp_path.rglob("*")} - before - {path} if p.is_file() and ".locks" not in p.parts]
    assert not left and not (elsewhere / "smoke").exists()


@pytest.mark.parametrize("names", [["a:b.png"], ["a\nb.png"], ["a .png", "b. "], ["ladder.png", "Ladder.png"]])
def test_what_can_t_be_unpacked_everywhere_is_not_packed(names, run, tmp_path):
    for name in names:
        (run / "results" / "figures" / name).write_bytes(b"x")
    said = refused(pack.pack, "smoke", tmp_path / "out")
    assert "results/figures/" in said and said.endswith("; rename it or remove it, then pack again")
    assert not [*tmp_path.glob("out/*")]


def test_what_was_not_changed_by_hand_unpacks(packed, tmp_path, elsewhere):
    folder, _ = pack.unpack(rewritten(packed, tmp_path, lambda entries, metadata: None))
    assert (folder / "manifest.json").is_file()


@pytest.mark.parametrize("share", [0.0, 0.2, 0.9, 0.999])
def test_a_pack_cut_off_is_refused(share, packed, tmp_path, elsewhere):
    content = packed.read_bytes()
    path = tmp_path / packed.name
    path.write_bytes(content[: int(share * len(content))])
    assert "damaged" in refused(pack.unpack, path)
    assert not elsewhere.exists()


def test_every_flipped_byte_is_noticed(packed, tmp_path, elsewhere):
    """Over the whole file, with a stride: contents, names, sizes and the list itself."""
    content = packed.read_bytes()
    path = tmp_path / packed.name
    unnoticed = []
    for at in range(0, len(content), len(content) // 150):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        try:
            with Archive(path) as opened:
                opened.check()
                contents = {name: sha256(opened.read(name)) for name in opened.names}
        except InputError:
            continue
        unnoticed.append(contents)
    with Archive(packed) as opened:
        own = {name: sha256(opened.read(name)) for name in opened.names}
    assert all(contents == own for contents in unnoticed)  # a time or an attribute that nobody reads
    assert len(unnoticed) < 50


def test_the_name_tells_whether_the_list_is_the_senders(packed, tmp_path, elsewhere):
    path = rewritten(packed, tmp_path, swapped, packed.name)
    assert "not the one that the file's name was made from" in refused(pack.unpack, path)


def crate_faults(metadata):
    """What breaks RO-Crate 1.1 and Process Run Crate 0.5 in their requirements, rule by rule."""
    graph = metadata["@graph"]
    by_id = {entity["@id"]: entity for entity in graph}
    faults = [] if len(by_id) == len(graph) else ["an @id stands twice"]
    root = by_id["./"]
    if by_id[METADATA]["about"] != {"@id": "./"} or "1.1" not in by_id[METADATA]["conformsTo"]["@id"]:
        faults.append("descriptor")
    if root["@type"] != "Dataset" or not {"name", "description", "datePublished", "license"} <= root.keys():
        faults.append("root")
    if by_id[root["conformsTo"]["@id"]]["@type"] != "CreativeWork":
        faults.append("profile")
    pointers = [
        (entity["@id"], value["@id"])
        for entity in graph
        for values in entity.values()
        for value in (values if isinstance(values, list) else [values])
        if isinstance(value, dict)
    ]
    known = (*by_id, "https://w3id.org/ro/crate/1.1")
    faults += [f"{source} points to {target}" for source, target in pointers if target not in known]
    parts = {part["@id"] for part in root["hasPart"]}
    faults += [f"{e['@id']} is no part" for e in graph if e["@type"] == "File" and e["@id"] not in parts]
    actions = [entity for entity in graph if entity["@type"] == "CreateAction"]
    faults += [] if {a["@id"] for a in actions} == {m["@id"] for m in root["mentions"]} else ["mentions"]
    for a in actions:
        if by_id[a["instrument"]["@id"]]["@type"] != "SoftwareApplication" or not a["result"] or not a["object"]:
            faults.append(f"action {a['@id']}")
        if not a["startTime"] <= a["endTime"]:
            faults.append(f"times of {a['@id']}")
    return faults


def test_the_crate_keeps_its_profiles_rules(run, packed):
    with Archive(packed) as opened:
        metadata = opened.metadata
    assert crate_faults(metadata) == []
    names = [e["name"] for e in metadata["@graph"] if e["@type"] == "CreateAction"]
    assert names == [f"Section {name}" for name in json.loads((run / "manifest.json").read_text())["notebooks"]]
    values = {e["name"]: e["value"] for e in metadata["@graph"] if e["@type"] == "PropertyValue"}
    assert values["parameter seed"] == 10 and values["module lib.store"] == f"sha256:{'5' * 64}"


VALIDATOR = ROOT / ".venv-validator" / "bin" / "python"
needs_validator = pytest.mark.skipif(
    not VALIDATOR.is_file(), reason="no .venv-validator; `make crate-validator` makes it"
)


def validated(path):
    """What roc-validator says of a pack under the profile Process Run Crate, without a network."""
    words = [VALIDATOR, Path(__file__).parent / "crate" / "validate.py", path]
    environment = {"PATH": os.environ["PATH"], "HOME": str(path.parent)}
    done = subprocess.run(words, capture_output=True, text=True, cwd=path.parent, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_validator
def test_the_validator_of_ro_crates_finds_no_fault(packed):
    said = validated(packed)
    assert said["profile"] == "process-run-crate" and said["checked"] > 30 and said["issues"] == []


@needs_validator
@pytest.mark.parametrize(
    ("kind", "key", "rule"), [("CreateAction", "instrument", "process-run"), ("Dataset", "license", "ro-crate")]
)
def test_the_validator_sees_what_is_missing(packed, tmp_path, kind, key, rule):
    def change(entries, metadata):
        for entity in metadata["@graph"]:
            if entity["@type"] == kind:
                del entity[key]

    said = validated(rewritten(packed, tmp_path, change))
    assert any(issue.startswith(rule) for issue in said["issues"])


def test_the_rules_find_a_pointer_that_leads_nowhere(packed):
    with Archive(packed) as opened:
        metadata = opened.metadata
    metadata["@graph"] = [e for e in metadata["@graph"] if e["@id"] != "results/data/sections/V1.json"]
    assert any("points to results/data/sections/V1.json" in fault for fault in crate_faults(metadata))


@pytest.fixture
def other(run, tmp_path):
    """A second run, in a pack: `other(change)` with `change(section, record, noted)` for each."""

    def make(change):
        kept = {path: path.read_bytes() for path in (run / "results" / "data" / "sections").iterdir()}
        kept[run / "manifest.json"] = (run / "manifest.json").read_bytes()
        noted = json.loads(kept[run / "manifest.json"])
        for name, note in noted["notebooks"].items():
            path = io.section_path(run / "results" / "data", name)
            record = json.loads(path.read_bytes())
            change(name, record, note)
            path.write_text(json.dumps(record))
        (run / "manifest.json").write_text(json.dumps(noted))
        path = pack.pack("smoke", tmp_path / "other")
        for file, content in kept.items():
            file.write_bytes(content)
        return str(path)

    return make


def test_why_names_the_deepest_input_first_and_what_it_moved(other):
    def change(name, record, note):
        if name in ("V1", "V4"):
            record["provenance"]["versions"]["torch"] = "9"
            note["measuring"]["modules"]["lib.store"] = "6" * 64
        if name == "V1":
            record["data"]["ppl_full"] += 1

    found, unexplained = why.causes(why.read("smoke"), why.read(other(change)))
    assert [(c.kind, c.moved) for c in found] == [("package torch", ("V1",)), ("code lib.store", ("V1",))]
    assert unexplained == []
    text = why.explained("smoke", other(change))
    assert text.startswith("first that differs: package torch: 2 against 9\n  moved: V1")


def test_why_orders_interpreter_corpus_weights_tokens_parameters_and_code(other):
    def change(name, record, note):
        origin = record["provenance"]
        note["measuring"]["modules"]["lib.store"] = "6" * 64
        record["provenance"]["parameters"] = {"seed": 11}
        if name == "setup":
            note["files"]["results/data/tokens.npy"] = "2" * 64
        origin["model"]["fingerprint"], origin["corpus"]["fingerprint"] = "3" * 64, "4" * 64
        origin["versions"]["python"], origin["cpu"] = "3.99", {"instructions": "avx"}

    found, _ = why.causes(why.read("smoke"), why.read(other(change)))
    expected = ["interpreter", "cpu instructions", "corpus", "weights", "tokens", "parameter seed", "code lib.store"]
    assert [c.kind for c in found] == expected
    assert all(c.moved == () for c in found)


def test_why_says_what_no_input_explains(other):
    def change(name, record, note):
        if name == "V1":
            record["data"]["ppl_full"] += 1

    found, unexplained = why.causes(why.read("smoke"), why.read(other(change)))
    assert found == [] and unexplained == ["V1"]
    assert "no input differs" in why.explained("smoke", "smoke")


@pytest.mark.parametrize("words", [["pack"], ["unpack", ""], ["why", "smoke"], ["pack", "../x"], ["unpack", "no.zip"]])
def test_bad_words_are_one_line(words, build):
    done = subprocess.run([sys.executable, "-m", "lib.travel", *words], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_packing_needs_no_torch(run, tmp_path):
    code = "import sys; sys.modules['torch'] = None; from lib.travel.__main__ import main; main(['pack', 'smoke'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [p.suffix for p in Path(run.parent / "packs").iterdir()] == [".zip"]
