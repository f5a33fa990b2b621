"""The store can't lie: a score belongs to the sources, libraries and processor that computed it."""

import pytest
import scratch
import torch
from tiny_models import gpt2, tokens

from lib.engine import computed_by
from lib.engine.interventions import Plan
from lib.engine.scoring import Evaluator
from lib.store import Store

RUN = """
import json, sys
from types import SimpleNamespace
import numpy as np
from tiny_models import gpt2, tokens
from lib.engine import stored_generation
from lib.engine.interventions import Plan
from lib.engine.scoring import Evaluator
from lib.store import Store

store, relu = Store(sys.argv[1]), Plan.of("relu", [(0, 1), (1, 0), (1, 2)])
generate, calls = stored_generation.generate, []
stored_generation.generate = lambda *args, **settings: calls.append(1) or generate(*args, **settings)
found = {"computed": {}, "numbers": {}}
for backend in ("cpu", "naive"):
    engine = Evaluator(gpt2(), tokens(), store, model_key="random", backend=backend)
    computed = len(engine.missing([relu], 3)), len(engine.missing([Plan()], 3))
    scores = engine.score([Plan(), relu], 3)
    setup = {"parameters": {"dtype": "float32"}, "model": {"fingerprint": "f"}, "backend": backend, "device": "cpu"}
    generator = stored_generation.Generator(SimpleNamespace(model=gpt2(), store=store, setup=setup))
    texts = generator.continue_texts(tokens(2, 9).numpy(), 12, relu)
    found["computed"][backend] = [*computed, len(calls)]
    found["numbers"][backend] = {
        "baseline": scores[Plan()].tolist(), "relu": scores[relu].tolist(), "texts": texts.tolist()
    }
    calls.clear()
json.dump(found, sys.stdout)
"""
SQUARED = {
    "lib/engine/modes.py": [("Weights(torch.relu, kernel=True)", "Weights(lambda s: s.relu() ** 2, kernel=True)")],
    "kernels/naive.py": [("torch.relu(scores)", "torch.relu(scores).square()")],
    "kernels/cpu.py": [("w.relu_()\n", "w.relu_().square_()\n")],
}
IN_OTHER_WORDS = {
    "lib/engine/modes.py": [
        ("The modes: what can be done to a head.", "What can be done."),
        ("CLAMP =", "# c\nCLAMP ="),
    ],
    "kernels/naive.py": [("The definition, as plainly as it can be written", "The definition")],
}


def test_another_relu_gives_other_numbers_and_the_old_one_its_old_numbers(tmp_path):
    """ReLU squared in the sources, and back: nobody raises a version, and nothing is computed twice."""
    copy, store = scratch.copied(tmp_path / "copy"), tmp_path / "store"
    everything = {"cpu": [3, 3, 1], "naive": [3, 0, 1]}  # ReLU's scores, the baseline's that no kernel computes, texts
    first = scratch.ran(copy, RUN, store)
    assert first["computed"] == everything

    scratch.edited(copy, SQUARED)
    squared = scratch.ran(copy, RUN, store)
    assert squared["computed"] == everything
    for backend, numbers in first["numbers"].items():
        other = squared["numbers"][backend]
        assert other["baseline"] == numbers["baseline"]
        assert other["relu"] != numbers["relu"] and other["texts"] != numbers["texts"]

    scratch.edited(copy, {path: [(new, old) for old, new in pairs] for path, pairs in SQUARED.items()})
    scratch.edited(copy, IN_OTHER_WORDS)
    back = scratch.ran(copy, RUN, store)
    assert back["computed"] == {"cpu": [0, 0, 0], "naive": [0, 0, 0]}
    assert back["numbers"] == first["numbers"]


def missing(store, **settings):
    plans = [Plan.of(mode, [(1, 0)]) for mode in ("relu", "l1")]
    jobs = Evaluator(gpt2(), tokens(), store, model_key="random", **settings).missing(plans, 1)
    return {mode for job in jobs for *_, mode in job.heads}


@pytest.mark.parametrize(
    "place, name, value",
    [
        (torch, "__version__", "9.9.9"),
        (torch.backends.cpu, "get_cpu_capability", lambda: "ABACUS"),
        (computed_by, "version", lambda package: "9.9.9"),
    ],
    ids=["torch", "processor", "transformers"],
)
def test_another_machine_computes_for_itself(tmp_path, monkeypatch, place, name, value):
    store = Store(tmp_path)
    engine = Evaluator(gpt2(), tokens(), store, model_key="random")
    engine.score([Plan.of(mode, [(1, 0)]) for mode in ("relu", "l1")], 1)
    assert missing(store) == set()
    monkeypatch.setattr(place, name, value)
    assert missing(store) == {"relu", "l1"}


def test_a_kernel_stands_in_the_key_of_what_it_computes_only(tmp_path):
    store = Store(tmp_path)
    Evaluator(gpt2(), tokens(), store, model_key="random", backend="cpu").score(
        [Plan.of(mode, [(1, 0)]) for mode in ("relu", "l1")], 1
    )
    assert missing(store, backend="naive") == {"relu"}


def test_the_sources_are_those_that_decide_a_score():
    """Adapters, every backend and Metal's own source are in; the progress bar is not."""
    found = computed_by.sources("lib.engine.scoring")
    assert {"kernels.naive", "kernels.cpu", "kernels.metal", "kernels.triton_forward"} <= set(found)
    assert {"lib.engine.modes", "lib.engine.interventions", "lib.model.adapters"} <= set(found)
    assert "lib.progress" not in found and "lib.engine.generation" not in found
    assert "lib.engine.generation" in computed_by.sources("lib.engine.generation")
