"""Every head zeroed on the whole of the full tokens: what the default run affords on a few chunks, kept as dated data.

    python -m lib.analysis.head_study --out models/measured/<date>-heads.json

Takes a profile's model, text and full chunks. A run that was stopped goes on from the store.
"""

import argparse
from pathlib import Path
from typing import Any

from lib.analysis import head_effects
from lib.analysis.bootstrap import Resampler
from lib.analysis.perplexity import ppl
from lib.analysis.whole_text import opened
from lib.engine.interventions import Plan
from lib.params import BASE_PROFILE
from lib.results import dated


def study(profile: str = BASE_PROFILE, chunks: int | None = None) -> dict[str, Any]:
    """The record that is kept: `{kind, date, question, text, rows, provenance}`.

    rows: `[{layer, head, delta, delta_ci, rank, rank_ci, delta_2k, rank_2k}]`, the most harmful head first; ΔPPL as a
    share of the baseline's PPL, on all chunks and on the quick set; rank 1 is the largest, its interval over documents.
    """
    text = opened(profile, chunks)
    n_chunks, n_ctx = text.documents.shape
    quick = text.values["quick_chunks"]
    plans = [Plan.of("zero", [head]) for head in text.heads]
    scores = text.evaluator.score([Plan(), *plans], n_chunks, label="every head zeroed")
    base, zeroed = scores[Plan()], [scores[plan] for plan in plans]
    resampler = Resampler(n_chunks, n_ctx, text.values["seed"], text.values["draws"], text.documents)
    rows = head_effects.head_rows(text.heads, zeroed, base, resampler)
    ranks_ci = head_effects.ranks_ci(resampler.relatives(zeroed, base))
    few = [ppl(nll[:quick]) / ppl(base[:quick]) - 1 for nll in zeroed]
    found = [
        {
            **{key: row[key] for key in ("layer", "head", "delta", "delta_ci")},
            "rank": rank,
            "rank_ci": rank_ci,
            "delta_2k": delta_2k,
            "rank_2k": rank_2k,
        }
        for row, rank, rank_ci, delta_2k, rank_2k in zip(
            rows, head_effects.ranks(head_effects.deltas(rows)), ranks_ci, few, head_effects.ranks(few), strict=True
        )
    ]
    return {
        "kind": "heads",
        "date": text.date,
        "question": "which heads are most harmful to zero on the full tokens, all of them measured there?",
        "text": {"name": text.name, "unit": text.unit, "n_chunks": n_chunks, "n_documents": text.n_documents},
        "rows": sorted(found, key=lambda row: row["rank"]),
        "provenance": text.provenance("python -m lib.analysis.head_study", "one run, every head on every chunk"),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, help="the profile's full ones where not given")
    parser.add_argument("--profile", default=BASE_PROFILE)
    parser.add_argument("--out", type=Path, default=Path("build/heads/heads.json"))
    given = parser.parse_args()
    dated.write(given.out, study(given.profile, given.chunks))
