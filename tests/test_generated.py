"""Part P's rows against figures worked out one by one, in plain numpy."""

import numpy as np
import pytest
from scipy.stats import norm, t

from lib.analysis import generated

COUNTS = {"baseline": 0, "relu_2": 2}
SEED, DRAWS = 3, 300


def refined():
    rng = np.random.default_rng(0)
    level = rng.lognormal(1, 0.5, 20)
    ppl = {name: np.stack([level * (1 - 0.1 * k) + 0.2 * n for k in range(3)]) for name, n in COUNTS.items()}
    ppl = {name: own + rng.normal(0, 0.05, own.shape) for name, own in ppl.items()}
    return ppl, np.stack([level * 5, level * 4, level * 3])


def resampled(values):
    index = np.random.default_rng(SEED).integers(20, size=(DRAWS, 20))
    tail = norm.cdf(-np.sqrt(20 / 19) * t.ppf(0.975, 19))  # twenty values: a little beyond 95 %
    return np.quantile(np.mean(values[index], axis=1), [tail, 1 - tail])


def test_comparisons_of_refined_texts():
    ppl, human = refined()
    found = generated.refinement(ppl, COUNTS, human, SEED, DRAWS)
    places = [(row["condition"], row["iteration"]) for row in found["falls"]]
    assert places == [("baseline", 2), ("baseline", 3), ("relu_2", 2), ("relu_2", 3)]
    for row in found["falls"]:
        difference = ppl[row["condition"]][row["iteration"] - 1] - ppl[row["condition"]][0]
        assert row["difference"] == pytest.approx(difference.mean())
        assert row["difference_ci"] == pytest.approx(resampled(difference))
        assert (row["lower"], row["of"]) == ((difference < 0).sum(), 20)
    for row in found["gaps"]:
        gap = ppl["relu_2"][row["iteration"] - 1] - ppl["baseline"][row["iteration"] - 1]
        assert (row["condition"], row["n_linearized"]) == ("relu_2", 2)
        assert row["difference_ci"] == pytest.approx(resampled(gap))
    first, last = (ppl["relu_2"][k] - ppl["baseline"][k] for k in (0, 2))
    assert found["closings"][0]["difference_ci"] == pytest.approx(resampled(last - first))
    assert [row["lower"] for row in found["against_human"]] == [20, 20]
    assert found["against_human"][1]["relative"] == pytest.approx(ppl["relu_2"][2].mean() / human[2].mean() - 1)


def test_one_iteration_has_no_fall():
    ppl, human = refined()
    found = generated.refinement({k: v[:1] for k, v in ppl.items()}, COUNTS, human[:1], SEED, DRAWS)
    assert (found["falls"], found["closings"], len(found["gaps"])) == ([], [], 1)


def test_figures_by_iteration_keep_the_prompts():
    ppl, _ = refined()
    found = generated.by_iteration(ppl["baseline"], SEED, DRAWS)
    assert np.mean(found["ppl_by_prompt"], axis=1) == pytest.approx(found["ppl"])
    assert found["ppl_ci"][2] == pytest.approx(resampled(ppl["baseline"][2]))


@pytest.mark.parametrize(("n", "counts"), [(1, [1]), (3, [1, 2, 3]), (5, [1, 2, 3, 5]), (20, [1, 2, 3, 5, 10, 20])])
def test_counts_of_samples(n, counts):
    assert generated.sample_counts(n) == counts


def sampled(seed=5, n_samples=8):
    rng = np.random.default_rng(seed)
    base = rng.lognormal(2.3, 0.4, (20, n_samples))
    return {"baseline": base, "relu_2": base * rng.lognormal(0.2, 0.1, base.shape)}


def test_best_of_n_at_equal_n_and_unselected():
    ppl = sampled()
    found = generated.best_of(ppl, COUNTS, [1, 2, 5, 8], SEED, DRAWS)
    least = {name: own.min(axis=1) for name, own in ppl.items()}
    at = {(row["condition"], row["n"]): row for row in found["equal_n"]}
    assert at["relu_2", 1]["difference"] == pytest.approx(ppl["relu_2"].mean() - ppl["baseline"].mean())
    assert at["relu_2", 8]["difference"] == pytest.approx((least["relu_2"] - least["baseline"]).mean())
    assert at["relu_2", 8]["relative"] == pytest.approx(least["relu_2"].mean() / least["baseline"].mean() - 1)
    row = found["against_baseline"][0]
    assert (row["best_of"], row["condition"]) == (5, "relu_2")
    assert at["relu_2", 5]["difference"] > 0 > row["difference"]
    alone = {(row["condition"], row["n"]): row for row in found["selection"]}
    assert alone["baseline", 8]["difference"] == pytest.approx((least["baseline"] - ppl["baseline"].mean(1)).mean())
    assert all(row["difference_ci"][1] < 0 for row in alone.values())
    assert found["conditions"][1]["ppl_by_sample"] == ppl["relu_2"].tolist()


def test_each_judge_chooses_and_each_scores():
    ppls = {"model": sampled(), "judge": sampled(seed=6)}
    rows = generated.judged(ppls, COUNTS, [8], SEED, DRAWS)
    found = {(row["chosen_by"], row["scored_by"], row["condition"]): row for row in rows}
    assert len(found) == len(rows) == 8
    for (chooser, scorer, name), row in found.items():
        chosen = ppls[chooser][name].argmin(axis=1)
        value = ppls[scorer][name][np.arange(20), chosen].mean()
        assert row["value"] == pytest.approx(value)
        assert row["gain"] == pytest.approx(value / ppls[scorer][name].mean() - 1)
        assert row["difference"] == pytest.approx(value - ppls[scorer]["baseline"].mean())
    assert found["model", "model", "relu_2"]["gain"] < -0.3
    low, high = found["model", "judge", "baseline"]["gain_ci"]  # two judges that agree on nothing
    assert low < 0 < high
