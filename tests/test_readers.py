"""Readers of what comes from outside: whatever is in it, a value comes back, or one line."""

import contextlib
import json
import zipfile

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from synthetic import results
from torture.bench import in_place

from lib.archive import METADATA, Archive, sha256
from lib.errors import InputError
from lib.model import header, loading, texts
from lib.results import io, query
from lib.store import Store, _checksum
from lib.travel import pack

RESULTS = results()
MANY = settings(max_examples=300, deadline=None)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
CONTENTS = st.binary(max_size=200) | st.text(max_size=200).map(str.encode) | VALUES.map(json.dumps).map(str.encode)
STEPS = st.sampled_from(
    ["V1", "V4", ".cumulative", "[-1]", "[0]", "[n_linearized=30]", "[n_linearized]", ".ratio", "[1.1]", ".ppl_full",
     "phases", ".zero", ".heads", "[layer=0,head=8]", ".", "[", "]", "[=]", "[99999]", ".thresholds_full", "[a=b,a=c]",
     "setup", ".model", ".name", "[]", "[ ]", " ", "日本"]
)  # fmt: skip
PATHS = st.lists(STEPS, max_size=6).map("".join) | st.text(max_size=40)


def value_or_line(read, *arguments):
    """What `read` gives, or None for an `InputError` of one line; anything else that is raised fails the test."""
    try:
        return read(*arguments)
    except InputError as error:
        assert str(error) and "\n" not in str(error)
        return None


@given(PATHS)
@example("V4.cumulative[" + "9" * 5000 + "]")
@MANY
def test_a_place_in_results(path):
    steps = value_or_line(query.parse, path)
    if steps:
        assert query.parse(query.written(steps)) == steps
    value_or_line(query.lookup, RESULTS, path)
    value_or_line(query.evaluate, RESULTS, path)


@given(st.lists(PATHS | st.sampled_from(["/", "-", "+", "0", "1.5"]), max_size=5).map(" ".join))
@MANY
def test_an_expression_over_results(expression):
    found = value_or_line(query.evaluate, RESULTS, expression)
    assert found is None or np.isscalar(found)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


def placed(store, key, content):
    path = store._path(key)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return store.get(key)


@given(CONTENTS)
@example(b"[" * 100_000 + b"\n")
@MANY
def test_an_entry_of_anything(store, content):
    assert placed(store, "aa11", content) is None


@given(VALUES | st.sampled_from(["<f4", "|O", "<U4", "<f4,<i4", "<M8[s]", "<f3"]), VALUES, st.binary(max_size=64))
@example("<f4", [-1], bytes(8))
@example("|O", [1], bytes(8))
@example("<f4", [2**62, 2**62, 0], b"")
@MANY
def test_an_entry_whose_checksum_is_right(store, dtype, shape, body):
    """A checksum tells damage, not intent: who sends an entry can make one for whatever it holds."""
    about = {"key": "aa11", "dtype": dtype, "shape": shape}
    try:
        about["checksum"] = _checksum(about, body)
    except UnicodeEncodeError:
        assume(False)
    found = placed(store, "aa11", json.dumps(about).encode() + b"\n" + body)
    assert found is None or (found.dtype.kind in "fiu" and found.nbytes == len(body))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("any")


@given(CONTENTS)
@example(b"[" * 100_000)
@example(b"9" * 5000)
@MANY
def test_a_results_file(folder, content):
    (folder / "V1.json").write_bytes(content)
    value_or_line(io.read_json, folder / "V1.json", "section")


@given(CONTENTS, st.binary(max_size=100))
@MANY
def test_a_model_s_folder(folder, config, weights):
    (folder / "config.json").write_bytes(config)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "training.json").write_bytes(config)
    value_or_line(header.check, folder)
    value_or_line(loading.training_record, folder)


@given(CONTENTS)
@MANY
def test_a_tokenizer_s_folder(folder, content):
    (folder / "tokenizer.json").write_bytes(content)
    value_or_line(loading.check_tokenizer, folder)


@given(CONTENTS)
@MANY
def test_a_text_file(folder, content):
    (folder / "wiki.valid.raw").write_bytes(content)
    found = value_or_line(lambda: texts.sound(texts.raw_rows(folder / "wiki.valid.raw"), "wiki.valid.raw"))
    if found:
        assert not any("\r\n" in text or "\0" in text or text.startswith("\ufeff") for text in found[0])


@given(CONTENTS)
@settings(max_examples=60, deadline=None)
def test_a_parquet_file(folder, content):
    (folder / "validation-0.parquet").write_bytes(content)
    value_or_line(texts.check_parquet, [folder / "validation-0.parquet"])


def unpacked(folder, contents):
    """A pack of these contents, whose list of files is right where it is none of them, given to `unpack`."""
    path = folder / "any.zip"
    with zipfile.ZipFile(path, "w") as out:
        for name, content in contents.items():
            out.writestr(zipfile.ZipInfo(name), content)
    return value_or_line(pack.unpack, path)


@given(CONTENTS)
@MANY
def test_a_pack_of_anything(folder, content):
    (folder / "any.zip").write_bytes(content)
    assert value_or_line(Archive, folder / "any.zip") is None


@given(VALUES | st.builds(lambda graph: {"@graph": graph}, VALUES | st.lists(VALUES, max_size=3)))
@example({"@graph": [{"@id": "x"}, {"@type": "File", "@id": [], "sha256": "", "contentSize": "9" * 5000}]})
@example({"@graph": [{"@id": "x"}, {"@type": "File", "@id": "y", "sha256": "", "contentSize": 1e999}]})
@settings(max_examples=100, deadline=None)
def test_a_pack_with_any_list(folder, metadata):
    assert unpacked(folder, {METADATA: json.dumps(metadata)}) is None


@given(CONTENTS, CONTENTS, CONTENTS, st.text(max_size=20))
@settings(max_examples=100, deadline=None)
def test_a_pack_of_any_contents(tmp_path_factory, section, manifest, scores, name):
    """Each with its right digest: what nobody but a sender with intent would make."""
    folder = tmp_path_factory.mktemp("pack")
    contents = {"manifest.json": manifest, "scores.bin": scores, "results/data/sections/V1.json": section}
    if f"results/{name}".isprintable():
        contents[f"results/{name}"] = b"x"
    files = [
        {"@type": "File", "@id": name, "sha256": sha256(content), "contentSize": str(len(content))}
        for name, content in contents.items()
    ]
    with in_place(folder / "build"):
        assert unpacked(folder, {METADATA: json.dumps({"@graph": [{"@id": METADATA}, *files]})} | contents) is None
    assert not [path for path in (folder / "build").rglob("*") if path.is_file()]


@given(
    st.binary(max_size=100)
    | st.builds(lambda head, body: json.dumps(head).encode() + b"\n" + body, VALUES, st.binary())
)
@example(b"[[3, 1]]\nx")
@example(b'[["a", 1]\nx')
@example(b"[" * 100_000)
@MANY
def test_scores_that_are_sent(content):
    with contextlib.suppress(ValueError, TypeError, RecursionError):  # which `unpack` turns into its line
        assert all(isinstance(key, str) and entry for key, entry in pack.entries(content).items())
