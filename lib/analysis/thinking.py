"""What answering at once, thinking, revising and sampling are worth under a plan, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lib.analysis import reasoning
from lib.analysis.bootstrap import DRAWS
from lib.analysis.flops import Shape, writing_flops
from lib.engine.instructions import SAMPLED, Asked, Examiner, Outcome
from lib.engine.interventions import Plan


@dataclass(frozen=True)
class Rung:
    """An outcome with `n` heads linearized, marked; `ns` are the numbers of samples that vote."""

    examiner: Examiner
    outcome: Outcome
    shape: Shape
    n: int
    ns: Sequence[int]

    @cached_property
    def right(self) -> dict[str, np.ndarray]:
        """`{way: bool [n_problems]}`: `answer`, `think`, `revise_1` …, and `vote_` and `best_` with way and N."""
        outcome, found = self.outcome, {}
        greedy = {"answer": outcome.answer, "think": outcome.think}
        greedy |= {f"revise_{k}": asked for k, asked in enumerate(outcome.revised, 1)}
        chosen = {way: asked.first for way, asked in greedy.items()}
        for way, asked in outcome.sampled.items():
            for n in self.ns:
                chosen[f"vote_{way}_{n}"] = reasoning.majority(asked.answers, n)
                if asked.written.log_likelihood is not None:
                    chosen[f"best_{way}_{n}"] = reasoning.likeliest(asked.answers, asked.written.log_likelihood, n)
        for way, answers in chosen.items():
            found[way] = np.array(self.examiner.right(answers))
        return found

    @cached_property
    def cost(self) -> dict[str, dict]:
        """`{way: {tokens, flops}}` per problem, mean; votes and selections pay for the prompt once."""
        outcome = self.outcome
        found = {"answer": self._spent(outcome.answer, 1), "think": self._spent(outcome.think, 1)}
        total = found["answer"]
        for k, asked in enumerate(outcome.revised, 1):
            own = self._spent(asked, 1)
            total = found[f"revise_{k}"] = {key: total[key] + own[key] for key in own}
        for way, asked in outcome.sampled.items():
            for n in self.ns:
                found[f"vote_{way}_{n}"] = found[f"best_{way}_{n}"] = self._spent(asked, n)
        return found

    def _spent(self, asked: Asked, n_samples: int) -> dict:
        rows = zip(asked.prompts, asked.written.n_tokens[:, :n_samples], strict=True)
        prompts = [(len(self.examiner.respondent.ids(prompt)), own.tolist()) for prompt, own in rows]
        return {
            "tokens": float(np.mean([length + sum(own) for length, own in prompts])),
            "flops": float(np.mean([writing_flops(self.shape, length, own, self.n) for length, own in prompts])),
        }

    def figures(self, base: Rung, seed: int = 0, draws: int = DRAWS) -> dict:
        """Accuracies with intervals, costs, and comparisons with the untouched model's `base`, paired by problem."""
        row: dict[str, Any] = {"n_linearized": self.n}
        for way in ("answer", "think"):
            row[way], row[f"{way}_ci"] = reasoning.accuracy(self.right[way])
        row["cost"] = {way: self.cost[way] for way in ("answer", "think")}
        rounds = ["answer", *(f"revise_{k}" for k in range(1, len(self.outcome.revised) + 1))]
        row |= self._series("revise", rounds)
        for way in SAMPLED:
            for what in ("vote", "best"):
                row |= self._series(f"{what}_{way}", [f"{what}_{way}_{n}" for n in self.ns])
        compared = {
            "answer_against_answer": ("answer", "answer"),
            "think_against_answer": ("think", "answer"),
            "think_against_think": ("think", "think"),
        }
        for name, (own, other) in compared.items():
            row[name] = reasoning.comparison(self.right[own], base.right[other], seed, draws)
        row["revised_against_first"] = reasoning.comparison(self.right[rounds[-1]], self.right["answer"], seed, draws)
        row["equal_flops"] = self._at_equal_flops(base, seed, draws)
        return row

    def _series(self, name: str, ways: Sequence[str]) -> dict:
        pairs = [reasoning.accuracy(self.right[way]) for way in ways]
        return {
            name: [value for value, _ in pairs],
            f"{name}_ci": [ends for _, ends in pairs],
            f"{name}_flops": [self.cost[way]["flops"] for way in ways],
            f"{name}_tokens": [self.cost[way]["tokens"] for way in ways],
        }

    def _at_equal_flops(self, base: Rung, seed: int, draws: int) -> dict:
        """Thinking here against the vote of as many of the untouched model's answers at once as its FLOPs pay for.

        `votes` is at most the largest N that was sampled, and 0 where the FLOPs do not pay for one.
        """
        budget = self.cost["think"]["flops"]
        paid = [n for n in base.ns if base.cost[f"vote_answer_{n}"]["flops"] <= budget]
        rival = f"vote_answer_{paid[-1]}" if paid else "answer"
        found = {"flops": budget, "votes": paid[-1] if paid else 0, "rival_flops": base.cost[rival]["flops"]}
        found["rival"], found["rival_ci"] = reasoning.accuracy(base.right[rival])
        return found | reasoning.comparison(self.right["think"], base.right[rival], seed, draws)

    def by_level(self, levels: Sequence[str]) -> list[dict]:
        """`[{level, n_linearized, answer, answer_ci, think, think_ci, …}]`; `levels` names each problem's."""
        rows = []
        for level in dict.fromkeys(levels):
            here = np.array([own == level for own in levels])
            row = {"level": level, "n_linearized": self.n, "n_problems": int(here.sum())}
            for way in ("answer", "think"):
                row[way], row[f"{way}_ci"] = reasoning.accuracy(self.right[way][here])
            rows.append(row)
        return rows


