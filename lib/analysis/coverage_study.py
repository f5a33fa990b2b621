"""How often intervals from few chunks contain the value of many: measured on the whole text, and kept as dated data.

    python -m lib.analysis.coverage_study --chunks 245 --out models/measured/<date>-coverage.json

Takes a profile's model, text, quick set and ladder; ranks the heads on the quick set; then scores the baseline, the
ladder and the most harmful heads on all chunks. Windows of the quick set's size and of the default full set's are held
against the figures of all chunks, the latter by documents and, for comparison, with each chunk as a unit of its own.
"""

import argparse
from pathlib import Path

import numpy as np

from lib.analysis import head_effects, windows
from lib.analysis.whole_text import opened
from lib.engine.interventions import Plan
from lib.params import BASE_PROFILE, load_profile
from lib.results import dated

TOP = 10


def study(chunks: int, profile: str = BASE_PROFILE) -> dict:
    """The record that is kept: `{kind, date, question, text, quick, full, by_chunk, provenance}`.

    Rows as of `windows`.
    """
    text = opened(profile, chunks)
    chosen, evaluator, documents, heads = text.values, text.evaluator, text.documents, text.heads
    quick, full, ladder = chosen["quick_chunks"], load_profile(profile)["full_chunks"], chosen["ladder"]
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
        "date": text.date,
        "question": "how often does a window's 95 % interval contain the value of all chunks?",
        "text": {
            "name": text.name,
            "unit": text.unit,
            "n_chunks": chunks,
            "n_documents": text.n_documents,
            "longest": int(sizes.max()),
            "lag1_of_log_ppl": float(np.corrcoef(level[1:], level[:-1])[0, 1]),
        },
        "quick": covered(quick, documents),
        "full": covered(full, documents),
        "by_chunk": covered(full, single_chunks),
        "provenance": text.provenance(
            f"python -m lib.analysis.coverage_study --chunks {chunks}", "one run over all windows"
        ),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=245)
    parser.add_argument("--profile", default=BASE_PROFILE)
    parser.add_argument("--out", type=Path, default=Path("build/coverage/coverage.json"))
    given = parser.parse_args()
    dated.write(given.out, study(given.chunks, given.profile))
