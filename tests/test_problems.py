"""Problems are right by other arithmetic than theirs, and what is held out is never drawn for training."""

import random
import re

import pytest

from lib.errors import InputError
from lib.model import problems, word_problems
from lib.model.asking import Chat, OwnWords
from lib.training import reasoner


def some(kind, lengths, n=200):
    rng = random.Random(4)
    return [problems.draw(rng, kind, rng.choice(lengths)) for _ in range(n)]


@pytest.mark.parametrize("problem", some("chain", range(1, 7), 40), ids=lambda p: p.text)
def test_a_chain_is_what_python_makes_of_its_text(problem):
    value, *operations = problem.text.split()[1:]
    nested = "(" * len(operations) + value + "".join(f"{operation})" for operation in operations)
    assert int(problem.answer) == eval(nested) % 10
    assert problem.steps[::2] == operations
    assert problem.steps[-1] == problem.answer
    before = [value, *problem.steps[1:-2:2]]
    for number, operation, after in zip(before, operations, problem.steps[1::2], strict=True):
        assert eval(f"({number}{operation}) % 10") == int(after)


@pytest.mark.parametrize("problem", some("sum", range(1, 6), 40), ids=lambda p: p.text)
def test_a_sum_is_what_python_makes_of_its_text(problem):
    a, b = (int(number.replace(" ", "")) for number in problem.text.split("+"))
    assert int(problem.answer.replace(" ", "")) == a + b
    digits, carries = problem.steps[2::4], problem.steps[3::4]
    assert "".join(reversed(problem.steps[::4])) == str(a)
    assert "".join(reversed(problem.steps[1::4])) == str(b)
    assert int("".join([carries[-1], *reversed(digits)])) == a + b


def test_every_step_of_a_chain_counts():
    """Operations are invertible: ten starts give ten answers."""
    for problem in some("chain", [1, 3, 6], 30):
        answers = {problems.Problem("chain", (str(start), *problem.parts[1:])).answer for start in range(10)}
        assert len(answers) == 10


def test_training_never_sees_what_is_held_out():
    seen = set()
    recipe = reasoner.Recipe()
    for at in range(40):
        rng = random.Random(f"{recipe.seed} {at}")
        for _ in range(recipe.batch_problems):
            prompt, _ = reasoner.example(rng, recipe)
            seen.add(prompt.split(" : ")[1].removesuffix(" =").split(" draft ")[0])
    assert len(seen) > 3000
    for kind, length in (("chain", 2), ("chain", 3), ("sum", 2), ("sum", 3)):
        held_out = {problem.text for problem in problems.distinct(1, kind, length, 100)}
        assert len(held_out) == 100
        assert not held_out & seen


def test_about_an_eighth_is_held_out():
    share = sum(problem.held_out for problem in some("chain", [3, 4], 4000)) / 4000
    assert share == pytest.approx(1 / 8, abs=0.02)


def test_a_corrupted_draft_is_wrong_and_readable():
    rng = random.Random(0)
    for problem in some("chain", [2, 4], 100) + some("sum", [1, 4], 100):
        draft = problems.corrupted(rng, problem)
        assert draft != problem.answer
        assert len(draft.split()) == len(problem.answer.split())
        assert set(draft.split()) <= set("0123456789")


@pytest.mark.parametrize("instruction", problems.INSTRUCTIONS)
def test_a_right_completion_is_read_as_right(instruction):
    for problem in some("chain", [1, 5], 20) + some("sum", [1, 4], 20):
        completion = problems.completion(problem, instruction)
        assert set(completion.split()) <= set(problems.TOKENS)
        text = completion.removesuffix(problems.END)
        assert OwnWords().said(text, instruction) == problem.answer


def test_a_thought_without_an_answer_answers_nothing():
    assert problems.said("3 4 5", "think") == ""
    assert problems.said("3 4 =", "think") == ""
    assert problems.said("", "answer") == ""


def test_other_requests_are_refused():
    problem = some("chain", [2], 1)[0]
    for instruction, draft in (("guess", None), ("revise", None), ("answer", "3")):
        with pytest.raises(InputError, match="allowed are answer, think, revise"):
            problems.prompt(problem, instruction, draft)
    with pytest.raises(InputError, match="no more than"):
        problems.distinct(0, "chain", 1, 211)
    with pytest.raises(InputError, match="length 0"):
        problems.draw(random.Random(), "chain", 0)


def test_levels_are_different_held_out_problems():
    for level in OwnWords.levels:
        drawn = OwnWords().problems(level, 41, seed=3)
        assert len({problem.text for problem in drawn}) == 41
        assert all(problem.held_out for problem in drawn)
        assert {(problem.kind, problem.length) for problem in drawn} == set(level.kinds)
        assert drawn == OwnWords().problems(level, 41, seed=3)


def test_stories_are_told_as_they_are_reckoned():
    """The answer again from the sentences alone."""
    rng = random.Random(2)
    for _ in range(60):
        story = word_problems.draw(rng, rng.randint(1, 6))
        first, *steps, question = re.split(r"(?<=[.?]) ", story.text)
        value = int(re.search(r"\d+", first)[0])
        for sentence in steps:
            n = int(re.search(r"\d+", sentence)[0])
            value = value + n if "gets" in sentence else value - n if "gives" in sentence else value * n
            assert 1 <= value <= word_problems.LARGEST
        assert question.startswith("How many")
        assert story.answer == str(value)
        assert Chat(None).said(word_problems.completion(story, "think"), "think") == story.answer


def test_a_chat_answer_is_the_last_number():
    said = Chat(None).said
    assert said("She has 4 + 5 = 9 apples.\nAnswer: 1,209.", "think") == "1209"
    assert said("none at all", "answer") == ""
