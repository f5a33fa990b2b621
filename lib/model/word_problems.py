"""Short stories of arithmetic with exact answers, for models that were tuned to follow instructions."""

import random
from dataclasses import dataclass

from lib.errors import InputError
from lib.model.problems import INSTRUCTIONS

NAMES = ("Mia", "Tom", "Ana", "Ken", "Yuki", "Omar")
THINGS = ("apples", "stamps", "marbles", "cards", "shells", "coins")
LARGEST = 999


@dataclass(frozen=True)
class Story:
    """Somebody has `start` things; each step `(sign, n)` adds, takes away or multiplies."""

    name: str
    things: str
    start: int
    steps: tuple[tuple[str, int], ...]

    @property
    def length(self) -> int:
        return len(self.steps)

    @property
    def values(self) -> list[int]:
        """How many there are after each step."""
        value, found = self.start, []
        for sign, n in self.steps:
            value = {"+": value + n, "-": value - n, "*": value * n}[sign]
            found.append(value)
        return found

    @property
    def answer(self) -> str:
        return str(self.values[-1])

    @property
    def text(self) -> str:
        told = {
            "+": "Then {name} gets {n} more.",
            "-": "Then {name} gives away {n}.",
            "*": "Then the number of {things} becomes {n} times as large.",
        }
        sentences = [f"{self.name} has {self.start} {self.things}."]
        sentences += [told[sign].format(name=self.name, things=self.things, n=n) for sign, n in self.steps]
        return " ".join([*sentences, f"How many {self.things} does {self.name} have now?"])


def draw(rng: random.Random, length: int) -> Story:
    """A `Story` of `length` steps in which nothing falls below 1 or rises above `LARGEST`, from a `random.Random`."""
    if length < 1:
        raise InputError(f"story of {length} steps; allowed: 1 or more")
    start = rng.randint(2, 20)
    value = start
    steps: list[tuple[str, int]] = []
    while len(steps) < length:
        sign, n = rng.choice("++--*"), rng.randint(2, 19)
        if sign == "*":
            n = rng.randint(2, 4)
        after = {"+": value + n, "-": value - n, "*": value * n}[sign]
        if 1 <= after <= LARGEST:
            value = after
            steps.append((sign, n))
    return Story(rng.choice(NAMES), rng.choice(THINGS), start, tuple(steps))


def request(story: Story, instruction: str, draft: str | None = None) -> str:
    """What the user asks; `revise` needs a draft."""
    if instruction not in INSTRUCTIONS or (draft is None) == (instruction == "revise"):
        raise InputError(
            f"instruction {instruction!r}: allowed are {', '.join(INSTRUCTIONS)}; revise with a draft, no other"
        )
    wanted = {
        "answer": "Reply with the number only.",
        "think": "Work it out step by step, then write the answer after 'Answer:'.",
        "revise": f"Somebody answered {draft}, which may be right or wrong. Reply with the right number only.",
    }
    return f"{story.text} {wanted[instruction]}"


def completion(story: Story, instruction: str) -> str:
    """A right reply, without the end."""
    if instruction != "think":
        return story.answer
    values = [story.start, *story.values]
    lines = [
        f"{before} {sign} {n} = {after}"
        for before, (sign, n), after in zip(values, story.steps, values[1:], strict=False)
    ]
    return "\n".join([*lines, f"Answer: {story.answer}"])
