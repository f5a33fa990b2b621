"""The kernel bench: what it measures, what it withholds; and measurements kept from other machines."""

import json
import math

import pytest
import torch

from kernels import bench, measure, measured, naive
from lib.errors import InputError


@pytest.fixture
def small(monkeypatch):
    """A bench whose rates are given, so that no large product is timed."""
    monkeypatch.setattr(measure, "rates", lambda device: {"matmul_fp32": 1e9, "matmul_bf16": 1e9, "copy": 1e9})
    return bench.Bench("cpu", budget=0.05)


def test_a_row_names_everything(small, capsys):
    small.attention("cpu_fp32_130", (1, 2, 130, 16), "fp32")
    (row,) = small.rows
    assert row["agrees"] and row["backend"] == "cpu" and row["rival"] == "sdpa"
    assert math.isclose(row["ratio"], row["times"]["sdpa"]["ms"] / row["times"]["relu"]["ms"])
    assert set(row["times"]) == {"relu", "sdpa", "naive"}
    assert all(t["ms_q20"] <= t["ms"] <= t["ms_q80"] and t["runs"] >= 5 for t in row["times"].values())
    flops = 4 * 2 * 130 * 130 * 16 / 2
    assert math.isclose(row["tflops"] * 1e12, flops / (row["times"]["relu"]["ms"] / 1e3))
    assert "cpu_fp32_130" in capsys.readouterr().out


def test_no_speed_for_a_kernel_that_disagrees(small, monkeypatch, capsys):
    monkeypatch.setattr(bench.dispatch, "relu_attention", lambda q, k, v, **_: naive.relu_attention(q, k, 1.001 * v))
    small.attention("off", (1, 2, 130, 16), "fp32")
    (row,) = small.rows
    assert not row["agrees"] and row["ratio"] is None and "times" not in row and "tflops" not in row
    assert "no speed" in capsys.readouterr().out


@pytest.mark.parametrize("n_relu", [30, 70])
def test_mixed_layers_and_gradients_on_the_fallbacks(n_relu, small):
    small.mixed("mixed", (1, 12, 65, 16), n_relu)
    small.backward("backward", (1, 2, 65, 16))
    small.decoding_step("step", (1, 12, 1, 16), 65)
    assert [row["agrees"] for row in small.rows] == [True, True, True]
    layers = bench.scattered(n_relu)
    assert sum(map(sum, layers)) == n_relu and not any(layers[0])


def test_what_cannot_run_is_noted(small):
    def broken():
        raise RuntimeError("no such kernel\nwith a second line")

    assert set(small.usable("row", {"broken": broken, "fine": lambda: None})) == {"fine"}
    assert small.skipped == [{"name": "row", "contender": "broken", "reason": "no such kernel"}]


def test_disagreement_sees_the_mask():
    q, k, v = bench.inputs((1, 2, 200, 16), "fp32", "cpu")
    assert bench.disagreement(lambda: naive.relu_attention(q, k, v), q, k, v) < 1e-6
    unmasked = torch.relu(q @ k.mT)
    unmasked = unmasked / unmasked.sum(-1, keepdim=True) @ v
    assert bench.disagreement(lambda: unmasked, q, k, v) > 0.1


def test_kept_measurements(tmp_path):
    whole = dict.fromkeys(measured.REQUIRED, "x")
    assert measured.load(tmp_path) == []
    for name, date in (("b", "2026-01-02"), ("a", "2026-03-01")):
        (tmp_path / f"{name}.json").write_text(json.dumps(whole | {"date": date}))
    assert [m["file"] for m in measured.load(tmp_path)] == ["b.json", "a.json"]
    (tmp_path / "c.json").write_text(json.dumps({k: x for k, x in whole.items() if k != "provenance"}))
    with pytest.raises(InputError, match="c.json lacks provenance"):
        measured.load(tmp_path)


def test_every_kept_measurement_is_whole():
    for measurement in measured.load():
        assert all("agrees" in row and "name" in row for row in measurement["rows"])
