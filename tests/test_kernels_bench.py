"""The kernel bench: what it measures, what it withholds; and measurements kept from other machines."""

import inspect
import json
import math

import numpy as np
import pytest
import torch

from kernels import measured, naive
from lib.engine import dispatch
from lib.errors import InputError
from lib.timing import clock, kernel_bench


@pytest.fixture
def small(monkeypatch):
    """A bench whose rates are given, so that no large product is timed."""
    monkeypatch.setattr(clock, "rates", lambda device: {"matmul_fp32": 1e9, "matmul_bf16": 1e9, "copy": 1e9})
    return kernel_bench.KernelBench("cpu", budget=0.05)


def test_a_row_names_everything(small, capsys):
    small.attention("cpu_fp32_130", (1, 2, 130, 16), "fp32")
    (row,) = small.rows
    assert row["agrees"] and row["backend"] == dispatch.resolve("auto", "cpu") and row["rival"] == "sdpa"
    assert math.isclose(row["ratio"], row["times"]["sdpa"]["ms"] / row["times"]["relu"]["ms"])
    assert set(row["times"]) == {"relu", "sdpa", "naive"}
    assert all(t["ms_q20"] <= t["ms"] <= t["ms_q80"] and t["runs"] >= 5 for t in row["times"].values())
    flops = 4 * 2 * 130 * 130 * 16 / 2
    assert math.isclose(row["tflops"] * 1e12, flops / (row["times"]["relu"]["ms"] / 1e3))
    assert "cpu_fp32_130" in capsys.readouterr().out


def test_no_speed_for_a_kernel_that_disagrees(small, monkeypatch, capsys):
    monkeypatch.setattr(
        kernel_bench.dispatch, "relu_attention", lambda q, k, v, **_: naive.relu_attention(q, k, 1.001 * v)
    )
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
    layers = kernel_bench.scattered(n_relu)
    assert sum(map(sum, layers)) == n_relu and not any(layers[0])


def test_what_cannot_run_is_noted(small):
    def broken():
        raise RuntimeError("no such kernel\nwith a second line")

    assert set(small.usable("row", {"broken": broken, "fine": lambda: None})) == {"fine"}
    assert small.skipped == [{"name": "row", "contender": "broken", "reason": "RuntimeError: no such kernel"}]


def test_a_rival_that_computes_relu_wrongly_is_not_timed(small, monkeypatch):
    q, k, v = kernel_bench.inputs((1, 2, 130, 16), "fp32", "cpu")
    rivals = {"sdpa": lambda: None, "naive": lambda: naive.relu_attention(q, k, v), "flex": lambda: 1.001 * v}
    assert set(small.agreeing("row", rivals, (q, k, v), "fp32")) == {"sdpa", "naive"}
    (skipped,) = small.skipped
    assert (skipped["name"], skipped["contender"]) == ("row", "flex") and "disagrees" in skipped["reason"]


def test_graphs_are_a_row_of_their_own(small, monkeypatch):
    """Every contender is recorded, and only what could be recorded takes part."""
    recorded = []

    def graphed(run):
        recorded.append(run)
        if run == "third":
            raise RuntimeError("no capture")
        return lambda: f"replay of {run}"

    def alternating(contenders, device, budget, warm_up):
        assert {label: run() for label, run in contenders.items()} == {
            "relu": "replay of first",
            "sdpa flash": "replay of second",
        }
        return {label: np.array([2e-3 - 1e-3 * (label == "relu")]) for label in contenders}

    monkeypatch.setattr(kernel_bench, "graphed", graphed)
    monkeypatch.setattr(clock, "alternating", alternating)
    monkeypatch.setattr(clock, "synchronize", lambda device: None)
    rest = "first", {"sdpa flash": "second", "sdpa cudnn": "third"}, 0.0, 1e6, "bf16", 1e3
    small.replayed("row", *rest)
    assert (small.rows, recorded) == ([], [])
    small.device = "cuda"
    small.replayed("row", *rest)
    (row,) = small.rows
    assert (row["name"], row["ratio"], recorded) == ("row_graph", 2.0, ["first", "second", "third"])
    assert math.isclose(row["share_of_copy"], 1e3 / 1e-3 / 1e9)
    assert small.skipped == [{"name": "row_graph", "contender": "sdpa cudnn", "reason": "RuntimeError: no capture"}]


def test_a_row_that_fails_stops_no_other(monkeypatch, tmp_path, capsys):
    """Both rows leave their mark in a file that is written after each; the exit status tells."""
    monkeypatch.setattr(clock, "rates", lambda device: {"matmul_fp32": 1e9, "copy": 1e9})
    monkeypatch.setattr(
        kernel_bench, "jobs", lambda device: [("backward", "off", "no shape"), ("mixed", "whole", (1, 2), 3)]
    )
    monkeypatch.setattr(
        kernel_bench.KernelBench, "mixed", lambda self, name, *rest: self.rows.append({"name": name, "rest": rest})
    )
    written = []
    result = kernel_bench.run("cpu", save=lambda result: written.append(json.loads(json.dumps(result))))
    assert [[len(at["failed"]), len(at["rows"])] for at in written] == [[1, 0], [1, 1]]
    assert result["rows"] == [{"name": "whole", "rest": ((1, 2), 3)}]
    assert result["failed"][0]["name"] == "off" and "off" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["bench", "--out", str(tmp_path / "x.json"), "--provenance", "a test"])
    assert kernel_bench.main() == 1
    kept = json.loads((tmp_path / "x.json").read_text())
    assert kept["provenance"] == "a test" and not [key for key in measured.REQUIRED if not kept.get(key)]


@pytest.mark.parametrize("device", ["cuda", "mps", "cpu"])
def test_jobs_fit_what_they_call(device):
    """What no test here can run is at least called rightly, and no two rows share a name."""
    names = []
    for method, name, *arguments in kernel_bench.jobs(device):
        inspect.signature(getattr(kernel_bench.KernelBench, method)).bind(None, name, *arguments)
        names.append(name)
    assert len(set(names)) == len(names)
    if device == "cpu":
        assert names[:4] == ["cpu_fp32_1024", "cpu_fp32_4096", "cpu_bf16_1024", "cpu_bf16_4096"]
        assert {"cpu_fp32_d12_t1024", "cpu_bf16_d128_t4096", "cpu_fp32_d64_t256", "cpu_bf16_d8_t256_1_thread"} <= {
            *names
        }


@pytest.mark.skipif(dispatch.resolve("auto", "cpu") != "native", reason="no C++ compiler: PyTorch computes softmax")
def test_rows_of_one_thread_and_of_softmax(small):
    before = torch.get_num_threads()
    small.one_thread("alone", "attention", (1, 2, 130, 12), "fp32")
    assert torch.get_num_threads() == before
    small.softmax("softmax", (1, 2, 130, 12), "fp32")
    alone, softmax = small.rows
    assert (alone["threads"], alone["own"], softmax["own"]) == (1, "relu", "softmax")
    assert alone["agrees"] and softmax["agrees"] and set(softmax["times"]) == {"softmax", "sdpa"}
    assert all(row["ratio_q20"] > 0 for row in small.rows)


def test_disagreement_sees_the_mask():
    q, k, v = kernel_bench.inputs((1, 2, 200, 16), "fp32", "cpu")
    assert kernel_bench.disagreement(lambda: naive.relu_attention(q, k, v), q, k, v) < 1e-6
    unmasked = torch.relu(q @ k.mT)
    unmasked = unmasked / unmasked.sum(-1, keepdim=True) @ v
    assert kernel_bench.disagreement(lambda: unmasked, q, k, v) > 0.1


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
