"""What several test modules share: a place to build in, a corpus, and saved models with their tokenizer."""

import argparse
import inspect
import os
import sys
import tempfile
from pathlib import Path

import pytest

# Read where transformers and datasets are imported, so these imports come later: no test reaches for the network.
CACHE = tempfile.TemporaryDirectory()
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": CACHE.name}
# Where several files are tested at once, a thread that waits for another leaves its core to others.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
# `make test` hands its own settings on, which would change what a `make` run by a test prints.
for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
    os.environ.pop(name, None)

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
EMBEDDED = ROOT / "models" / "embedded"
N_VOCAB, N_POSITIONS = 320, 128
SHAPES = {
    "gpt2": {"n_layer": 3, "n_head": 4, "n_embd": 32, "n_positions": N_POSITIONS},
    "llama": {"n_layer": 2, "max_position_embeddings": N_POSITIONS},
}


def wikitext(folder, text):
    """A dataset folder: `wiki.valid.raw` with the lines of `text`."""
    folder.mkdir(parents=True)
    (folder / "wiki.valid.raw").write_text(text, encoding="utf-8", newline="\n")
    return folder


@pytest.fixture(scope="session")
def text():
    """Real text, a hundred kilobytes of it, that every machine has: the source of one module."""
    return inspect.getsource(argparse)


@pytest.fixture(scope="session")
def tokenizer(text):
    """A byte-level BPE of `N_VOCAB` entries."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2TokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([text], vocab_size=N_VOCAB, special_tokens=["<|endoftext|>"], show_progress=False)
    return GPT2TokenizerFast(tokenizer_object=bpe._tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>")


@pytest.fixture(scope="session")
def dataset(tmp_path_factory, text):
    """A dataset folder of that text."""
    return wikitext(tmp_path_factory.mktemp("data") / "wiki", text)


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory, tokenizer):
    """`{family: folder}`: random weights as `save_pretrained` leaves them, each beside the tokenizer."""
    import tiny_models

    folders = {}
    for family, shape in SHAPES.items():
        folders[family] = tmp_path_factory.mktemp("models") / f"tiny-{family}"
        tiny_models.MAKERS[family](vocab_size=N_VOCAB, **shape).save_pretrained(folders[family])
        tokenizer.save_pretrained(folders[family])
    return folders


@pytest.fixture
def build(tmp_path, monkeypatch):
    """An empty build folder, which everything run in this process or below it uses."""
    monkeypatch.setenv("EXPERIMENT10_BUILD", str(tmp_path / "build"))
    for name in ("PYTHONHASHSEED", "EXPERIMENT10_PIPELINE", "EXPERIMENT10_TERMINAL"):
        monkeypatch.setenv(name, "0")
    return tmp_path / "build"


def pipeline(*words):
    """The command line of the pipeline, with this interpreter."""
    return [sys.executable, "-m", "lib.pipeline", *map(str, words)]
