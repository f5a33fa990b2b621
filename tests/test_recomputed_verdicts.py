"""Six verdicts made again from the results' JSON files alone, in plain NumPy, with nothing of the package's own."""

import ast
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
DRAWS = 4000

WRITE = """
import sys
import measured
from lib.claims import rules, scorecard
from lib.claims.judging import VERDICTS

found = measured.build()
claims = rules.evaluate(found)
found["conclusions"] = {
    "claims": claims,
    "counts": {verdict: sum(claim["verdict"] == verdict for claim in claims) for verdict in VERDICTS},
    "hypothesis": rules.hypothesis(found),
    "sensitivity": rules.sensitivity(found),
    "scorecard": scorecard.score(found),
}
import pathlib
measured.write(pathlib.Path(sys.argv[1]), found)
"""


def real_runs():
    """Folders of finished runs on this machine."""
    build = Path(os.environ.get("EXPERIMENT10_BUILD", HERE.parent / "build"))
    return sorted(path.parents[1] for path in build.glob("*/results/data/sections/conclusions.json"))


@pytest.fixture(scope="module", params=["drawn", *real_runs()], ids=lambda run: str(run).split("/")[-3:][0])
def run(request, tmp_path_factory):
    """`{section: data}` as it stands in the files of a run."""
    folder = request.param
    if folder == "drawn":
        folder = tmp_path_factory.mktemp("drawn")
        path = os.pathsep.join((str(HERE), str(HERE.parent)))
        subprocess.run([sys.executable, "-c", WRITE, str(folder)], check=True, env=os.environ | {"PYTHONPATH": path})
    files = sorted((Path(folder) / "sections").glob("[!.]*.json"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8"))["data"] for path in files}


def told(run, claim):
    return next(row["verdict"] for row in run["conclusions"]["claims"] if row["id"] == claim)


def below_zero(draws):
    """The verdict on "below 0", or None where an end lies so near to 0 that another seed may say otherwise."""
    low, high = np.quantile(draws, [0.025, 0.975])
    if min(abs(low), abs(high)) < 0.1 * (high - low):
        return None
    return "holds" if high < 0 else "fails" if low > 0 else "open"


def of(rows, condition):
    return next(row for row in rows if row["condition"] == condition)


def best_of(samples, n):
    """The smallest of n samples, mean over all subsets, for each prompt of `[prompts, samples]`."""
    subsets = np.array(list(itertools.combinations(range(samples.shape[1]), n)))
    return samples[:, subsets].min(axis=2).mean(axis=1)


@pytest.mark.parametrize(("claim", "which"), [("best_of_n_recovers", 0), ("best_of_n_recovers_more", -1)])
def test_best_of_n(run, claim, which):
    p3 = run["P3"]
    row = of(p3["conditions"], f"relu_{run['setup']['relu_counts'][which]}")
    n = of(p3["against_baseline"], row["condition"])["best_of"]
    own, base = (np.array(x["ppl_by_sample"]) for x in (row, of(p3["conditions"], "baseline")))
    gaps = best_of(own, n) - base.mean(axis=1)
    n_prompts = len(gaps)
    index = np.random.default_rng(0).integers(n_prompts, size=(DRAWS, n_prompts))
    expected = below_zero(gaps[index].mean(axis=1))
    if expected is None or n_prompts < 10:
        pytest.skip("too near to call, or too few prompts for this bootstrap")
    assert told(run, claim) == expected


def test_refinement(run):
    verdicts = []
    for row in run["P2"]["conditions"]:
        ppl = np.array(row["ppl_by_prompt"])
        fall = ppl[-1] - ppl[0]
        index = np.random.default_rng(1).integers(len(fall), size=(DRAWS, len(fall)))
        verdicts.append(below_zero(fall[index].mean(axis=1)))
        low, high = row["repeated_4gram_share_ci"][-1]
        verdicts.append("holds" if low > 0.5 else "fails" if high <= 0.5 else "open")
    if None in verdicts or run["P2"]["n_prompts"] < 10:
        pytest.skip("too near to call, or too few prompts for this bootstrap")
    expected = "fails" if "fails" in verdicts else "open" if "open" in verdicts else "holds"
    assert told(run, "refinement_degenerates") == expected


def test_equal_flops(run):
    """The attention of a decoded token: 4·T·d + 5·T for softmax, 6·d² for a head in the published form."""
    shape, p3 = run["setup"]["model"], run["P3"]
    n_heads, d, new = shape["n_layer"] * shape["n_head"], shape["d_head"], p3["new_tokens"]
    extras = []
    for row in p3["equal_flops"]:
        n = row["n_linearized"]
        lengths = np.arange(1, 8192)
        softmax = 4 * lengths * d + 5 * lengths
        ratios = ((n_heads - n) * softmax + n * 6 * d**2) / (n_heads * softmax)
        assert np.abs(ratios - row["ratio_attention"]).min() < 1e-9  # the published form, at some length
        assert row["extra_attention"] == int(new / row["ratio_attention"]) - new
        extras += [value for key, value in row.items() if key.startswith("extra_")]
    assert told(run, "equal_flops_insufficient") == ("holds" if max(extras) < new else "fails")


def test_constant_bias(run):
    v3 = run["V3"]
    share = 1 - v3["mean_delta_ppl_full"] / v3["zero_delta_ppl_full"]
    interval = v3["constant_share_full_ci"]
    if interval is None or (v3["zero_delta_ppl_full_ci"][0] or 0) <= 0:
        expected = "open"
    else:
        assert v3["constant_share_full"] == pytest.approx(share, rel=1e-9)
        assert interval[0] <= share <= interval[1]
        expected = "holds" if interval[0] > 0.95 else "fails" if interval[1] <= 0.95 else "open"
    assert told(run, "constant_bias") == expected


def ranks(values):
    return np.argsort(np.argsort(-np.asarray(values), kind="stable"), kind="stable") + 1


def test_stable_ranking(run):
    top, v2 = run["V2"]["top10"], run["V2"]
    quick, full = (ranks([row[f"delta_ppl_{span}"] for row in top]) for span in ("2k", "full"))
    assert [row["rank_2k"] for row in top] == quick.tolist() and [row["rank_full"] for row in top] == full.tolist()
    assert v2["spearman"] == pytest.approx(np.corrcoef(quick, full)[0, 1], abs=1e-9)
    missed = [row["delta_full"] for row in (v2["scan"] or {"missed": []})["missed"]]
    among = ranks([row["delta_ppl_full"] for row in top] + missed)
    assert [row["rank_all"] for row in top] == among[: len(top)].tolist()
    leaders = sorted(top, key=lambda row: row["rank_2k"])[:5]
    ends = [(leaders[0]["rank_all_ci"], 1), *((row["rank_all_ci"], len(leaders)) for row in leaders)]
    verdicts = ["holds" if high <= limit else "fails" if low > limit else "open" for (low, high), limit in ends]
    low, high = v2["spearman_ci"] or (-1, 1)
    verdicts.append("holds" if low > 0.8 else "fails" if high <= 0.8 else "open")
    assert told(run, "stable_ranking") == (
        "fails" if "fails" in verdicts else "open" if "open" in verdicts else "holds"
    )


def test_nothing_of_the_package_is_imported_here():
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name for name in names if name.split(".")[0] in ("lib", "kernels", "report", "measured", "synthetic")}
