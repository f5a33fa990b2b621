"""`make gpu-session` from end to end in the interpreter, at tiny sizes on a CPU; and what a failing step leaves."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

from kernels import measured
from lib.timing import gpu_session, gpu_targets

pytest.importorskip("triton", reason="Triton is not installed: it comes with PyTorch on Linux only")


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """(what was printed, the folder of steps, the folder of records) of one trial of all six steps."""
    out = tmp_path_factory.mktemp("session")
    command = [sys.executable, "-m", "lib.timing.gpu_session", "--tiny", "--device", "cpu", "--out", str(out)]
    done = subprocess.run(
        [*command, "--measured", str(out / "measured")], cwd=ROOT, capture_output=True, text=True, timeout=400
    )
    logs = "".join(path.read_text() for path in out.glob("*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    return done.stdout, out, out / "measured"


def test_every_step_ends_well_and_leaves_its_file(tried):
    said, out, _ = tried
    for name in gpu_session.STEPS:
        assert f"{name}: done" in said and json.loads((out / f"{name}.json").read_text())["step"] == name


def test_the_record_is_what_the_report_reads(tried):
    said, _, records = tried
    (found,) = measured.load(records)
    assert found["file"].endswith(f"-{found['date'][:10]}.json")
    assert found["rows"] and all(row["agrees"] and row["backend"] == "triton" for row in found["rows"])
    steps = found["session"]
    assert set(steps) == set(gpu_session.STEPS) - {"bench"}
    assert steps["correctness"]["found"]["cases"] == dict.fromkeys(gpu_session.FEW)
    assert {row["what"] for row in steps["tuning"]["found"]["rows"]} == {"forward", "backward"}
    assert not any("failed" in row for row in steps["tuning"]["found"]["rows"])
    rows = steps["end_to_end"]["found"]["rows"]
    assert {row["what"] for row in rows} == {"prefill", "ladder", "decoding", "generation"}
    assert all(row["agrees"] for row in rows if row["what"] in ("ladder", "generation"))
    assert all(row["same"] for row in rows if row["what"] == "ladder")
    (profile,) = (p for p in steps["profiles"]["found"]["profiles"] if p["row"] == "tiny")
    assert "failed" not in profile and profile["kernels"] == [] and profile["share_of_matmul"] > 0
    assert len(found["targets"]) == len(gpu_targets.TARGETS)
    assert [verdict["met"] for verdict in found["targets"]] == [None] * len(gpu_targets.TARGETS)
    assert said.count("not measured") == len(gpu_targets.TARGETS)
    for row in steps["training"]["found"]["rows"]:
        assert row["backend"] == "triton" and row["losses"][-1] < row["losses"][0]


def session(tmp_path, monkeypatch, script, steps=("tuning", "bench"), limit=60.0):
    """A session whose steps are `script`, run with the step's name and its file."""
    popen = subprocess.Popen

    def instead(command, **settings):
        if "--step" not in command:
            return popen(command, **settings)
        name = command[command.index("--step") + 1]
        return popen([sys.executable, "-c", script, name, str(tmp_path / f"{name}.json")], **settings)

    monkeypatch.setattr(gpu_session.subprocess, "Popen", instead)
    return gpu_session.session(tmp_path, "cpu", True, list(steps), limit, tmp_path / "measured")


def test_a_failing_step_keeps_what_it_found_and_the_next_one_runs(tmp_path, monkeypatch):
    script = (
        "import json, pathlib, sys; name, path = sys.argv[1:]\n"
        "head = {'date': '2026-01-02T03:04:05+00:00', 'device': 'cuda', 'device_name': 'NVIDIA H100 80GB',"
        " 'versions': {'torch': '2.11'}, 'rates': {'copy': 1}}\n"
        "pathlib.Path(path).write_text(json.dumps(head | {'rows': [{'name': name}]}))\n"
        "sys.exit('it broke' if name == 'tuning' else 0)"
    )
    record = session(tmp_path, monkeypatch, script)
    assert record["tuning"]["status"] == "failed" and record["tuning"]["said"] == "it broke"
    assert record["tuning"]["found"]["rows"] == [{"name": "tuning"}] and record["bench"]["status"] == "done"
    (kept,) = measured.load(tmp_path / "measured")
    assert kept["file"] == "nvidia-h100-80gb-2026-01-02.json"
    assert "make gpu-session" in kept["provenance"] and kept["session"]["tuning"]["status"] == "failed"


def test_a_step_is_stopped_at_its_limit(tmp_path, monkeypatch):
    record = session(tmp_path, monkeypatch, "import time; time.sleep(60)", ("bench",), 0.5)
    assert record["bench"]["status"] == "stopped at its limit" and record["bench"]["seconds"] < 30
    assert record["bench"]["found"] is None and not (tmp_path / "measured").exists()


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu_session.main([]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_what_misses_its_target_is_profiled(tmp_path, monkeypatch):
    """A row replayed from a graph by the job that made it; one that can't be profiled stops no other."""
    from lib.timing import gpu_profiles

    def mixed(name, ratio):
        return {"name": name, "agrees": True, "ratio": ratio, "ratio_q10": ratio}

    rows = [
        mixed("gpu_mixed_30_1x1024", 1.2),
        mixed("gpu_mixed_30_1x1024_graph", 0.8),
        mixed("gpu_mixed_70_4x4096", 0.9),
        mixed("gpu_gpt2_1024", 0.5),
    ]
    (tmp_path / "bench.json").write_text(json.dumps({"rows": rows}))

    def profile(row, job, device):
        if row["name"] == "gpu_mixed_70_4x4096":
            raise RuntimeError("out of memory\nand more")
        return {"row": row["name"], "job": job[1]}

    monkeypatch.setattr(gpu_profiles, "profile", profile)
    gpu_session.profiles(gpu_session.Save(tmp_path / "profiles.json", {"step": "profiles"}), "cuda", tiny=False)
    assert json.loads((tmp_path / "profiles.json").read_text()) == {
        "step": "profiles",
        "profiles": [
            {"row": "gpu_mixed_30_1x1024_graph", "job": "gpu_mixed_30_1x1024"},
            {"row": "gpu_mixed_70_4x4096", "failed": "RuntimeError: out of memory"},
        ],
    }
