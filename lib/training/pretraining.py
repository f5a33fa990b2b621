"""Training of the embedded model: a byte-level BPE and a small GPT-2 on CPython's own library.

Checkpoints are safetensors, so that an interrupted training goes on where it stopped.
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast  # type: ignore[attr-defined]  # of its making

END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class Stage:
    """Train on `tokens` tokens in windows of `context` positions."""

    context: int
    tokens: int


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the trained weights, apart from the text."""

    stages: tuple[Stage, ...] = (Stage(128, 6_000_000), Stage(256, 1_200_000), Stage(1024, 800_000))
    batch_tokens: int = 4096
    matrix_lr: float = 0.02
    other_lr: float = 3e-3
    decay_share: float = 0.4
    warmup_steps: int = 40
    seed: int = 10
    shape: dict = field(default_factory=lambda: {"n_embd": 144, "n_layer": 12, "n_head": 12, "n_positions": 1024})

    @property
    def total_tokens(self) -> int:
        return sum(stage.tokens for stage in self.stages)


def train_tokenizer(texts: Iterable[str], vocab_size: int = 4096) -> Any:
    """A GPT-2 tokenizer with a byte-level BPE of `vocab_size` entries, trained on `texts`."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=vocab_size, special_tokens=[END_OF_TEXT], show_progress=False)
    return GPT2TokenizerFast(
        tokenizer_object=bpe._tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
    )


def new_model(recipe: Recipe, vocab_size: int) -> GPT2LMHeadModel:
    torch.manual_seed(recipe.seed)
    config = GPT2Config(
        vocab_size=vocab_size,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        **recipe.shape,
    )
    return GPT2LMHeadModel(config)


def optimizers(model: Any, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for embeddings, biases and layer norms."""
    matrices = [p for n, p in model.transformer.h.named_parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [muon(matrices, recipe.matrix_lr), adam(others, recipe.other_lr)]


def muon(matrices: Iterable[torch.nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.Muon(matrices, lr=lr, weight_decay=0.01, momentum=0.95, ns_steps=5)


def adam(parameters: Iterable[torch.nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.95), weight_decay=0.0)


def lr_factor(seen: int, total: int, batch: int, recipe: Recipe) -> float:
    """What the rates are multiplied by when `seen` of `total` have been seen, `batch` of them at a step."""
    warmup = min(1.0, (seen / batch + 1) / recipe.warmup_steps)
    return warmup * min(1.0, (1 - seen / total) / recipe.decay_share)


def loss_of(model: Any, windows: torch.Tensor, positions: Any) -> torch.Tensor:
    """Mean next-token loss of `windows` [B, T + 1] at `positions` [B, T], logits in bfloat16."""
    with torch.autocast(windows.device.type, dtype=torch.bfloat16):
        hidden = model.transformer(windows[:, :-1], position_ids=positions, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden).flatten(0, 1)
    return F.cross_entropy(logits, windows[:, 1:].flatten())


def save_checkpoint(folder: Path, model: Any, opts: Sequence[torch.optim.Optimizer], seen: int, curve: list) -> None:
    tensors = {f"model.{n}": t.clone() for n, t in model.state_dict().items() if n != "lm_head.weight"}
    for i, opt in enumerate(opts):
        for j, state in opt.state_dict()["state"].items():
            tensors |= {f"opt.{i}.{j}.{k}": torch.as_tensor(v).clone() for k, v in state.items()}
    partial = folder / "checkpoint.partial"
    save_file(tensors, partial, metadata={"seen": str(seen), "curve": json.dumps(curve)})
    partial.replace(folder / "checkpoint.safetensors")


def load_checkpoint(
    folder: Path, model: GPT2LMHeadModel, opts: Sequence[torch.optim.Optimizer]
) -> tuple[int, list[Any]]:
    """Restores model and optimizers in place; returns tokens seen and the loss curve, `(0, [])` without one."""
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return 0, []
    with safe_open(path, "pt") as f:
        meta, tensors = f.metadata(), {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")}, strict=False)
    model.tie_weights()
    for i, opt in enumerate(opts):
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key in [k for k in tensors if k.startswith(f"opt.{i}.")]:
            _, _, j, name = key.split(".", 3)
            state.setdefault(int(j), {})[name] = tensors[key]
        opt.load_state_dict({"state": state, "param_groups": opt.state_dict()["param_groups"]})
    return int(meta["seen"]), json.loads(meta["curve"])


def train(
    recipe: Recipe,
    ids: np.ndarray,
    vocab_size: int,
    folder: Path,
    checkpoint_steps: int = 100,
    report: Callable = print,
    device: str = "cpu",
) -> tuple[GPT2LMHeadModel, list]:
    """Trains on the id stream `ids` [N] on `device`; returns `(model, curve)`, curve rows being `[tokens seen, mean loss]`.

    `report(seen, loss)` is called every 25 steps.

    Goes on from `folder/checkpoint.safetensors` where there is one.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stream = torch.as_tensor(np.asarray(ids), dtype=torch.long)
    model: Any = new_model(recipe, vocab_size)
    model.to(device)
    # the same function as gelu_new, in one kernel instead of eight
    blocks: Any = model.transformer.h
    for block in blocks:
        block.mlp.act = torch.nn.GELU(approximate="tanh")
    opts = optimizers(model, recipe)
    seen, curve = load_checkpoint(folder, model, opts)
    n_ctx, stage_end, losses = recipe.shape["n_positions"], 0, []
    step = 0
    for stage in recipe.stages:
        stage_end += stage.tokens
        model.set_attn_implementation("eager" if stage.context <= 128 else "sdpa")
        while seen < stage_end:
            draw = torch.Generator().manual_seed(recipe.seed * 1_000_003 + seen)
            batch = recipe.batch_tokens // stage.context
            starts = torch.randint(len(stream) - stage.context - 1, (batch, 1), generator=draw)
            windows = stream[starts + torch.arange(stage.context + 1)].to(device)
            # short windows at random places, so that late positions learn too
            shift = torch.randint(n_ctx - stage.context + 1, (batch, 1), generator=draw)
            loss = loss_of(model, windows, (shift + torch.arange(stage.context)).to(device))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            factor = lr_factor(seen, recipe.total_tokens, recipe.batch_tokens, recipe)
            for opt, lr in zip(opts, (recipe.matrix_lr, recipe.other_lr), strict=True):
                opt.param_groups[0]["lr"] = lr * factor
                opt.step()
                opt.zero_grad()
            seen, step = seen + batch * stage.context, step + 1
            losses.append(loss.item())
            if step % 25 == 0:
                curve.append([seen, round(float(np.mean(losses)), 4)])
                losses = []
                report(*curve[-1])
            if step % checkpoint_steps == 0:
                save_checkpoint(folder, model, opts, seen, curve)
    save_checkpoint(folder, model, opts, seen, curve)
    return model.eval(), curve


def export(model: Any, tokenizer: Any, folder: Path, recipe: Any = None, dtype: str = "float32") -> None:
    """Writes model and tokenizer as `save_pretrained` does, whole or not at all, the weights in `dtype`.

    With a recipe, `training.json` says how long the windows were: `{seed, batch_tokens, stages: [{context, tokens}]}`.
    """
    folder = Path(folder)
    with tempfile.TemporaryDirectory(dir=folder.parent) as partial:
        model.to(getattr(torch, dtype)).save_pretrained(partial)
        if recipe:
            known = {
                "seed": recipe.seed,
                "batch_tokens": recipe.batch_tokens,
                "stages": list(map(asdict, recipe.stages)),
            }
            (Path(partial) / "training.json").write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        tokenizer.save_pretrained(partial)
        settings = Path(partial) / "tokenizer_config.json"
        kept = {
            k: v
            for k, v in json.loads(settings.read_text(encoding="utf-8")).items()
            if k not in ("is_local", "local_files_only")
        }
        settings.write_text(
            json.dumps(kept | {"model_max_length": model.config.n_positions}, indent=2) + "\n", encoding="utf-8"
        )
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(Path(partial).iterdir()):
            path.chmod(0o644)
            path.replace(folder / path.name)


ROLES = {
    "embedded": (
        "The embedded model",
        "that lets the whole report run anywhere, offline, on real text.",
        "make embedded-model",
    ),
    "judge": (
        "The second judge",
        "of the embedded model's family, smaller and of another seed, that judges the texts of P3 a second time.",
        "make judge-model",
    ),
}


def loss_rows(curve: list) -> str:
    """Some dozen rows of the loss curve for a model card's table, Markdown."""
    every = max(1, len(curve) // 12)
    points = [*curve[every - 1 :: every], curve[-1]] if len(curve) % every else curve[every - 1 :: every]
    return "\n".join(f"| {seen:,} | {loss:.3f} |" for seen, loss in points)


def card(
    recipe: Recipe, facts: dict[str, Any], curve: list, corpus_facts: dict[str, Any], role: str = "embedded"
) -> str:
    """The model card, Markdown: data, recipe, loss curve and held-out figures; `role` is one of `ROLES`."""
    title, purpose, command = ROLES[role]
    stages = "; ".join(f"{stage.tokens:,} tokens in windows of {stage.context}" for stage in recipe.stages)
    shape = recipe.shape
    return f"""---
license: psf-2.0
library_name: transformers
---

# {title}

A small GPT-2 ({shape["n_layer"]} layers × {shape["n_head"]} heads, width {shape["n_embd"]}, {shape["n_positions"]} positions,
byte-level BPE of {corpus_facts["vocab_size"]:,} entries) {purpose}
It knows the style of Python's standard library and nothing else; its numbers are its own, not GPT-2 small's.

| | |
| --- | --- |
| text | source of CPython {corpus_facts["python"]}'s standard library; modules go to training or held-out by a hash of their name |
| training tokens | {corpus_facts["train_tokens"]:,}, seen {recipe.total_tokens / corpus_facts["train_tokens"]:.1f} times |
| recipe | {stages}; batches of {recipe.batch_tokens:,} tokens, {recipe.total_tokens // recipe.batch_tokens:,} steps; Muon and AdamW; seed {recipe.seed} |
| held-out PPL | {facts["ppl"]:.2f} on {facts["chunks"]} chunks of {shape["n_positions"]:,} tokens |
| bigram PPL, same tokens | {facts["bigram_ppl"]:.2f}; the model's is {facts["ppl"] / facts["bigram_ppl"]:.0%} of it |
| most harmful head to zero | {facts["worst_head"]}: ΔPPL {facts["worst_head_delta"]:+.1%} on the first two chunks |
| most harmful layer to zero | layer {facts["worst_layer"]}: ΔPPL {facts["worst_layer_delta"]:+.1%} on the first two chunks |

## Training loss

Mean cross-entropy of the last 25 steps, in nats.

| tokens seen | loss |
| ---: | ---: |
{loss_rows(curve)}

The notebook `notebooks/embedded_model.ipynb` trains it again: `{command}`.
"""
