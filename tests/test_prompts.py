import math

import numpy as np
import pytest
from scipy.stats import norm

from lib.analysis import prompts
from lib.errors import InputError


def test_a_paired_difference_by_hand():
    found = prompts.paired([2.0, 4.0, 9.0], [1.0, 5.0, 3.0])
    assert found["difference"] == 2.0
    assert found["relative"] == pytest.approx(15 / 9 - 1)
    assert (found["lower"], found["of"]) == (1, 3)


def test_intervals_against_plain_resampling():
    rng = np.random.default_rng(1)
    b = rng.lognormal(2, 0.5, 20)
    a = b * rng.lognormal(-0.1, 0.1, 20)
    found = prompts.paired(a, b, seed=3, draws=400)
    draws = np.random.default_rng(3)
    differences, relatives = [], []
    for _ in range(400):
        chosen = draws.integers(20, size=20)
        differences.append(np.mean([a[i] - b[i] for i in chosen]))
        relatives.append(sum(a[i] for i in chosen) / sum(b[i] for i in chosen) - 1)
    outer = norm.cdf(-math.sqrt(20 / 19) * 2.0930)  # Student's t of 19 degrees of freedom, from a printed table
    tails = [outer, 1 - outer]
    assert found["difference_ci"] == pytest.approx(np.quantile(differences, tails), rel=1e-3)
    assert found["relative_ci"] == pytest.approx(np.quantile(relatives, tails), rel=1e-3)


def test_pairing_tells_what_two_separate_intervals_do_not():
    rng = np.random.default_rng(2)
    level = rng.lognormal(1, 0.8, 20)
    low, high = prompts.paired(level - 0.3 + rng.normal(0, 0.2, 20), level)["difference_ci"]
    assert high < 0
    spread = level.std(ddof=1) / np.sqrt(20)
    assert 2 * 1.96 * spread > 0.3  # the two means' own intervals overlap by far
    assert high - low < spread


def test_its_intervals_cover():
    rng = np.random.default_rng(4)
    inside = 0
    for i in range(200):
        low, high = prompts.paired(rng.normal(0.5, 1, 30), np.zeros(30) + 1.0, i, 400)["difference_ci"]
        inside += low <= -0.5 <= high
    assert 0.88 <= inside / 200 <= 0.98


def test_neighbouring_prompts():
    assert prompts.lag1([1.0, -1.0, 1.0, -1.0]) == pytest.approx(-0.75)
    assert abs(prompts.lag1(np.random.default_rng(0).normal(size=4000))) < 0.05
    walk = np.repeat(np.random.default_rng(1).normal(size=300), 4)
    assert prompts.lag1(walk) == pytest.approx(0.75, abs=0.1)
    assert prompts.lag1([1.0, 1.0, 1.0]) is None
    assert prompts.lag1([1.0, 2.0]) is None


def test_other_prompts_are_refused():
    with pytest.raises(InputError, match="the same prompts"):
        prompts.paired([1.0, 2.0], [1.0])
    with pytest.raises(InputError, match="one finite number"):
        prompts.paired([1.0, np.inf], [1.0, 2.0])
    with pytest.raises(InputError, match="one finite number"):
        prompts.lag1([])


def test_prompts_of_one_document_are_one_unit():
    """Differences that share a document's level: by document the interval covers, by prompt it does not."""
    rng = np.random.default_rng(6)
    documents = np.repeat(np.arange(10), 4)
    inside = {"document": 0, "prompt": 0}
    for i in range(200):
        a = 20 + rng.normal(0, 1, 10)[documents] + rng.normal(0, 0.3, 40)
        b = np.full(40, 20.0)
        ends = {
            "document": prompts.by_document(a, b, documents, i, 300),
            "prompt": prompts.paired(a, b, i, 300),
        }
        for unit, found in ends.items():
            low, high = found["difference_ci"]
            inside[unit] += low <= 0 <= high
            low, high = found["relative_ci"]
            assert low * 20 == pytest.approx(found["difference_ci"][0], abs=1e-9)
    assert inside["document"] / 200 >= 0.9 and inside["prompt"] / 200 < 0.75


def test_each_prompt_a_document_is_each_prompt_a_unit():
    rng = np.random.default_rng(7)
    a, b = rng.normal(3, 1, 30), rng.normal(3, 1, 30)
    by_document, by_prompt = prompts.by_document(a, b, range(30), 1, 4000), prompts.paired(a, b, 1, 4000)
    assert by_document["difference_ci"] == pytest.approx(by_prompt["difference_ci"], abs=0.06)


def test_too_few_documents_have_no_interval():
    assert prompts.by_document([1.0] * 6, [2.0] * 6, [0, 0, 0, 0, 1, 2])["difference_ci"] is None
    with pytest.raises(InputError, match="one of each"):
        prompts.by_document([1.0, 2.0], [1.0, 2.0], [0, 1, 2])
