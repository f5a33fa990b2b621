"""Scores by other processes: the same bytes, and nothing lost, whatever is killed. Real processes throughout."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from cluster_processes import Processes, kill, until, workers_of
from conftest import ROOT, pipeline

from lib.cluster import local
from lib.cluster.opening import opened
from lib.engine import comparing, stored_generation
from lib.engine.elsewhere import Source
from lib.engine.interventions import Plan
from lib.engine.scoring import Evaluator
from lib.errors import KEPT, InputError
from lib.model import loading
from lib.store import Store
from lib.timing import scaling, workers_bench
from lib.training import recovery

distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed: make env EXTRAS=cluster")
pytestmark = pytest.mark.timeout(300)

PLANS = [
    Plan(),
    *(Plan.of(mode, [(layer, head)]) for mode in ("zero", "mean", "relu") for layer in range(3) for head in range(4)),
    Plan.of("relu", [(1, 0), (1, 3), (2, 2)]),
]
CHUNKS = 12
PROMPTS = tiny_models.tokens(3, 6, seed=4).numpy()


class Model:
    """A saved random model, what it is called elsewhere, and what one process makes of it."""

    def __init__(self, folder):
        self.folder = folder / "tiny"
        tiny_models.gpt2().save_pretrained(self.folder)
        self.fingerprint = loading.fingerprint(self.folder)
        self.loaded = loading.load_model(self.folder)
        self.source = Source(str(self.folder), self.fingerprint, "float32", "cpu")
        self.serial = self.scored(folder / "serial")

    def evaluator(self, store, pool=None, source=None):
        elsewhere = pool and pool.model(source or self.source)
        return Evaluator(
            self.loaded, tiny_models.tokens(CHUNKS), Store(store), model_key=self.fingerprint, elsewhere=elsewhere
        )

    def scored(self, store, pool=None):
        """The entries that a whole run leaves: `{path: bytes}`."""
        engine = self.evaluator(store, pool)
        engine.score(PLANS, CHUNKS, engine.means(CHUNKS))
        return entries(store)


def entries(store):
    return {path.relative_to(store): path.read_bytes() for path in store.rglob("*.entry")}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return Model(tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="module")
def two():
    with opened(2, "cpu", n_threads=1) as pool:
        yield pool


@pytest.fixture
def processes(tmp_path):
    found = Processes(tmp_path)
    yield found
    found.close()


@pytest.fixture
def own_threads():
    """What the test makes of the number of threads ends with it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def connect(monkeypatch):
    """Connections of little patience, closed at the end."""
    from lib.cluster import pool

    monkeypatch.setattr(pool, "CONNECT_WITHIN", 3.0)
    made = []

    def connected(address, wait=90.0):
        made.append(pool.Pool(address, wait))
        return made[-1]

    yield connected
    for own in made:
        own.close()


def line_of(call, *args):
    with pytest.raises(InputError) as error:
        call(*args)
    message = str(error.value)
    assert message.startswith("workers: ") and "\n" not in message, message
    return message


def interrupted(model, store, pool, then):
    """Scores by workers; after the first piece of work `then()` happens. Returns the generator's line, if any."""
    engine = model.evaluator(store, pool)
    means = model.evaluator(store.with_name("means")).means(CHUNKS)
    for i, _ in enumerate(engine.compute(engine.missing(PLANS, CHUNKS, means), means)):
        if i == 0:
            then()


def finished_by_one_process(model, store):
    """What is left is computed here, and the store is then that of a serial run."""
    kept = entries(store)
    assert 0 < len(kept) < len(model.serial)
    assert kept.items() <= model.serial.items()
    assert model.scored(store) == model.serial


def test_two_workers_leave_the_bytes_of_a_serial_run(model, two, tmp_path):
    assert model.scored(tmp_path, two) == model.serial
    placed = two.client.run(lambda: (os.getpid(), torch.get_num_threads()))
    assert len({pid for pid, _ in placed.values()} - {os.getpid()}) == 2
    assert {threads for _, threads in placed.values()} == {1}


def test_what_is_in_the_store_is_not_sent(model, two, tmp_path, monkeypatch):
    model.scored(tmp_path)
    monkeypatch.setattr(two, "run", lambda *args: pytest.fail("sent again"))
    assert model.scored(tmp_path, two) == model.serial


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_another_family_in_either_type(dtype, two, tmp_path):
    tiny_models.llama().save_pretrained(tmp_path / "m")
    key, loaded = loading.fingerprint(tmp_path / "m"), loading.load_model(tmp_path / "m", dtype)
    source = Source(str(tmp_path / "m"), key, dtype, "cpu")
    for name, elsewhere in (("here", None), ("there", two.model(source))):
        store = Store(tmp_path / name)
        engine = Evaluator(
            loaded, tiny_models.tokens(3, 20), store, model_key=key, dtype=dtype, start=5, elsewhere=elsewhere
        )
        engine.score([plan for plan in PLANS if all(layer < 2 for layer, *_ in plan.heads)], 3, engine.means(3))
    assert entries(tmp_path / "here") == entries(tmp_path / "there") != {}


