"""Generated problems with known answers: chains of arithmetic modulo 10 and long additions, put in three ways.

Every text is tokens parted by single spaces, all of them in `TOKENS`. `answer : start 7 +5 *3 =` wants the answer at
once, `think : …` every step first, and `revise : start 7 +5 *3 draft 4 =` a better answer than the draft, which may be
right. Multipliers are invertible modulo 10, so that every step of a chain counts.
"""

import random
from dataclasses import dataclass
from hashlib import sha256

from lib.errors import InputError

INSTRUCTIONS = ("answer", "think", "revise")
KINDS = ("chain", "sum")
MODULUS = 10
OPERATIONS = tuple(f"{sign}{n}" for sign in "+-" for n in range(1, 10)) + ("*3", "*7", "*9")
END = "<end>"
TOKENS = (END, "<unk>", *INSTRUCTIONS, ":", "start", *OPERATIONS, "+", "draft", "=", *(str(n) for n in range(10)))
HELD_OUT_BYTES = 32  # of the 256 values of the hash's first byte


@dataclass(frozen=True)
class Problem:
    """A `chain` of `[start, operation, …]`, or the `sum` of two numbers, both strings of as many digits."""

    kind: str
    parts: tuple[str, ...]

    @property
    def length(self) -> int:
        """Steps of a chain, digits of a sum."""
        return len(self.parts) - 1 if self.kind == "chain" else len(self.parts[0])

    @property
    def text(self) -> str:
        if self.kind == "chain":
            return " ".join(("start", *self.parts))
        return " + ".join(" ".join(number) for number in self.parts)

    @property
    def steps(self) -> list[str]:
        """What thinking writes: of a chain each operation and its value, of a sum each column, its digit and carry."""
        written = []
        if self.kind == "chain":
            value = int(self.parts[0])
            for operation in self.parts[1:]:
                value = _applied(operation, value)
                written += [operation, str(value)]
            return written
        carry = 0
        for pair in zip(*(reversed(number) for number in self.parts), strict=True):
            carry, digit = divmod(sum(map(int, pair)) + carry, 10)
            written += [*pair, str(digit), str(carry)]
        return written

    @property
    def answer(self) -> str:
        if self.kind == "chain":
            return self.steps[-1]
        return " ".join(str(sum(map(int, self.parts))))

    @property
    def held_out(self) -> bool:
        """Whether the problem, however it is put, belongs to the evaluation: told by a hash of its text."""
        return sha256(self.text.encode()).digest()[0] < HELD_OUT_BYTES


def _applied(operation: str, value: int) -> int:
    n = int(operation[1:])
    return {"+": value + n, "-": value - n, "*": value * n}[operation[0]] % MODULUS


def draw(rng: random.Random, kind: str, length: int) -> Problem:
    """A problem of `length` steps or digits, from a `random.Random`."""
    if kind not in KINDS or length < 1:
        raise InputError(f"problem {kind!r} of length {length}: allowed are {', '.join(KINDS)} of 1 or more")
    if kind == "chain":
        return Problem(kind, (str(rng.randrange(MODULUS)), *rng.choices(OPERATIONS, k=length)))
    return Problem(kind, tuple(str(rng.randrange(10 ** (length - 1), 10**length)) for _ in range(2)))


def draw_split(rng: random.Random, kind: str, length: int, held_out: bool) -> Problem:
    """`draw`, until the problem belongs to the wanted side."""
    while (problem := draw(rng, kind, length)).held_out != held_out:
        pass
    return problem


def distinct(seed: int | str, kind: str, length: int, count: int) -> list[Problem]:
    """`count` different held-out problems; the same `seed`, a number or text, draws the same ones."""
    rng = random.Random(f"{seed} {kind} {length}")
    found: dict[str, Problem] = {}
    for _ in range(200 * count):
        problem = draw_split(rng, kind, length, True)
        found[problem.text] = problem
        if len(found) == count:
            return list(found.values())
    raise InputError(f"{count} different problems, {kind} of length {length}: there are no more than {len(found)}")


def corrupted(rng: random.Random, problem: Problem) -> str:
    """A wrong draft: another value of the chain, or the sum with one or two digits changed."""
    if problem.kind == "chain":
        return rng.choice([str(n) for n in range(MODULUS) if str(n) != problem.answer])
    digits = problem.answer.split()
    for at in rng.sample(range(len(digits)), rng.randint(1, min(2, len(digits)))):
        digits[at] = str((int(digits[at]) + rng.choice((1, 9, rng.randint(1, 9)))) % 10)
    return " ".join(digits)


def prompt(problem: Problem, instruction: str, draft: str | None = None) -> str:
    """The text that the model continues; `revise` needs a draft."""
    if instruction not in INSTRUCTIONS or (draft is None) == (instruction == "revise"):
        raise InputError(
            f"instruction {instruction!r}: allowed are {', '.join(INSTRUCTIONS)}; revise with a draft, no other"
        )
    given = f" draft {draft}" if instruction == "revise" else ""
    return f"{instruction} : {problem.text}{given} ="


def completion(problem: Problem, instruction: str) -> str:
    """The right continuation, its end included."""
    steps = [*problem.steps, "="] if instruction == "think" else []
    return " ".join([*steps, problem.answer, END])


def said(output: str, instruction: str) -> str:
    """The answer that a model's `output` gives: all of it; for `think` what follows the last `=`, "" without one."""
    if instruction == "think":
        output = output.rpartition("=")[2] if "=" in output else ""
    return " ".join(output.split())
