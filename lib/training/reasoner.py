"""Training of the reasoner: a small GPT-2 that answers, thinks aloud and revises, on generated problems.

Batches are drawn from the seed and the number of problems seen, so that an interrupted training goes on with the
same bits.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from lib.engine.instructions import Examiner
from lib.engine.interventions import Plan
from lib.model import problems
from lib.training import pretraining

IGNORED = -100


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the trained weights. Lengths come with their share: steps of a chain, digits of a sum."""

    problems: int = 400_000
    batch_problems: int = 128
    matrix_lr: float = 0.02
    other_lr: float = 3e-3
    decay_share: float = 0.4
    warmup_steps: int = 40
    seed: int = 10
    buckets: int = 2
    instructions: tuple = (("answer", 0.4), ("think", 0.4), ("revise", 0.2))
    chain_share: float = 0.8
    at_once: tuple = ((1, 2), (2, 4), (3, 4), (4, 3), (5, 2), (6, 1))
    thinking: tuple = ((1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1))
    digits: tuple = ((1, 1), (2, 2), (3, 2), (4, 1))
    right_drafts: float = 0.5
    shape: dict = field(default_factory=lambda: {"n_embd": 96, "n_layer": 6, "n_head": 6, "n_positions": 64})


def tokenizer() -> Any:
    """One token a word of `problems.TOKENS`; texts are words parted by spaces."""
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(problems.TOKENS)}, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        eos_token=problems.END,
        bos_token=problems.END,
        pad_token=problems.END,
    )


def _picked(rng: Any, weighted: Any) -> Any:
    return rng.choices([value for value, _ in weighted], [weight for _, weight in weighted])[0]


def example(rng: Any, recipe: Any) -> tuple[str, str]:
    """`(prompt, completion)` of a problem that is not held out."""
    instruction = _picked(rng, recipe.instructions)
    if rng.random() < recipe.chain_share:
        kind, lengths = "chain", recipe.thinking if instruction == "think" else recipe.at_once
    else:
        kind, lengths = "sum", recipe.digits
    problem = problems.draw_split(rng, kind, _picked(rng, lengths), False)
    draft = None
    if instruction == "revise":
        draft = problem.answer if rng.random() < recipe.right_drafts else problems.corrupted(rng, problem)
    return problems.prompt(problem, instruction, draft), problems.completion(problem, instruction)