def test_comparisons_are_the_same(model, two, tmp_path):
    means = model.evaluator(tmp_path).means(CHUNKS)
    here = comparing.stacked(model.evaluator(tmp_path), PLANS, means)
    there = comparing.stacked(model.evaluator(tmp_path, two), PLANS, means)
    assert here.keys() == there.keys() and len(here) == len(PLANS)
    for plan, own in here.items():
        assert all(np.array_equal(a, b) for a, b in zip(own, there[plan], strict=True)), plan.key()


def test_generated_texts_and_judgements_are_the_same(model, two, tmp_path):
    from types import SimpleNamespace

    setup = {"device": "cpu", "backend": "cpu", "model": {"fingerprint": model.fingerprint}}
    setup["parameters"] = {"dtype": "float32"}
    for name, elsewhere in (("here", None), ("there", two.model(model.source))):
        run = SimpleNamespace(model=model.loaded, store=Store(tmp_path / name), setup=setup)
        generator = stored_generation.Generator(run, elsewhere)
        stored_generation.refine(generator, PROMPTS, PLANS[-2:], 4, 3)
        stored_generation.sample(generator, PROMPTS, PLANS[-2:], 5, 12, 0.8, 10)
    assert entries(tmp_path / "here") == entries(tmp_path / "there")
    assert len(entries(tmp_path / "here")) == 2 * 2 + 2 * 2 * 3


def test_training_after_the_replacement_is_the_same(two, tmp_path, monkeypatch):
    folder = tmp_path / "longer"
    tiny_models.gpt2(n_positions=128).save_pretrained(folder)
    loaded, source = loading.load_model(folder), Source(str(folder), loading.fingerprint(folder), "float32", "cpu")
    ids = tiny_models.tokens(1, 4000, seed=3).numpy()[0]
    text = ids, np.arange(len(ids)) // 400
    ranking = [(layer, head) for layer in (1, 2) for head in range(4)]

    def rows(name, elsewhere=None):
        store, folder = Store(tmp_path / name), tmp_path / f"{name}-checkpoints"
        asked = (loaded, ids, text, text, ranking, 256, 16, folder, store, 4, 7)
        return recovery.small_grid(*asked, elsewhere=elsewhere)[0]

    here, there = rows("here"), rows("there", two.model(source))
    assert here == there and [row["n_heads"] for row in here] == [0, 1, 8]
    assert here[2]["points"][-1]["nll"] != here[2]["points"][0]["nll"]
    assert len(entries(tmp_path / "there")) == 3
    monkeypatch.setattr(two, "run", lambda *args: pytest.fail("trained again"))
    assert rows("there", two.model(source)) == here


def test_one_of_two_workers_is_killed_in_the_middle(model, processes, connect, tmp_path):
    processes.scheduler()
    first, second = processes.worker(), processes.worker()
    pool = connect(processes.address)
    until(lambda: len(pool.client.nthreads()) == 2)
    interrupted(model, tmp_path / "store", pool, lambda: kill(first))
    assert entries(tmp_path / "store").items() <= model.serial.items()
    assert model.scored(tmp_path / "store") == model.serial
    assert first.poll() is not None and second.poll() is None


def test_one_that_is_killed_while_it_loads_the_model(model, processes, connect, tmp_path):
    processes.scheduler()
    first, second = processes.worker(), processes.worker()
    pool = connect(processes.address)
    until(lambda: len(pool.client.nthreads()) == 2)

    def kill_while_loading():
        until(lambda: [*pool.client.run(lambda: "torch" in sys.modules).values()] == [True, True])
        kill(second)

    with ThreadPoolExecutor(1) as aside:
        killed = aside.submit(kill_while_loading)
        assert model.scored(tmp_path / "store", pool) == model.serial
        killed.result()
    assert first.poll() is None


