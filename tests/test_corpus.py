import hashlib

import numpy as np
import pytest
from conftest import DATA, EMBEDDED, wikitext
from datasets import Dataset

from lib.errors import InputError
from lib.model import corpus, loading

RAW = " \n = Valkyria = \n \n Senjō no Valkyria 3 :\tUnrecorded \n\n , commonly . \u2028 still this line \n"
ROWS = [
    "",
    " = Valkyria = \n",
    "",
    " Senjō no Valkyria 3 :\tUnrecorded \n",
    "",
    " , commonly . \u2028 still this line \n",
]


class Characters:
    """A tokenizer whose ids are code points."""

    model_max_length = 8

    def __call__(self, text, add_special_tokens, return_offsets_mapping=False):
        assert not add_special_tokens
        found = {"input_ids": [ord(c) for c in text]}
        return found | {"offset_mapping": [(i, i + 1) for i in range(len(text))]} if return_offsets_mapping else found


def test_rows_are_rebuilt_from_a_raw_file(tmp_path):
    rows, name = corpus.load_rows(str(wikitext(tmp_path / "wiki", RAW)), "", "validation")
    assert rows["text"] == ROWS
    assert name == str(tmp_path / "wiki")


def test_the_raw_file_may_lie_in_the_configuration_s_folder(tmp_path):
    wikitext(tmp_path / "wiki" / "wikitext-2-raw-v1", RAW)
    rows, _ = corpus.load_rows(str(tmp_path / "wiki"), "wikitext-2-raw-v1", "validation")
    assert rows["text"] == ROWS


@pytest.mark.parametrize("config", ["", "wikitext-2-raw-v1"])
def test_the_hub_s_parquet_files(tmp_path, config):
    folder = tmp_path / config
    folder.mkdir(exist_ok=True)
    for i, part in enumerate((ROWS[:4], ROWS[4:])):
        Dataset.from_dict({"text": part}).to_parquet(folder / f"validation-{i:05}-of-00002.parquet")
    Dataset.from_dict({"text": ["other"]}).to_parquet(folder / "test-00000-of-00001.parquet")
    rows, _ = corpus.load_rows(str(tmp_path), config, "validation")
    assert rows["text"] == ROWS


def test_raw_and_parquet_give_the_same_tokens(tmp_path):
    raw = wikitext(tmp_path / "raw", RAW)
    Dataset.from_dict({"text": ROWS}).to_parquet(tmp_path / "validation-00000-of-00001.parquet")
    ids = [
        corpus.encode(corpus.load_rows(str(folder), "", "validation")[0], Characters()) for folder in (raw, tmp_path)
    ]
    assert ids[0].tolist() == ids[1].tolist()


def test_rows_are_joined_by_a_blank_line_and_encoded_once():
    ids = corpus.encode(Dataset.from_dict({"text": ["", " a \n", "", "b"]}), Characters())
    assert "".join(map(chr, ids)) == "\n\n a \n\n\n\n\nb"
    assert ids.dtype == np.int32


def test_no_special_token_is_added(tokenizer):
    ids = corpus.encode(Dataset.from_dict({"text": ["def f():", "pass"]}), tokenizer)
    assert tokenizer.decode(ids) == "def f():\n\npass"
    assert tokenizer.eos_token_id not in ids


def documents_of(texts, **columns):
    ids, documents, unit = corpus.encode_documents(Dataset.from_dict({"text": texts} | columns), Characters())
    return "".join(map(chr, ids)), documents.tolist(), unit


def test_a_module_is_a_document_and_the_line_after_it_its_own():
    assert documents_of(["ab", "c"], name=["x", "y"]) == ("ab\n\nc", [0, 0, 0, 0, 1], "module")


def test_an_article_begins_with_its_title_and_no_deeper_heading():
    texts = ["", " = A = \n", " x \n", " = = B = = \n", "", " = C = \n", "y"]
    whole, documents, unit = documents_of(texts)
    assert unit == "article"
    first = whole.index(" = C = ")
    assert documents == [0] * first + [1] * (len(whole) - first)