def batch(recipe: Any, seen: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Buckets of examples of like length: `(ids [B, T], labels [B, T])`, prompts and padding ignored in labels."""
    rng = random.Random(f"{recipe.seed} {seen}")
    number = {word: i for i, word in enumerate(problems.TOKENS)}
    rows = []
    for _ in range(recipe.batch_problems):
        given, wanted = ([number[word] for word in text.split()] for text in example(rng, recipe))
        rows.append((given, wanted))
    rows.sort(key=lambda row: len(row[0]) + len(row[1]))
    size = -(-len(rows) // recipe.buckets)
    return [_padded(rows[at : at + size]) for at in range(0, len(rows), size)]


def _padded(rows: Any) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(given) + len(wanted) for given, wanted in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORED)
    for i, (given, wanted) in enumerate(rows):
        stop = len(given) + len(wanted)
        ids[i, :stop] = torch.tensor(given + wanted)
        labels[i, len(given) : stop] = torch.tensor(wanted)
    return ids, labels


def loss_of(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Summed over examples, each the mean over its own completion's tokens; logits in bfloat16."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.transformer(ids[:, :-1], use_cache=False).last_hidden_state
        logits = model.lm_head(hidden)
    targets = labels[:, 1:]
    nll = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none")
    counted = (targets != IGNORED).sum(1)
    return (nll.view_as(targets).sum(1) / counted).sum()


def train(recipe: Any, folder: Path, checkpoint_steps: int = 100, report: Callable = print) -> tuple[Any, list]:
    """Trains a new model; returns `(model, curve)`, curve rows being `[problems seen, mean loss]` of 25 steps.

    Goes on from `folder/checkpoint.safetensors` where there is one.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model = pretraining.new_model(recipe, len(problems.TOKENS))
    blocks: Any = model.transformer.h
    for block in blocks:
        block.mlp.act = torch.nn.GELU(approximate="tanh")
    model.set_attn_implementation("eager")
    opts = pretraining.optimizers(model, recipe)
    seen, kept = pretraining.load_checkpoint(folder, model, opts)
    curve: list[list[float]] = kept[0] if kept else []
    losses: list[float] = kept[1] if kept else []
    while seen < recipe.problems:
        total = 0.0
        for ids, labels in batch(recipe, seen):
            loss = loss_of(model, ids, labels) / recipe.batch_problems
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        factor = pretraining.lr_factor(seen, recipe.problems, recipe.batch_problems, recipe)
        for opt, lr in zip(opts, (recipe.matrix_lr, recipe.other_lr), strict=True):
            opt.param_groups[0]["lr"] = lr * factor
            opt.step()
            opt.zero_grad()
        seen += recipe.batch_problems
        step = seen // recipe.batch_problems
        losses.append(total)
        if step % 25 == 0:
            curve.append([seen, round(float(np.mean(losses)), 4)])
            losses = []
            report(*curve[-1])
        if step % checkpoint_steps == 0:
            pretraining.save_checkpoint(folder, model, opts, seen, [curve, losses])
    pretraining.save_checkpoint(folder, model, opts, seen, [curve, losses])
    return model.eval(), curve


def facts(respondent: Any, manner: Any, seed: int, count: int = 100) -> dict[str, Any]:
    """Accuracies of the untouched model by level, and what zeroing the head that it needs most costs at the middle one.

    `count` held-out problems of each level.
    """
    model = respondent.model
    by_level, examiners = [], []
    for level in manner.levels:
        examiner = Examiner(respondent, manner, manner.problems(level, count, seed))
        examiners.append(examiner)
        right = {name: examiner.right(examiner.ask(name).first) for name in ("answer", "think")}
        by_level.append({"level": level.name, "kinds": level.kinds} | {k: float(np.mean(v)) for k, v in right.items()})
    overall = {name: float(np.mean([row[name] for row in by_level])) for name in ("answer", "think")}
    middle = examiners[len(examiners) // 2]
    whole = np.mean(middle.right(middle.ask("answer").first))
    lost: dict[tuple[int, int], float] = {}
    for head in product(range(model.config.n_layer), range(model.config.n_head)):
        lost[head] = float(whole - np.mean(middle.right(middle.ask("answer", Plan.of("zero", [head])).first)))
    worst = max(lost, key=lost.__getitem__)
    return overall | {
        "levels": by_level,
        "worst_head": f"L{worst[0]}H{worst[1]}",
        "worst_head_loss": lost[worst],
        "worst_head_level": manner.levels[len(examiners) // 2].name,
    }


def card(recipe: Any, facts: dict[str, Any], curve: list) -> str:
    """The model card, Markdown: what it knows, recipe, loss curve and held-out accuracies."""
    shape = recipe.shape
    named = {"chain": "chains of {} steps", "sum": "sums of {} digits"}
    levels = "\n".join(
        f"| {row['level']}: {', '.join(named[kind].format(length) for kind, length in row['kinds'])} |"
        f" {row['answer']:.0%} | {row['think']:.0%} |"
        for row in facts["levels"]
    )
    chain, addition = problems.Problem("chain", ("7", "+5", "*3", "-2")), problems.Problem("sum", ("58", "67"))
    asked = [(chain, "answer", None), (chain, "think", None), (chain, "revise", "9"), (addition, "answer", None)]
    examples = "\n".join(
        f"| {way} | `{problems.prompt(problem, way, draft)}` | `{problems.completion(problem, way)}` |"
        for problem, way, draft in [*asked, (addition, "think", None)]
    )
    shares = ", ".join(f"{name} {share:.0%}" for name, share in recipe.instructions)
    return f"""---
license: mit
library_name: transformers
---

# The reasoner

A small GPT-2 ({shape["n_layer"]} layers × {shape["n_head"]} heads, width {shape["n_embd"]}, {shape["n_positions"]} positions,
{len(problems.TOKENS)} words) that does arithmetic and nothing else, in three ways:

| Instruction | Prompt | What it writes |
| --- | --- | --- |
{examples}

Chains are reckoned modulo {problems.MODULUS}, from left to right; a thought repeats each operation and gives its value.
Sums are thought from the right, column by column: both digits, the sum's digit, the carry.
Every text ends in `{problems.END}`. `AutoModelForCausalLM` and `AutoTokenizer` load it; words are parted by spaces.

| | |
| --- | --- |
| problems seen | {recipe.problems:,}, drawn afresh for each step; {recipe.chain_share:.0%} chains |
| instructions | {shares}; a draft is right in {recipe.right_drafts:.0%} of cases |
| lengths learned | chains of 1 to {recipe.at_once[-1][0]} steps at once and 1 to {recipe.thinking[-1][0]} thinking; sums of 1 to {recipe.digits[-1][0]} digits |
| held out | problems whose text's SHA-256 begins with a byte below {problems.HELD_OUT_BYTES}, an eighth of all |
| recipe | batches of {recipe.batch_problems} problems, {-(-recipe.problems // recipe.batch_problems):,} steps; Muon and AdamW; seed {recipe.seed} |
| most harmful head to zero | {facts["worst_head"]}: {facts["worst_head_loss"]:.0%} of {facts["worst_head_level"]} answers lost |

## Accuracy on held-out problems

| Level | At once | Thinking |
| --- | ---: | ---: |
{levels}
| all | {facts["answer"]:.0%} | {facts["think"]:.0%} |

## Training loss

Mean cross-entropy of a completion's tokens over the last 25 steps, in nats.

| problems seen | loss |
| ---: | ---: |
{pretraining.loss_rows(curve)}

The notebook `notebooks/reasoner.ipynb` trains it again: `make reasoner`.
"""