def test_one_whose_time_is_over_leaves_its_pieces_to_the_other(model, processes, connect, tmp_path):
    processes.scheduler()
    processes.worker()
    pool = connect(processes.address)
    until(lambda: len(pool.client.nthreads()) == 1)
    leaving = processes.worker("--lifetime", "15s", "--lifetime-stagger", "1s")
    until(lambda: len(pool.client.nthreads()) == 2)
    interrupted(model, tmp_path / "store", pool, lambda: leaving.wait(90))
    assert leaving.returncode == 0 and len(pool.client.nthreads()) == 1
    assert len(entries(tmp_path / "store")) >= len(PLANS) * CHUNKS
    assert model.scored(tmp_path / "store") == model.serial


def test_all_are_killed_and_their_nannies_start_them_anew(model, processes, connect, tmp_path):
    processes.scheduler()
    nannies = [processes.worker(), processes.worker()]
    pool = connect(processes.address)
    until(lambda: len(pool.client.nthreads()) == 2)
    killed = []

    def kill_all():
        killed.extend(own for nanny in nannies for own in workers_of(nanny))
        for own in killed:
            own.kill()

    interrupted(model, tmp_path / "store", pool, kill_all)
    assert len(killed) == 2 and not any(own.is_running() for own in killed)
    assert entries(tmp_path / "store").items() <= model.serial.items()
    assert len(entries(tmp_path / "store")) >= len(PLANS) * CHUNKS


def test_all_are_killed_and_a_late_one_ends_the_work(model, processes, connect, tmp_path):
    processes.scheduler()
    first = [processes.worker(), processes.worker()]
    pool = connect(processes.address)
    until(lambda: len(pool.client.nthreads()) == 2)

    def then():
        for own in first:
            kill(own)
        processes.worker()

    interrupted(model, tmp_path / "store", pool, then)
    assert len(entries(tmp_path / "store")) >= len(PLANS) * CHUNKS
    assert model.scored(tmp_path / "store") == model.serial


def test_one_that_joins_late_takes_its_share(model, processes, connect, tmp_path):
    processes.scheduler()
    processes.worker()
    pool = connect(processes.address)

    def loaded():
        return bool(getattr(sys.modules.get("lib.cluster.worker"), "_held", None))

    def join():
        processes.worker()
        until(lambda: list(pool.client.run(loaded).values()) == [True, True])

    interrupted(model, tmp_path / "store", pool, join)
    done = pool.client.run(lambda dask_worker: dask_worker.state.executed_count)
    assert len(done) == 2 and min(done.values()) > 0 and sum(done.values()) == CHUNKS
    assert model.scored(tmp_path / "store") == model.serial


def test_all_are_killed_and_none_comes(model, processes, connect, tmp_path):
    processes.scheduler()
    first = [processes.worker(), processes.worker()]
    pool = connect(processes.address, wait=3.0)
    until(lambda: len(pool.client.nthreads()) == 2)
    line = line_of(interrupted, model, tmp_path / "store", pool, lambda: [kill(own) for own in first])
    assert f"none at {processes.address} for 3 s" in line and KEPT in line
    finished_by_one_process(model, tmp_path / "store")


def test_the_scheduler_dies(model, processes, connect, tmp_path):
    scheduler = processes.scheduler()
    processes.worker()
    pool = connect(processes.address)
    line = line_of(interrupted, model, tmp_path / "store", pool, lambda: kill(scheduler))
    assert f"the scheduler at {processes.address} is gone" in line and KEPT in line
    finished_by_one_process(model, tmp_path / "store")


def test_nobody_at_the_address(connect):
    assert "no scheduler answers at tcp://127.0.0.1:1 (" in line_of(connect, "tcp://127.0.0.1:1")


def test_a_scheduler_without_workers(model, processes, connect, tmp_path):
    processes.scheduler()
    line = line_of(model.scored, tmp_path / "store", connect(processes.address, wait=1.0))
    assert f"start some with `dask worker {processes.address}`" in line


def other_code(folder):
    """A copy of the project in which a mode computes something else."""
    for name in ("lib", "kernels"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    modes = folder / "lib" / "engine" / "modes.py"
    modes.write_text(modes.read_text(encoding="utf-8") + "\nOTHER = 1\n", encoding="utf-8")
    return {"ROOT": folder, "cwd": folder}


def other_torch(folder):
    (folder / "sitecustomize.py").write_text(
        "import importlib.metadata, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'lib.cluster.worker':\n"
        "            import torch; torch.__version__ = '2.12.9'\n"
        "sys.meta_path.insert(0, Finder())\n",
        encoding="utf-8",
    )
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])}


def other_weights(folder):
    """Another model in the place that the client names."""
    tiny_models.gpt2(seed=5).save_pretrained(folder / "models" / "some")
    return {"cwd": folder}


