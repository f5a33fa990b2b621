"""What a measurement outside of the report starts from: a profile's model on its text, with the store behind it."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from lib.engine.scoring import Evaluator
from lib.model import corpus, loading
from lib.params import load_profile, resolve_for_model
from lib.results.provenance import Start, begin, provenance
from lib.store import open_store


@dataclass(frozen=True)
class WholeText:
    """values: the profile's parameters for this model; documents int [n_chunks, n_ctx]: the document of each token."""

    profile: str
    values: dict[str, Any]
    evaluator: Evaluator
    documents: np.ndarray
    heads: list[tuple[int, int]]
    name: str
    unit: str
    fingerprints: dict[str, str]
    start: Start

    def provenance(self, command: str, words: str) -> dict[str, Any]:
        """Where a record of this text is from; `words` say how it was measured."""
        made = provenance(
            self.profile,
            self.values,
            self.values["seed"],
            {"name": self.values["model"], "fingerprint": self.fingerprints["model"]},
            {"name": self.name, "fingerprint": self.fingerprints["corpus"]},
            "cpu",
            self.evaluator.backend,
            self.start,
            time.time() - self.start.time,
        )
        return made | {"command": command, "words": words}

    @property
    def n_documents(self) -> int:
        return len(np.unique(self.documents))

    @property
    def date(self) -> str:
        return time.strftime("%Y-%m-%d", time.gmtime(self.start.time))


def opened(profile: str, chunks: int | None = None) -> WholeText:
    """The profile's model in float32 and the first `chunks` of its text, the profile's full ones by default.

    `InputError` where the text has fewer.
    """
    start = begin()
    chosen = load_profile(profile)
    chunks = chunks or chosen["full_chunks"]
    folder = loading.model_folder(chosen["model"])
    rows, name = corpus.load_rows(chosen["dataset"], chosen["dataset_config"], chosen["split"])
    tokenizer = loading.load_tokenizer(loading.tokenizer_folder(chosen["tokenizer"], folder))
    ids, document, unit = corpus.encode_documents(rows, tokenizer)
    tokens, documents = (corpus.chunk(x, chosen["n_ctx"], chunks, "chunks") for x in (ids, document))
    key = loading.fingerprint(folder)
    n_layer, n_head, n_positions = loading.shape(loading.load_config(folder))
    return WholeText(
        profile,
        chosen | {"full_chunks": chunks} | resolve_for_model(chosen, n_layer, n_head, n_positions),
        Evaluator(loading.load_model(folder, "float32", "cpu"), tokens, open_store(), model_key=key),
        documents,
        [(layer, head) for layer in range(n_layer) for head in range(n_head)],
        name,
        unit,
        {"model": key, "corpus": corpus.fingerprint(ids)},
        start,
    )