def test_a_row_is_a_document_where_there_are_no_titles():
    assert documents_of(["ab", "= no title =", ""])[1:] == ([0] * 4 + [1] * 14, "row")


def test_documents_of_real_tokens(tokenizer):
    rows = Dataset.from_dict({"name": ["a", "b"], "text": ["def f():\n    pass", "import os\n"]})
    ids, documents, _ = corpus.encode_documents(rows, tokenizer)
    assert ids.tolist() == corpus.encode(rows, tokenizer).tolist()
    assert tokenizer.decode(ids[documents == 0]).strip() == "def f():\n    pass"
    assert tokenizer.decode(ids[documents == 1]).strip() == "import os"


def test_chunks_do_not_overlap_and_the_remainder_is_dropped():
    ids = np.arange(11, dtype=np.int32)
    assert corpus.chunk(ids, 4, 2).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert corpus.chunk(ids, 4, 1).tolist() == [[0, 1, 2, 3]]
    assert corpus.chunk(ids, 11, 1).tolist() == [list(range(11))]
    assert corpus.chunk(ids, 4, 2).dtype == np.int32


def test_a_corpus_too_short():
    with pytest.raises(InputError) as error:
        corpus.chunk(np.arange(11), 4, 3)
    assert str(error.value) == "full_chunks: given 3, allowed: at most 2, the whole chunks of 4 tokens in 11"
    with pytest.raises(InputError, match="given 1, allowed: at most 0"):
        corpus.chunk(np.arange(11), 12, 1)


def test_chunks_are_cut_anew_from_the_same_stream():
    chunks = np.arange(12).reshape(2, 6)
    assert corpus.rechunk(chunks, 4, 12).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert corpus.rechunk(chunks, 4, 11).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert corpus.rechunk(chunks, 5, 12).tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


def test_a_fingerprint_is_of_the_ids():
    ids = np.array([1, 2, 300], dtype=np.int64)
    expected = hashlib.sha256(bytes.fromhex("01000000020000002c010000")).hexdigest()
    assert corpus.fingerprint(ids) == corpus.fingerprint(ids.astype(np.int32)) == expected