def head_effects(examiner: Examiner, seed: int = 0, draws: int = DRAWS) -> list[dict]:
    """Each head alone: what ReLU does to the NLL of right completions, and zeroing to the accuracy at once."""
    config = examiner.respondent.model.config
    base = sum(examiner.nll(way) for way in SAMPLED)
    whole = np.array(examiner.right(examiner.ask("answer").first))
    rows = []
    for layer in range(config.num_hidden_layers):
        for head in range(config.num_attention_heads):
            relu = Plan.of("relu", [(layer, head)])
            without = examiner.ask("answer", Plan.of("zero", [(layer, head)])).first
            lost = reasoning.comparison(np.array(examiner.right(without)), whole, seed, draws)
            rows.append(
                {
                    "layer": layer,
                    "head": head,
                    "delta_nll": sum(examiner.nll(way, relu) for way in SAMPLED) - base,
                    "zeroed": lost["difference"],
                    "zeroed_ci": lost["difference_ci"],
                }
            )
    return rows


def ranking(rows: Sequence[dict]) -> list[tuple[int, int]]:
    """Heads in the order in which they are linearized: the smallest |Δ NLL| first."""
    return [(row["layer"], row["head"]) for row in sorted(rows, key=lambda row: abs(row["delta_nll"]))]


def reach(figures: Sequence[dict]) -> dict:
    """Heads up to which thinking stays above, or is not shown to be below, the untouched model's answers at once."""
    verdicts = [row["think_against_answer"]["verdict"] for row in figures]
    last = {
        "above": reasoning.reach(verdicts, [reasoning.ABOVE]),
        "not_below": reasoning.reach(verdicts, [reasoning.ABOVE, reasoning.ALIKE]),
    }
    return {name: None if i is None else figures[i]["n_linearized"] for name, i in last.items()}


def records(rungs: Mapping[int, Rung], levels: Sequence[str]) -> list[dict]:
    """Every prompt that was answered greedily: `{instruction, level, prompt, answer, outputs}`.

    `outputs` is `{condition: text}`. Drafts differ between conditions, and then so do the prompts that revise them;
    what the untouched model writes to each stands under `baseline` all the same.
    """
    examiner = rungs[0].examiner
    found: dict[tuple[str, str], tuple[Any, dict]] = {}
    for n, rung in rungs.items():
        condition = f"relu_{n}" if n else "baseline"
        for asked in (rung.outcome.answer, rung.outcome.think, *rung.outcome.revised):
            rows = zip(asked.prompts, asked.written.texts, examiner.problems, levels, strict=True)
            for prompt, texts, problem, level in rows:
                row = {"instruction": asked.instruction, "level": level, "prompt": prompt, "answer": problem.answer}
                row = found.setdefault((problem.text, prompt), (problem, row | {"outputs": {}}))[1]
                row["outputs"][condition] = texts[0]
    missing = [(problem, row) for problem, row in found.values() if "baseline" not in row["outputs"]]
    rooms = [examiner.manner.room(problem, row["instruction"]) for problem, row in missing]
    written = examiner.respondent.write([row["prompt"] for _, row in missing], rooms)
    for (_, row), texts in zip(missing, written.texts, strict=True):
        row["outputs"] = {"baseline": texts[0]} | row["outputs"]
    return [row for _, row in found.values()]
