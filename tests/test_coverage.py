"""Do 95 % intervals contain the truth 95 times in 100 on text whose neighbouring chunks are alike?

Drawn text: documents of a few chunks each, whose chunks share a level, so that the means of neighbouring chunks
correlate by about 0.6, as the embedded corpus' do. A share of 400 texts has a binomial spread of about 0.011 at 0.95:
the band allows three of it below, and above what the small-sample corrections add.
"""

import numpy as np
import pytest

from lib.analysis.bootstrap import Resampler, Units

N_CTX, TEXTS, DRAWS, TRUTH = 32, 400, 400, 3.0
LOW, HIGH = 0.95 - 3 * 0.011, 0.995


def one_text(rng, n_documents, sizes):
    """`(nll, documents)`: per-token scores that share a document's level and a chunk's own."""
    lengths = sizes(rng, n_documents)
    n_chunks = int(lengths.sum()) // N_CTX
    documents = np.repeat(np.arange(n_documents), lengths)[: n_chunks * N_CTX].reshape(n_chunks, N_CTX)
    level = rng.normal(0, np.sqrt(0.75), n_documents)[documents] + rng.normal(0, 0.5, (n_chunks, 1))
    return (TRUTH + level + rng.normal(0, 1, documents.shape))[:, 1:], documents


def alike(rng, n):
    return np.full(n, 5 * N_CTX)


def unlike(rng, n):
    """A few long documents and many short ones: log-normal sizes, the effective number about half of n."""
    return np.maximum(8, rng.lognormal(0, 0.9, n) * 4 * N_CTX).astype(int)


def coverage(n_documents, sizes, units=lambda documents: None):
    rng = np.random.default_rng([n_documents, sizes is alike])
    hits, lags = 0, []
    for _ in range(TEXTS):
        nll, documents = one_text(rng, n_documents, sizes)
        own = units(documents)
        resampler = Resampler(*documents.shape, 1, DRAWS, documents if own is None else None, own)
        low, high = np.quantile(np.log(resampler.ppl(nll)), [0.025, 0.975])
        hits += low <= TRUTH <= high
        means = nll.mean(axis=1)
        lags.append(np.corrcoef(means[1:], means[:-1])[0, 1])
    return hits / TEXTS, float(np.mean(lags))


@pytest.mark.parametrize("sizes", [alike, unlike])
@pytest.mark.parametrize("n_documents", [15, 25, 60])
def test_documents_as_units_cover_as_often_as_they_say(n_documents, sizes):
    share, lag = coverage(n_documents, sizes)
    assert 0.4 < lag < 0.75
    assert LOW <= share <= HIGH


@pytest.mark.parametrize("n_documents", [15, 60])
def test_chunks_as_units_would_not(n_documents):
    """Why the document is the unit: the same intervals with every chunk as a unit of its own."""

    def chunks(documents):
        return Units("document", np.arange(documents.size) // N_CTX)

    assert coverage(n_documents, alike, chunks)[0] < 0.8


def test_blocks_of_chunks_where_no_documents_are_known():
    """An autoregressive text: moving blocks come near what they say, single chunks do not."""
    rng = np.random.default_rng(3)
    n_chunks, hits = 64, {"blocks": 0, "chunks": 0}
    units = {
        "blocks": Units.choose(n_chunks, N_CTX),
        "chunks": Units("document", np.arange(n_chunks * N_CTX) // N_CTX),
    }
    for _ in range(TEXTS):
        level = np.empty(n_chunks)
        level[0] = rng.normal()
        for i in range(1, n_chunks):
            level[i] = 0.6 * level[i - 1] + 0.8 * rng.normal()
        nll = TRUTH + level[:, None] + rng.normal(0, 1, (n_chunks, N_CTX - 1))
        for name, unit in units.items():
            low, high = np.quantile(np.log(Resampler(n_chunks, N_CTX, 1, DRAWS, units=unit).ppl(nll)), [0.025, 0.975])
            hits[name] += low <= TRUTH <= high
    assert units["blocks"].kind == "chunks"
    assert hits["blocks"] / TEXTS >= LOW - 0.02 and hits["chunks"] / TEXTS < 0.8