def refused(*args):
    with pytest.raises(InputError) as error:
        corpus.load_rows(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_folders_that_hold_no_such_corpus(tmp_path):
    message = refused(str(tmp_path), "", "validation")
    assert "dataset: " in message
    assert "neither wiki.valid.raw nor validation-*.parquet" in message
    wikitext(tmp_path / "wiki", RAW)
    assert "neither wiki.test.raw" in refused(str(tmp_path / "wiki"), "", "test")
    Dataset.from_dict({"sentence": ["a"]}).to_parquet(tmp_path / "validation-00000-of-00001.parquet")
    assert "the columns ['sentence'], allowed: one called text" in refused(str(tmp_path), "", "validation")


def test_a_dataset_that_is_neither_folder_nor_within_reach(tmp_path):
    assert f"{str(tmp_path / 'no')!r}, which is no folder here; pass a local folder: -p dataset DIR" in refused(
        str(tmp_path / "no"), "", "validation"
    )
    message = refused("Salesforce/wikitext@0123", "wikitext-2-raw-v1", "validation")
    assert message.startswith("dataset: 'Salesforce/wikitext' can't be had from the hub (")
    assert message.endswith("pass a local folder: -p dataset DIR")


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "validation-00000-of-00001.parquet"
    path.write_bytes(b"PAR1 and then nothing")
    assert f"dataset: {path} can't be read" in refused(str(tmp_path), "", "validation")
    (tmp_path / "wiki.valid.raw").write_bytes(b"\xff\xfe\x00")
    message = refused(str(tmp_path), "", "validation")
    assert f"dataset: {tmp_path / 'wiki.valid.raw'} is no UTF-8 text" in message


def test_modules_keep_their_split():
    for name in ("argparse", "json.decoder", "asyncio.base_events", "typing", "heapq", "calendar", "http.client"):
        first = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        assert corpus.split_of(name) == ("heldout" if first / 2**32 < 0.125 else "train")
    assert corpus.split_of("tkinter.ttk") == corpus.split_of("encodings.cp037") == "train"


def test_the_library_is_parted_without_overlap_and_always_alike():
    parts = {split: corpus.stdlib_sources(split) for split in ("train", "heldout")}
    names = {split: [name for name, _ in rows] for split, rows in parts.items()}
    assert not set(names["train"]) & set(names["heldout"])
    assert {"argparse", "typing", "json", "asyncio.base_events"} <= {*names["train"], *names["heldout"]}
    for split, rows in parts.items():
        assert names[split] == sorted(names[split], key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        assert all(corpus.split_of(name) == split for name in names[split])
        assert not any(word in name.split(".") for name in names[split] for word in ("test", "tests", "site-packages"))
        assert corpus.stdlib_sources(split) == rows
    with pytest.raises(InputError, match="split: given 'validation', allowed for cpython-stdlib: train, heldout"):
        corpus.load_rows("cpython-stdlib", "", "validation")


@pytest.mark.skipif(not EMBEDDED.is_dir(), reason="models/embedded, whose tokenizer this needs, is not there")
def test_the_held_out_library_is_long_enough_for_the_specification_s_245_chunks():
    rows, name = corpus.load_rows("cpython-stdlib", "", "heldout")
    assert name.startswith("cpython-stdlib 3.")
    ids = corpus.encode(rows, loading.load_tokenizer(EMBEDDED))
    assert len(corpus.chunk(ids, 1024, 245)) == 245
    assert ids.min() >= 0
    assert ids.max() < 4096


@pytest.mark.skipif(not DATA.is_dir(), reason="the WikiText-2 split and GPT-2's tokenizer are not beside the project")
def test_wikitext_2_gives_the_published_number_of_tokens():
    tokenizer = loading.load_tokenizer(DATA / "gpt2-tokenizer")
    rows, _ = corpus.load_rows(str(DATA / "wikitext-2-raw-v1"), "wikitext-2-raw-v1", "validation")
    assert len(rows) == 3760
    assert rows["text"][:3] == ["", " = Homarus gammarus = \n", ""]
    ids = corpus.encode(rows, tokenizer)
    assert len(ids) == 251_048
    tokens = corpus.chunk(ids, 1024, 245)
    assert tokens.size == 250_880
    assert tokenizer.decode(tokens[0, :12]).startswith("\n\n = Homarus gammarus = \n")
    documents, unit = corpus.encode_documents(rows, tokenizer)[1:]
    assert unit == "article" and len(set(documents.tolist())) == 60
    second = int(np.argmax(documents == 1))
    assert tokenizer.decode(ids[second : second + 8]).strip().startswith("= Frank Headlam =")
    with pytest.raises(InputError, match="at most 245"):
        corpus.chunk(ids, 1024, 246)


def test_texts_are_made_sound_or_refused(tmp_path):
    path = tmp_path / "wiki.valid.raw"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n\r\nthree\n")
    rows, _, normalised = corpus.read_rows(str(tmp_path), "", "validation")
    assert rows["text"][:] == ["one\n", "two\n", "", "three\n"]
    assert normalised == {"bom": 1, "crlf": 2}
    path.write_bytes(b"one\ntwo\0\n")
    assert "row 1 holds a NUL byte" in refused(str(tmp_path), "", "validation")
    path.write_bytes(b"")
    assert "has no rows, allowed: one or more" in refused(str(tmp_path), "", "validation")


@pytest.mark.parametrize(
    ("rows", "said"),
    [(["a", None], "has null for a text"), ([], "a column text of type null"), ([1], "a column text of type int64")],
)
def test_rows_that_are_no_texts(tmp_path, rows, said):
    Dataset.from_dict({"text": rows}).to_parquet(tmp_path / "validation-0.parquet")
    assert said in refused(str(tmp_path), "", "validation")
