"""Problems put to a model under a plan in every way: at once, thinking aloud, revising, and sampled many times."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lib.engine.answering import Respondent, Written
from lib.engine.interventions import Plan
from lib.model.asking import Chat, OwnWords

SAMPLED = ("answer", "think")


@dataclass(frozen=True)
class Asked:
    """Prompts, what was written to each, and the answers read from it, `[n_problems][n_samples]`."""

    instruction: str
    prompts: list[str]
    written: Written
    answers: list[list[str]]

    @property
    def first(self) -> list[str]:
        return [row[0] for row in self.answers]


@dataclass(frozen=True)
class Outcome:
    """Greedy texts at once and thinking; `revised`, one round after another; samples of the first two."""

    answer: Asked
    think: Asked
    revised: list[Asked]
    sampled: dict[str, Asked]


class Examiner:
    """Puts one set of problems, in a `manner` of `lib.model.asking`, to a respondent."""

    def __init__(self, respondent: Respondent, manner: OwnWords | Chat, problems: Sequence[Any], seed: int = 0) -> None:
        self.respondent, self.manner, self.problems, self.seed = respondent, manner, problems, seed

    def ask(
        self,
        instruction: str,
        plan: Plan | None = None,
        drafts: Sequence[str] | None = None,
        n_samples: int = 1,
        temperature: float = 0.0,
    ) -> Asked:
        """All problems under one instruction; `drafts` are answers to be revised."""
        given: Sequence[str | None] = drafts or [None] * len(self.problems)
        prompts = [self.manner.prompt(p, instruction, d) for p, d in zip(self.problems, given, strict=True)]
        rooms = [self.manner.room(problem, instruction) for problem in self.problems]
        written = self.respondent.write(prompts, rooms, plan, n_samples, temperature, self.seed)
        answers = [[self.manner.said(text, instruction) for text in row] for row in written.texts]
        return Asked(instruction, prompts, written, answers)

    def revise(self, answers: Sequence[str], plan: Plan | None = None) -> Asked:
        """The next round: each answer, or what stands for one that can't be read, as the draft."""
        return self.ask("revise", plan, [answer or self.manner.unreadable for answer in answers])

    def outcome(self, plan: Plan, revisions: int, n_samples: int, temperature: float) -> Outcome:
        """Everything that is asked of the model under one plan."""
        answer, think = (self.ask(instruction, plan) for instruction in ("answer", "think"))
        revised, last = [], answer
        for _ in range(revisions):
            last = self.revise(last.first, plan)
            revised.append(last)
        sampled = {name: self.ask(name, plan, None, n_samples, temperature) for name in SAMPLED}
        return Outcome(answer, think, revised, sampled)

    def nll(self, instruction: str, plan: Plan | None = None) -> float:
        """Mean negative log-likelihood of the right completions."""
        prompts = [self.manner.prompt(problem, instruction) for problem in self.problems]
        completions = [self.manner.completion(problem, instruction) for problem in self.problems]
        return float(self.respondent.nll(prompts, completions, plan).mean())

    def right(self, answers: Sequence[str]) -> list[bool]:
        """Whether each answer is the problem's."""
        return [answer == problem.answer for answer, problem in zip(answers, self.problems, strict=True)]
