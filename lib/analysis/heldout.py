"""What makes a trained model worth ablating: held-out PPL beside a bigram model's, and the harm of losing heads."""

from collections import Counter
from typing import Any

import numpy as np

from lib.analysis import perplexity
from lib.engine.interventions import Plan
from lib.engine.scoring import Evaluator
from lib.store import Store


def bigram_ppl(train_ids: np.ndarray, chunks: np.ndarray, vocab_size: int) -> float:
    """Perplexity of a bigram model with absolute discounting, backed off to add-one unigrams, on `chunks` [n, T].

    The discount is 0.75 (Ney, Essen and Kneser 1994). Predicts what the neural model predicts: T - 1 of each chunk.
    """
    discount = 0.75
    train_ids = np.asarray(train_ids, dtype=np.int64)
    unigram = np.bincount(train_ids, minlength=vocab_size) + 1.0
    unigram /= unigram.sum()
    pairs = Counter((train_ids[:-1] * vocab_size + train_ids[1:]).tolist())
    context_count, followers = np.zeros(vocab_size), np.zeros(vocab_size)
    for pair, count in pairs.items():
        context_count[pair // vocab_size] += count
        followers[pair // vocab_size] += 1
    first, second = np.asarray(chunks)[:, :-1].ravel(), np.asarray(chunks)[:, 1:].ravel()
    seen = np.array([pairs.get(p, 0) for p in (first.astype(np.int64) * vocab_size + second).tolist()])
    total = np.maximum(context_count[first], 1)
    backoff = np.where(context_count[first] > 0, discount * followers[first] / total, 1.0)
    probability = np.maximum(seen - discount, 0) / total + backoff * unigram[second]
    return float(np.exp(-np.log(probability).mean()))


def heldout_facts(model: Any, ids: np.ndarray, chunks: np.ndarray, store: Store, model_key: str) -> dict[str, Any]:
    """What makes the model worth ablating: held-out PPL beside the bigram model's, and the harm of losing heads.

    ids: training ids; chunks: held-out `[n, n_ctx]`, the first two of which are ablated, as in the report's 2K column.
    """
    shape = model.config
    evaluator = Evaluator(model, chunks, store, model_key=model_key)
    places = [(layer, head) for layer in range(shape.n_layer) for head in range(shape.n_head)]
    single = {place: Plan.of("zero", [place]) for place in places}
    layers = {at: Plan.of("zero", [p for p in places if p[0] == at]) for at in range(shape.n_layer)}
    few = evaluator.score([Plan(), *single.values(), *layers.values()], 2, label="heads and layers zeroed")
    harm: dict[int | tuple[int, int], float] = {
        what: perplexity.ppl(few[plan]) / perplexity.ppl(few[Plan()]) - 1 for what, plan in (single | layers).items()
    }
    head, layer = max(single, key=harm.__getitem__), max(layers, key=harm.__getitem__)
    return {
        "chunks": len(chunks),
        "ppl": perplexity.ppl(evaluator.score([Plan()], len(chunks), label="held-out text")[Plan()]),
        "bigram_ppl": bigram_ppl(ids, chunks, shape.vocab_size),
        "worst_head": f"L{head[0]}H{head[1]}",
        "worst_head_delta": harm[head],
        "worst_layer": layer,
        "worst_layer_delta": harm[layer],
    }
