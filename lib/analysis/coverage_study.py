"""How often intervals from few chunks contain the value of many: measured on the whole text, and kept as dated data.

    python -m lib.analysis.coverage_study --chunks 245 --out models/measured/<date>-coverage.json

Takes a profile's model, text, quick set and ladder; ranks the heads on the quick set; then scores the baseline, the
ladder and the most harmful heads on all chunks. Windows of the quick set's size and of the default full set's are held
against the figures of all chunks, the latter by documents and, for comparison, with each chunk as a unit of its own.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from lib.analysis import head_effects, windows
from lib.engine.interventions import Plan
from lib.engine.scoring import Evaluator
from lib.files import replacing
from lib.model import corpus, loading
from lib.params import BASE_PROFILE, load_profile, resolve_for_model
from lib.results.provenance import provenance
from lib.store import open_store

TOP = 10


def study(chunks: int, profile: str = BASE_PROFILE) -> dict:
    """The record that is kept: `{kind, date, question, text, quick, full, by_chunk, provenance}`.

    Rows as of `windows`.
    """
    started = time.time()
    chosen = load_profile(profile)
    quick, full = chosen["quick_chunks"], chosen["full_chunks"]
    folder = loading.model_folder(chosen["model"])
    rows, name = corpus.load_rows(chosen["dataset"], chosen["dataset_config"], chosen["split"])
    tokenizer = loading.load_tokenizer(loading.tokenizer_folder(chosen["tokenizer"], folder))
    ids, document, unit = corpus.encode_documents(rows, tokenizer)
    tokens, documents = (corpus.chunk(x, chosen["n_ctx"], chunks, "chunks") for x in (ids, document))
    model = loading.load_model(folder, "float32", "cpu")
    key = loading.fingerprint(folder)
    evaluator = Evaluator(model, tokens, open_store(), model_key=key)
    n_layer, n_head, n_positions = loading.shape(loading.load_config(folder))
    ladder = resolve_for_model(chosen, n_layer, n_head, n_positions)["ladder"]
    heads = [(layer, head) for layer in range(n_layer) for head in range(n_head)]
    single = {mode: [Plan.of(mode, [head]) for head in heads if mode == "zero" or head[0]] for mode in ("zero", "relu")}
    few = evaluator.score([Plan(), *sum(single.values(), [])], quick, label="one head at a time, quick set")
    mean = {plan: float(nll.mean(dtype=np.float64)) for plan, nll in few.items()}
    harm = {plan: float(np.expm1(value - mean[Plan()])) for plan, value in mean.items()}
    ranking = head_effects.ranking([head for head in heads if head[0]], [harm[plan] for plan in single["relu"]])
    piles = [Plan.of("relu", [(layer, head) for layer, head in ranking[:n]]) for n in ladder]
    top = sorted(single["zero"], key=lambda plan: -harm[plan])[:TOP]
    scores = evaluator.score([*piles, *top], chunks, label="ladder and top heads, all chunks")
    base = scores[Plan()]
    figures = {"ppl": (base, None)} | {f"zero:L{p.heads[0][0]}H{p.heads[0][1]}": (scores[p], base) for p in top}
    nlls, seed, draws = [scores[plan] for plan in piles], chosen["seed"], chosen["draws"]

    def covered(n_window: int, own: np.ndarray) -> dict:
        return {
            "n_window": n_window,
            "figures": windows.coverage(figures, n_window, own, seed, draws),
            **windows.ladder_coverage(ladder, nlls, n_window, own, seed, draws),
        }

    level = base.mean(axis=1, dtype=np.float64)
    sizes = np.unique(documents, return_counts=True)[1]
    single_chunks = np.repeat(np.arange(chunks), chosen["n_ctx"]).reshape(documents.shape)
    return {
        "kind": "coverage",
        "date": time.strftime("%Y-%m-%d", time.gmtime(started)),
        "question": "how often does a window's 95 % interval contain the value of all chunks?",
        "text": {
            "name": name,
            "unit": unit,
            "n_chunks": chunks,
            "n_documents": len(sizes),
            "longest": int(sizes.max()),
            "lag1_of_log_ppl": float(np.corrcoef(level[1:], level[:-1])[0, 1]),
        },
        "quick": covered(quick, documents),
        "full": covered(full, documents),
        "by_chunk": covered(full, single_chunks),
        "provenance": provenance(
            profile,
            chosen | {"full_chunks": chunks},
            seed,
            {"name": chosen["model"], "fingerprint": key},
            {"name": name, "fingerprint": corpus.fingerprint(ids)},
            "cpu",
            evaluator.backend,
            started,
            time.time() - started,
        )
        | {"command": f"python -m lib.analysis.coverage_study --chunks {chunks}", "words": "one run over all windows"},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=245)
    parser.add_argument("--profile", default=BASE_PROFILE)
    parser.add_argument("--out", type=Path, default=Path("build/coverage/coverage.json"))
    given = parser.parse_args()
    record = study(given.chunks, given.profile)
    with replacing(given.out) as partial:
        partial.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
