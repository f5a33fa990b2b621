"""How problems are put to a model and its texts read: in the reasoner's own words, or through a chat template."""

import random
import re
from dataclasses import dataclass
from typing import Any

from lib.errors import InputError
from lib.model import problems, word_problems
from lib.model.problems import Problem
from lib.model.word_problems import Story

SPARE = 4  # tokens of room beyond a right completion
NUMBER = re.compile(r"-?\d+(?:,\d{3})*")


@dataclass(frozen=True)
class Level:
    """`kinds` are `(kind, length)`, in equal parts."""

    name: str
    kinds: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class OwnWords:
    """The words that the reasoner was trained on."""

    levels = (
        Level("easy", (("chain", 4), ("sum", 3))),
        Level("middle", (("chain", 5), ("chain", 6))),
        Level("hard", (("chain", 6), ("sum", 4))),
    )
    unreadable = "0"

    def prompt(self, problem: Problem, instruction: str, draft: str | None = None) -> str:
        return problems.prompt(problem, instruction, draft)

    def completion(self, problem: Problem, instruction: str) -> str:
        return problems.completion(problem, instruction)

    def said(self, text: str, instruction: str) -> str:
        return problems.said(text, instruction)

    def room(self, problem: Problem, instruction: str) -> int:
        return len(self.completion(problem, instruction).split()) + SPARE

    def problems(self, level: Level, count: int, seed: int) -> list[Problem]:
        """`count` different held-out problems of a `Level`."""
        shares = [count // len(level.kinds) + (i < count % len(level.kinds)) for i in range(len(level.kinds))]
        return [
            problem
            for (kind, length), share in zip(level.kinds, shares, strict=True)
            if share
            for problem in problems.distinct(f"{seed} {level.name}", kind, length, share)
        ]


@dataclass(frozen=True)
class Chat:
    """Word problems through the tokenizer's own chat template."""

    tokenizer: Any
    levels = (
        Level("easy", (("story", 2),)),
        Level("middle", (("story", 4),)),
        Level("hard", (("story", 6),)),
    )
    unreadable = "?"

    def prompt(self, problem: Story, instruction: str, draft: str | None = None) -> str:
        messages = [{"role": "user", "content": word_problems.request(problem, instruction, draft)}]
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:
            raise InputError(f"tokenizer: its chat template fails ({type(error).__name__}: {error})") from None

    def completion(self, problem: Story, instruction: str) -> str:
        return word_problems.completion(problem, instruction)

    def said(self, text: str, instruction: str) -> str:
        """The last whole number of the text, "" where it holds none."""
        found = NUMBER.findall(text)
        return found[-1].replace(",", "") if found else ""

    def room(self, problem: Story, instruction: str) -> int:
        return 32 + 32 * problem.length if instruction == "think" else 12

    def problems(self, level: Level, count: int, seed: int) -> list[Story]:
        ((_, length),) = level.kinds
        rng = random.Random(f"{seed} {length}")
        return [word_problems.draw(rng, length) for _ in range(count)]


def manner(tokenizer: Any) -> OwnWords | Chat:
    """How to ask the model of this tokenizer; `InputError` where it has neither a chat template nor the own words."""
    if tokenizer.chat_template:
        return Chat(tokenizer)
    if set(problems.TOKENS) == set(tokenizer.get_vocab()):
        return OwnWords()
    raise InputError(
        "reasoner: its tokenizer has no chat template; allowed: models/reasoner, or a model that was tuned to follow"
        " instructions"
    )


def divided(manner: OwnWords | Chat, n_scored: int, n_ranking: int, seed: int) -> dict[str, list[Any]]:
    """`{scored, levels, ranking}`: of each level `n_scored` problems, with their levels, and `n_ranking` others."""
    scored: list[Any] = []
    levels: list[str] = []
    ranking: list[Any] = []
    for level in manner.levels:
        drawn = manner.problems(level, n_scored + n_ranking, seed)
        random.Random(f"{seed} {level.name}").shuffle(drawn)
        scored += drawn[:n_scored]
        levels += [level.name] * n_scored
        ranking += drawn[n_scored:]
    return {"scored": scored, "levels": levels, "ranking": ranking}
