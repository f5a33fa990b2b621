"""R3's family: GPT-2s of several depths and widths by one recipe, each climbed in its own ranking.

    python -m lib.training.family --out models/measured/DATE-scale.json

Every member sees the same windows in the same order as the others of its seed. The weights are not kept, the recipe,
the seeds and what was measured are. Interrupted, the same command goes on from the last checkpoint, with the same bits.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib.analysis import head_effects
from lib.analysis import scale as scale_figures
from lib.analysis.bootstrap import Resampler, interval
from lib.analysis.perplexity import ppl
from lib.engine.interventions import Plan
from lib.engine.scoring import Evaluator
from lib.errors import STOPPED, InputError
from lib.layout import ROOT, build_root
from lib.model import corpus, loading
from lib.results import dated
from lib.store import Store, digest, open_store
from lib.training import pretraining

D_HEAD = 12
TOKENIZER = ROOT / "models" / "embedded"


@dataclass(frozen=True)
class Member:
    """A model of the family: `n_layer` × `n_head` heads of `D_HEAD` dimensions."""

    n_layer: int
    n_head: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.n_layer}x{self.n_head}-seed{self.seed}"


@dataclass(frozen=True)
class Scale:
    """What decides the figures: sizes `((n_layer, n_head), number of seeds)`, tokens, and text.

    The text is the standard library's training split, with the sources of these installed `packages`.
    """

    sizes: tuple = (((3, 3), 3), ((4, 4), 3), ((6, 6), 1), ((10, 10), 1))
    tokens: int = 262_144
    context: int = 256
    batch_tokens: int = 1024
    other_lr: float = 1e-2
    quick_chunks: int = 4
    full_chunks: int = 32
    rungs: int = 12
    packages: tuple = ()

    def members(self) -> list[Member]:
        """All members, the first seed of every size before the second of any."""
        most = max(n_seeds for _, n_seeds in self.sizes)
        return [
            Member(n_layer, n_head, seed)
            for seed in range(1, most + 1)
            for (n_layer, n_head), n_seeds in self.sizes
            if seed <= n_seeds
        ]

    def recipe(self, member: Member) -> pretraining.Recipe:
        return pretraining.Recipe(
            stages=(pretraining.Stage(self.context, self.tokens),),
            batch_tokens=self.batch_tokens,
            other_lr=self.other_lr,
            seed=member.seed,
            shape={
                "n_embd": D_HEAD * member.n_head,
                "n_layer": member.n_layer,
                "n_head": member.n_head,
                "n_positions": self.context,
            },
        )


# On a GPU: up to 100 M parameters on more text than these could learn by heart.
WHOLE = Scale(
    sizes=(((3, 3), 3), ((4, 4), 3), ((6, 6), 3), ((10, 10), 3), ((12, 24), 3), ((14, 64), 1)),
    tokens=104_857_600,
    packages=("numpy", "scipy", "torch", "transformers"),
    batch_tokens=16_384,
    other_lr=3e-3,
)


def measure(
    model: Any, tokens: np.ndarray, scale: Scale, store: Store, model_key: str, seed: int = 0
) -> dict[str, Any]:
    """Figures of one model on held-out `tokens` [n_chunks, n_ctx].

    The ranking comes from the first `quick_chunks`, the ladder from the chunks after them, so that no head was chosen
    on what it is climbed on; the figures are those of `lib.analysis.scale.row`.
    """
    shape = model.config
    quick = scale.quick_chunks
    evaluator = Evaluator(model, tokens, store, model_key=model_key)
    heads = [(layer, head) for layer in range(shape.n_layer) for head in range(shape.n_head)]
    rankable = [place for place in heads if place[0] > 0]
    zeroed = {place: Plan.of("zero", [place]) for place in heads}
    single = {place: Plan.of("relu", [place]) for place in rankable}
    few = evaluator.score([Plan(), *zeroed.values(), *single.values()], quick, label="one head at a time")
    harm = {place: ppl(few[plan]) / ppl(few[Plan()]) - 1 for place, plan in zeroed.items()}
    cost = [ppl(few[plan]) / ppl(few[Plan()]) - 1 for plan in single.values()]
    ranking = [(layer, head) for layer, head in head_effects.ranking(rankable, cost)]
    ns = rungs(len(ranking), scale.rungs)
    piles = {n: Plan.of("relu", ranking[:n]) for n in ns}
    scores = evaluator.score(list(piles.values()), len(tokens), label="ReLU ladder")
    nlls = [scores[plan][quick:] for plan in piles.values()]
    rows, draws = head_effects.ladder(ns, nlls, Resampler.of(nlls[0], seed))
    zero_rows = [{"layer": layer, "delta": delta} for (layer, _), delta in harm.items()]
    row = scale_figures.row("", 0, rows, zero_rows, len(ranking))
    drawn = [scale_figures.shares(ns, own, len(ranking)) for own in draws.T]
    return {key: value for key, value in row.items() if key not in ("name", "n_params")} | {
        "n_heads": len(heads),
        "n_rankable": len(ranking),
        "ppl": rows[0]["ppl"],
        "shares_ci": {name: interval(np.array([own[name] for own in drawn])) for name in row["shares"]},
        "alpha_relu": head_effects.rank_law(cost)["alpha"],
        "ranking": [list(place) for place in ranking],
        "ladder": [{key: row[key] for key in ("n", "ppl", "ratio", "ratio_ci")} for row in rows],
    }


def rungs(n: int, most: int) -> list[int]:
    """Numbers of heads from 0 to `n` at even distances, `most` steps at most."""
    return sorted({round(share * n) for share in np.linspace(0, 1, min(n, most) + 1)})


def parameters(model: Any) -> dict[str, int]:
    """`{n_params, n_params_blocks}`: all, tied ones once, and those of the blocks alone."""
    return {
        "n_params": sum(p.numel() for p in model.parameters()),
        "n_params_blocks": sum(p.numel() for p in model.transformer.h.parameters()),
    }


def run(
    scale: Scale, folder: Path, out: Path, words: str = "", report: Callable = print, device: str = "cpu"
) -> dict[str, Any]:
    """Trains and measures every member that `out` does not have yet; `out` is whole after each of them."""
    head = dated.new("scale", "make scale", words)
    tokenizer = loading.load_tokenizer(TOKENIZER)
    ids = {split: corpus.encode(corpus.stdlib_dataset(split), tokenizer) for split in ("train", "heldout")}
    more = [corpus.encode(corpus.package_dataset(name), tokenizer) for name in scale.packages]
    ids["train"] = np.concatenate([ids["train"], *more])
    tokens = corpus.spread(ids["heldout"], scale.context, scale.quick_chunks + scale.full_chunks)
    text = {"name": corpus.STDLIB, "train_tokens": len(ids["train"])}
    text |= {f"{split}_fingerprint": corpus.fingerprint(own) for split, own in ids.items()}
    record = dated.resume(out, head | {"recipe": asdict(scale), "text": text, "members": []}, "recipe")
    done = {member["name"] for member in record["members"]}
    for member in scale.members():
        if member.name in done:
            continue
        recipe = scale.recipe(member)
        key = f"{json.dumps(asdict(recipe), sort_keys=True)} on {record['text']['train_fingerprint']}"
        place = folder / f"{member.name}-{digest(key)[:12]}"  # nothing goes on from another recipe's checkpoint
        model, curve = pretraining.train(
            recipe, ids["train"], len(tokenizer), place, report=partial(report, member.name), device=device
        )
        row = asdict(member) | {"name": member.name, "n_embd": model.config.n_embd} | parameters(model)
        row |= {"loss": curve[-1][1]} | measure(model, tokens, scale, open_store(), key)
        record["members"].append(row)
        dated.write(out, record)
        report(member.name, "measured", {k: row[k] for k in ("ppl", "shares", "layer_0_share", "ratio_all")})
    return record


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.training.family", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=build_root() / "scale" / "scale.json")
    parser.add_argument("--folder", type=Path, default=build_root() / "scale", help="checkpoints")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scale = WHOLE if device == "cuda" else Scale()
    parser.add_argument("--tokens", type=int, default=scale.tokens, help="tokens that every member is trained on")
    parser.add_argument("--provenance", default="", help="who measures, and on what: kept with the figures")
    args = parser.parse_args(words)
    try:
        scale, report = replace(scale, tokens=args.tokens), partial(print, flush=True)
        run(scale, args.folder, args.out, args.provenance, report, device)
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(STOPPED)


if __name__ == "__main__":
    main()
