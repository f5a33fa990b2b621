"""A plan as a file: it comes back as it was, and whatever else stands in the file, one line does."""

import json

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from test_readers import CONTENTS, MANY, VALUES, value_or_line
from tiny_models import gpt2, llama, tokens

from lib.engine.interventions import Plan, apply
from lib.engine.modes import MODES
from lib.errors import InputError
from lib.exchange import plan_file
from lib.exchange.plan_file import PlanFile, Sizes
from lib.model.adapters import adapter

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def file_of(model, *, scale=0.1):
    """One head of every mode, spread over the layers, and means that are nobody's."""
    arch = adapter(model)
    places = [(layer, head) for layer in range(arch.n_layer) for head in range(arch.n_head)]
    plan = Plan(tuple((*at, mode) for at, mode in zip(places, MODES, strict=False)))
    draw = torch.Generator().manual_seed(3)
    means = scale * torch.randn(arch.n_layer, arch.n_head, arch.d_head, generator=draw)
    return PlanFile.of(plan, arch, means), means


@st.composite
def files(draw):
    sizes = Sizes(*(draw(st.integers(1, 4)) for _ in range(3)))
    heads = st.tuples(st.integers(0, sizes.n_layer - 1), st.integers(0, sizes.n_head - 1))
    modes = draw(st.dictionaries(heads, st.sampled_from(sorted(MODES))))
    constant = st.lists(FLOATS, min_size=sizes.d_head, max_size=sizes.d_head).map(torch.tensor)
    bias = {at: draw(constant) for at in modes}
    mean = {at: draw(constant) for at, mode in modes.items() if MODES[mode].needs_means}
    weights = draw(st.none() | st.text("0123456789abcdef", min_size=64, max_size=64))
    return PlanFile(Plan(tuple((*at, mode) for at, mode in modes.items())), sizes, bias, mean, weights)


@given(files())
@MANY
def test_a_plan_comes_back(file):
    again = plan_file.parsed(file.to_json().encode())
    assert (again.plan, again.sizes, again.weights) == (file.plan, file.sizes, file.weights)
    assert again.to_json() == file.to_json()
    for kept, known in ((again.value_bias, file.value_bias), (again.mean, file.mean)):
        assert kept.keys() == known.keys()
        assert all(torch.equal(kept[at], known[at]) for at in known)


@st.composite
def spoilt(draw):
    """A file's content with one value, at any depth, put in another's place."""
    content = json.loads(draw(files()).to_json())
    at = content
    while isinstance(at, (dict, list)) and at:
        key = draw(st.sampled_from(sorted(at)) if isinstance(at, dict) else st.integers(0, len(at) - 1))
        if not isinstance(at[key], (dict, list)) or not at[key] or draw(st.booleans()):
            at[key] = draw(VALUES | st.integers(-2, 600) | st.just("\n") | st.just("\ud800"))
            break
        at = at[key]
    return json.dumps(content).encode()


@given(CONTENTS | spoilt())
@example(b"[" * 100_000)
@example(b'{"format": ' + b"[" * 960 + b"]" * 960 + b"}")
@example(b'{"format": "experiment10-plan/1", "model": {"n_layer": 1' + b"0" * 5000 + b', "n_head": 1}, "heads": []}')
@example(b'{"format": 1, "format": 2}')
@MANY
def test_anything_else_is_one_line(content):
    file = value_or_line(plan_file.parsed, content)
    if file is not None:
        assert plan_file.parsed(file.to_json().encode()).to_json() == file.to_json()


HEAD = {"layer": 1, "head": 0, "mode": "relu", "value_bias": [0.5, 0.25]}


@pytest.mark.parametrize(
    ("heads", "line"),
    [
        ([HEAD | {"mode": "softmin"}], f"L1H0: mode 'softmin' is unknown: choose one of {', '.join(MODES)}"),
        ([HEAD | {"mode": "a\nb"}], "L1H0: mode 'a\\nb' is unknown: choose one of"),
        ([HEAD | {"layer": 3}], "head L3H0 is not in this model: layers are 0 to 2, heads 0 to 3"),
        ([HEAD | {"head": 4}], "head L1H4 is not in this model: layers are 0 to 2, heads 0 to 3"),
        ([HEAD | {"head": -1}], "heads/0/head: -1 is less than the minimum of 0"),
        ([HEAD, HEAD | {"mode": "zero"}], "head L1H0 stands twice in one plan: name each head once"),
        ([HEAD | {"value_bias": [0.5]}], "L1H0: value_bias holds 1 numbers, this model needs 2"),
        ([HEAD | {"value_bias": [[0.5, 0.5]]}], "heads/0/value_bias/0: [0.5, 0.5] is not of type 'number'"),
        ([HEAD | {"value_bias": [0.5, 1e39]}], "L1H0: value_bias holds NaN, infinity or a number beyond float32"),
        ([HEAD | {"value_bias": [0.5, float("nan")]}], "L1H0: value_bias holds NaN, infinity or a number"),
        ([HEAD | {"mode": "mean"}], "L1H0: mode 'mean' takes the head's mean, but none is given"),
        ([HEAD | {"mean": [1, 2]}], "L1H0: mode 'relu' takes no mean, but one is given"),
        ([HEAD | {"mode": "mean", "mean": [1, 2, 3]}], "L1H0: mean holds 3 numbers, this model needs 2"),
        ([HEAD | {"strength": 1}], "heads/0: Additional properties are not allowed ('strength' was unexpected)"),
    ],
)
def test_what_is_wrong_is_named(heads, line):
    sizes = {"n_layer": 3, "n_head": 4, "d_head": 2}
    content = json.dumps({"format": plan_file.FORMAT, "model": sizes, "heads": heads}).encode()
    with pytest.raises(InputError) as told:
        plan_file.parsed(content, "plan.json")
    assert str(told.value).startswith(f"plan.json: {line}")


def test_a_key_that_stands_twice_is_refused():
    with pytest.raises(InputError, match="plan: no plan .a key stands twice in one object."):
        plan_file.parsed(b'{"heads": [], "heads": []}')


def test_a_plan_read_back_does_the_same(tmp_path):
    model = gpt2()
    file, means = file_of(model)
    file.write(tmp_path / "plan.json")
    again = plan_file.read(tmp_path / "plan.json")
    again.check(adapter(model))
    with torch.no_grad(), apply(model, file.plan, means):
        expected = model(tokens().long()).logits
    with torch.no_grad(), apply(model, again.plan, again.means):
        assert torch.equal(model(tokens().long()).logits, expected)


def test_a_file_is_told_from_another_models():
    file, _ = file_of(gpt2())
    with pytest.raises(InputError, match="for a model of 3 layers of 4 heads of 8, given one of 2 layers"):
        file.check(adapter(gpt2(n_layer=2)))
    with pytest.raises(InputError, match="for other weights: the value bias of L0H0 differs"):
        file.check(adapter(gpt2(seed=1)))


def test_what_is_not_there_is_one_line(tmp_path):
    with pytest.raises(InputError, match="none.json: can't be read"):
        plan_file.read(tmp_path / "none.json")
    with pytest.raises(InputError, match="but none were given"):
        PlanFile.of(Plan.of("mean", [(0, 0)]), adapter(llama()))
    assert not list(tmp_path.iterdir())