@pytest.mark.parametrize("other", [other_code, other_torch, other_weights])
def test_a_worker_that_would_compute_something_else_refuses(model, other, processes, connect, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    how = other(tmp_path / "there")
    processes.scheduler()
    process = processes.worker(**how)
    source = model.source
    if other is other_weights:
        source = source._replace(name="models/some")
    pool = connect(processes.address)
    engine = model.evaluator(tmp_path / "store", pool, source)
    line = line_of(engine.score, [plan for plan in PLANS if not plan.needs_means], CHUNKS)
    what = {
        other_code: "code is ",
        other_torch: "torch is 2.12.9 here",
        other_weights: "model models/some has the digest",
    }
    assert "refuses: " in line and what[other] in line
    assert entries(tmp_path / "store") == {}
    told = [own for own in process.log.read_text().splitlines() if own.startswith("worker tcp://")]
    assert len(told) == 1 and what[other] in told[0]


def test_a_late_worker_of_other_code_leaves(model, processes, connect, tmp_path):
    (tmp_path / "there").mkdir()
    processes.scheduler()
    processes.worker()
    pool, late = connect(processes.address), []
    interrupted(
        model,
        tmp_path / "store",
        pool,
        lambda: late.append(processes.worker(**other_code(tmp_path / "there")).wait(60)),
    )
    assert len(late) == 1 and len(pool.client.nthreads()) == 1
    assert len(entries(tmp_path / "store")) >= len(PLANS) * CHUNKS


def test_each_process_has_one_gpu_or_its_threads_before_torch(monkeypatch):
    assert [own["CUDA_VISIBLE_DEVICES"] for own in local.environments(2, "auto", ["3", "5"], 1)] == ["3", "5"]
    assert [own["CUDA_VISIBLE_DEVICES"] for own in local.environments(3, "cpu", ["3", "5"], 4)] == ["", "", ""]
    assert {own["OMP_NUM_THREADS"] for own in local.environments(3, "cpu", [], 4)} == {"4"}
    with pytest.raises(InputError, match="workers: given 3, allowed: at most 2, one for each GPU here"):
        local.environments(3, "cuda", ["3", "5"], 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert local.gpus() == ["3", "5"]
    with opened(2, "auto", n_threads=1) as pool:
        seen = pool.client.run(lambda: (os.environ["CUDA_VISIBLE_DEVICES"], "torch" in sys.modules))
    assert sorted(seen.values()) == [("3", False), ("5", False)]


def test_local_workers_take_orders_with_their_key_only(two):
    assert two.address.startswith("tls://127.0.0.1:")
    folder = Path(os.environ["DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY"]).parent
    assert folder.stat().st_mode & 0o077 == 0
    strangers = {
        two.address: distributed.Security.temporary(),
        two.address.replace("tls", "tcp"): distributed.Security(),
    }
    for address, security in strangers.items():
        with pytest.raises(OSError):
            distributed.Client(address, timeout=2, security=security)


def test_no_process_of_theirs_outlives_the_one_that_asked(tmp_path):
    script = (
        "import sys, time\nfrom lib.cluster.opening import opened\n"
        "with opened(2, 'cpu') as pool:\n"
        "    import os; print(*pool.client.run(os.getpid).values(), flush=True)\n    time.sleep(600)\n"
    )
    import psutil

    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) == 2 and all(psutil.pid_exists(pid) for pid in pids)
    process.kill()
    process.wait()
    until(lambda: not any(psutil.pid_exists(pid) for pid in pids), within=20)


def test_the_bench_keeps_a_ratio_and_what_the_scaling_reckons_with(own_threads, tmp_path, capsys):
    words = ["--chunks", "2", "--plans", "3", "--rounds", "1", "--out", str(tmp_path / "workers.json")]
    with pytest.raises(SystemExit, match="^error: less than 1000x$"):
        workers_bench.main([*words, "--least", "1000"])
    found = json.loads((tmp_path / "workers.json").read_text())
    one, two = found["seconds"].values()
    assert found["same_bytes"] and found["ratio"] == one[0] / two[0] > 0
    assert len(found["pieces_s"]) == 2 and min(found["pieces_s"] + [found["load_s"], found["keep_s"]]) > 0
    scaling.main(["--measured", str(tmp_path / "workers.json")])
    said = capsys.readouterr().out
    assert f"| 2 workers, measured | {two[0]:.1f} |" in said and "\n| 40 | 8 | " in said


def test_the_pipeline_says_in_one_line_that_nobody_answers(build):
    words = pipeline("run", "setup", "--profile", "smoke", "-p", "workers", "tcp://127.0.0.1:1")
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: workers: no scheduler answers at tcp://127.0.0.1:1")
    assert not list(build.rglob("*.json"))
